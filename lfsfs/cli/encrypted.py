"""What of a store is encrypted, its bucket or its local disk, and which of the two a command means."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from lfsfs.errors import InvalidConfig
from lfsfs.store import attachment
from lfsfs.store.layout import has_keys

if TYPE_CHECKING:
    from lfsfs.store.store import Store
    from lfsfs.tiers.bucket import Bucket

Place = Literal["bucket", "local"]
PLACES = get_args(Place)


def add_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", choices=PLACES, help="the bucket, or the local disk (where both are encrypted)"
    )


def places_of(store: "Store") -> list[Place]:
    """What of the store is encrypted."""
    local: list[Place] = ["local"] if has_keys(store.layout.path) else []
    return [*local, "bucket"] if store.remote is not None and (names_key(store) or not local) else local


def one_place(store: "Store", only: Place | None) -> Place:
    """InvalidConfig where both are encrypted, and nobody says which is meant."""
    places = places_of(store)
    if only is not None:
        return only
    if len(places) > 1:
        raise InvalidConfig(
            "both the bucket and the local disk are encrypted: give --only bucket or --only local"
        )
    return places[0] if places else "bucket"


def names_key(store: "Store") -> bool:
    """Whether the store was mounted with a key of its bucket."""
    attached = attachment.load(store.layout.path)
    return attached is not None and attached[0].encryption_key is not None


async def bucket_of(store: "Store") -> "Bucket":
    from lfsfs.tiers.bucket import Bucket

    if store.remote is None:
        raise InvalidConfig(f"{store.layout.path} has no S3: there is no bucket to be encrypted")
    tier = await store.remote.tier()
    assert isinstance(tier, Bucket)
    return tier


def remember(store: "Store", key: str | None) -> None:
    """The store's next mount uses this key, or none, unless a configuration file names another."""
    attached = attachment.load(store.layout.path)
    if attached is not None:
        s3, cache = attached
        attachment.save(store.layout.path, (replace(s3, encryption_key=key), cache))
