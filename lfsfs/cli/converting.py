"""encrypt and decrypt: what lies in a bucket, or on the local disk, in its place."""

import argparse
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lfsfs.cli import output
from lfsfs.cli.encrypted import Place, add_only, bucket_of, one_place, places_of, remember
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, chosen_store, with_store
from lfsfs.config import parse_encryption_key
from lfsfs.errors import InvalidConfig
from lfsfs.store.layout import has_keys, open_layout
from lfsfs.units import format_size

if TYPE_CHECKING:
    from lfsfs.store.sealing import Sealed
    from lfsfs.store.store import Store
    from lfsfs.tiers.conversion import Converted

PARALLEL = 4
SPARE_SECONDS = 5.0  # for a request that was on its way when a machine last looked


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    encrypt = commands.add_parser(
        "encrypt",
        help="encrypt what lies in a bucket, or on the local disk, plain",
        description="Encrypts, in its place, what was in a bucket before it was encrypted, and what was on the local"
        " disk. May be ended and begun again, beside a mount too. With --store-key, the local disk begins to be"
        " encrypted, while nothing has the store mounted. Exits with 1 where something is damaged, and stays plain.",
    )
    encrypt.add_argument(
        "--store-key", metavar="SOURCE", type=option(parse_encryption_key),
        help="encrypt the local disk from now on: file:/PATH, env:VARIABLE, command:NAME:PROGRAM or kms:KEY",
    )  # fmt: skip
    add_only(encrypt)
    add_options(encrypt)
    encrypt.set_defaults(run=run_encrypt)
    decrypt = commands.add_parser(
        "decrypt",
        help="decrypt an encrypted bucket, or local disk, for good",
        description="Decrypts, in its place, all that lies in an encrypted bucket, or on an encrypted local disk: the"
        " opposite of `lfsfs encrypt`. From its beginning on, what any machine writes there is plain. May be ended and"
        " begun again. Of a bucket, it waits for a minute first, until every machine knows; of the local disk, it begins"
        " while nothing has the store mounted. Afterwards no machine needs the master key any more: take it away from"
        " their configuration. Exits with 1 where something is damaged, and stays encrypted.",
    )
    add_only(decrypt)
    add_options(decrypt)
    decrypt.set_defaults(run=run_decrypt)


def run_encrypt(arguments: argparse.Namespace) -> int:
    """Converts, and says what was done."""
    from lfsfs.tiers.conversion import convert

    if arguments.store_key is not None:
        if arguments.only == "bucket":
            raise InvalidConfig("--store-key is of the local disk: it does not go with --only bucket")
        _begin(chosen_store(arguments.store), arguments.store_key)

    async def run(store: "Store") -> _Done:
        places = [arguments.only] if arguments.only else places_of(store)
        if not places:
            raise InvalidConfig(
                f"nothing of {store.layout.path} is to be encrypted: give --store-key SOURCE for the local disk,"
                " or mount with --encryption-key for the bucket"
            )
        done = _Done()
        if "local" in places:
            done.add_local(await _convert_local(store, seals=True))
        if "bucket" in places:
            done.add(await convert(await bucket_of(store), store.staging.place, PARALLEL))
        return done

    return _tell(arguments, with_store(arguments, run, busy="encrypt"), "encrypted")


def _begin(path: Path, source: str) -> None:
    """From now on what comes to the store is encrypted."""
    from lfsfs.store import keys

    layout = open_layout(path, create=False)
    if not has_keys(layout.path):
        keys.create(layout.path, source)
        return
    keys.leave(layout.path, keys.load(layout.path, source, keep=True), leaving=False)


async def _convert_local(store: "Store", *, seals: bool) -> "Sealed":
    from lfsfs.store.sealing import convert
    from lfsfs.tiers.encryption import EncryptedTier

    if not isinstance(store.tier, EncryptedTier):
        raise InvalidConfig(f"the local disk of {store.layout.path} is not encrypted")
    if seals != store.tier.seals:
        raise InvalidConfig(
            "the local disk is being decrypted: end that first, by `lfsfs decrypt`, or take it back, by"
            " `lfsfs encrypt --store-key SOURCE`"
        )
    return await convert(store, store.tier, PARALLEL, seals=seals)


def run_decrypt(arguments: argparse.Namespace) -> int:
    """Converts the other way round, and says what was done."""
    path = chosen_store(arguments.store)
    place = with_store(arguments, _place_to_decrypt(arguments.only))
    if place == "local":
        from lfsfs.store import keys

        keys.leave(path, keys.load(path))
        done = _Done()
        done.add_local(
            with_store(arguments, lambda store: _convert_local(store, seals=False), busy="decrypt")
        )
        return _tell(arguments, done, "decrypted")
    return _tell(arguments, with_store(arguments, _decrypt_bucket, busy="decrypt"), "decrypted")


def _place_to_decrypt(only: Place | None) -> "Callable[[Store], Awaitable[Place]]":
    async def find(store: "Store") -> Place:
        return one_place(store, only)

    return find


async def _decrypt_bucket(store: "Store") -> "_Done":
    from lfsfs.tiers import bucket as tiers
    from lfsfs.tiers.conversion import revert

    async def settle() -> None:
        seconds = tiers.LOOK_SECONDS + SPARE_SECONDS
        output.note(f"waiting for {seconds:.0f} s, until every machine on the bucket knows of it")
        await trio.sleep(seconds)

    done = _Done()
    try:
        bucket = await bucket_of(store)
        done.add(await revert(bucket, store.staging.place, PARALLEL, settle))
        left = await bucket.settings()
    except tiers.Decrypted:  # by a run that was cut off, or on another machine
        left = None
    if left is None or not left.is_encrypted:
        remember(store, None)
    return done


@dataclass
class _Done:
    """What was converted, wherever."""

    objects: int = 0
    bytes: int = 0
    notes: int = 0
    damaged: list[str] = field(default_factory=list)

    def add(self, done: "Converted") -> None:
        self.objects += done.objects
        self.bytes += done.bytes
        self.notes += done.notes
        self.damaged += [*sorted(done.damaged), *done.damaged_notes]

    def add_local(self, done: "Sealed") -> None:
        self.objects += done.objects
        self.bytes += done.bytes
        self.damaged += sorted(done.damaged)


def _tell(arguments: argparse.Namespace, done: _Done, what: str) -> int:
    if arguments.json:
        output.as_json(asdict(done))
    else:
        output.line(f"{what}: {done.objects} objects ({format_size(done.bytes)}), {done.notes} notes")
        for name in done.damaged:
            output.note(f"{name} is damaged, and stays as it is: see `lfsfs verify`")
    return output.FAILED if done.damaged else output.DONE
