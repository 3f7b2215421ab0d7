"""Links: where a client fetches an object's bytes, and where it sends them. The seam for transfers past the server."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from lfsfs.errors import HashMismatch, NotFound
from lfsfs.oid import Oid, digests
from lfsfs.server.access.access import Action, Identity
from lfsfs.server.tickets import Ticket, Tickets
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.references import Repository, find_repository
from lfsfs.store.store import Store

Link = dict[str, object]
"""An action of a batch answer, as the API says it."""
Actions = dict[str, Link]
"""What may be done with one object, by name: "download", "upload", "verify"."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a batch is about: the repository, its URL (without a slash at the end), who asks, and how they transfer."""

    repository: str
    url: str
    identity: Identity
    transfer: str = "basic"


class Links(Protocol):
    """Makes the actions of a batch, and settles what was uploaded. Whether somebody may is decided already."""

    async def downloads(self, place: Place, objects: Sequence[tuple[Oid, int]]) -> list[Actions]:
        """For each of these objects, oid and size, "download". The repository refers to them, and has them."""

    async def upload(self, place: Place, oid: Oid, size: int) -> Actions:
        """ "upload", and "verify" where the client is to say when it is done."""

    async def settle(self, repository: str, oid: Oid, size: int, parcel: str) -> None:
        """The verify action: returns when the repository refers to the object, and the store has it, whole and durable.

        `parcel`: what the ticket says of an upload that did not come through us.

        NotFound where nothing was uploaded; HashMismatch where it was something else. Repeating is harmless.
        """

    async def run(self) -> None:
        """What is to be done while the server runs; it is cancelled when that ends."""


class LocalLinks:
    """Through this server: each action with a ticket for its one object."""

    def __init__(self, store: Store, tickets: Tickets, lifetime: float) -> None:
        self._store = store
        self._tickets = tickets
        self._series = lru_cache(maxsize=64)(tickets.series)  # the objects of one batch share nearly all
        self._lifetime = lifetime

    async def downloads(self, place: Place, objects: Sequence[tuple[Oid, int]]) -> list[Actions]:
        expires = int(time.time() + self._lifetime)
        make = self._tickets.series("read", place.repository, place.identity.name, expires)
        begun, until = f"{place.url}/objects/", validity(expires)
        return [
            {
                "download": {
                    "href": begun + oid,
                    "header": {"Authorization": make(key, size)},
                    **until,
                }
            }
            for (oid, size), key in zip(objects, digests([oid for oid, _ in objects]), strict=True)
        ]

    async def upload(self, place: Place, oid: Oid, size: int) -> Actions:
        way = "uploads" if place.transfer == "tus" else "objects"
        return {
            "upload": self._link(place, way, "write", oid, size),
            "verify": self._link(place, "verify", "write", oid, size),
        }

    def verify(self, place: Place, ticket: Ticket) -> Link:
        """The verify action for what was uploaded past this server."""
        header = {"Authorization": self._tickets.header(ticket)}
        return link(f"{place.url}/verify/{ticket.oid}", header, ticket.expires)

    async def settle(self, repository: str, oid: Oid, size: int, parcel: str = "") -> None:
        row = held(self._store, repository, oid)
        if row is None:
            raise NotFound(f"{repository[1:]} has no object {oid}")
        if row.size != size:
            raise HashMismatch(f"the object {oid} has {row.size} bytes, not {size}")

    async def run(self) -> None:
        """Nothing."""

    def _link(self, place: Place, way: str, action: Action, oid: Oid, size: int) -> Link:
        expires = int(time.time() + self._lifetime)
        make = self._series(action, place.repository, place.identity.name, expires)
        return link(f"{place.url}/{way}/{oid}", {"Authorization": make(oid.to_bytes(), size)}, expires)


def link(href: str, header: dict[str, str], expires: int) -> Link:
    """`expires`: seconds since 1970."""
    return {"href": href, "header": header, **validity(expires)}


def validity(expires: int) -> Link:
    """Until when a link is good, as the API says it."""
    return {"expires_in": max(1, expires - int(time.time())), "expires_at": _rfc3339(expires)}


@lru_cache(maxsize=16)
def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def held(store: Store, repository: str, oid: Oid) -> ObjectStat | None:
    """The object's row, if the repository of this name refers to it."""
    found = find(store, repository)
    if found is None or not store.references.has(found.id, oid):
        return None
    return store.lookup(oid)


def find(store: Store, repository: str) -> Repository | None:
    """The repository of this name, if it is there."""
    return store.index.view(lambda tx: find_repository(tx, repository))
