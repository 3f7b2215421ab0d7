"""Residents: the objects on the local disk that the remote tier has too, and when each was last used.

What waits for its upload is no resident yet, so a resident may be evicted at any time. A row comes before the file
and goes after it: one without a file is found out at the next open. Functions over a transaction. Layout of keys and
values: docs/FORMAT.md.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lfsfs.errors import NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, unrecorded
from lfsfs.store.index import Tx

DISK_BLOCK_BYTES = 4096
_ROW = struct.Struct(">QQ")  # last used (ns since 1970), bytes on disk
_BYTES = b"resident_bytes"


@dataclass(frozen=True, slots=True)
class Resident:
    """`used`: nanoseconds since 1970. `room`: bytes that it takes on disk."""

    oid: Oid
    used: int
    room: int


def room_of(size: int) -> int:
    """The bytes that a file of this size takes on disk."""
    return -(-size // DISK_BLOCK_BYTES) * DISK_BLOCK_BYTES


def get(tx: Tx, oid: Oid) -> Resident | None:
    value = tx.get("residents", oid.to_bytes())
    return None if value is None else decode(oid.to_bytes(), value)


def decode(key: bytes, value: bytes) -> Resident:
    """The resident of a row of the table."""
    return Resident(Oid.from_bytes(key), *_ROW.unpack(value))


def add(tx: Tx, oid: Oid, size: int, used: int) -> None:
    """`size`: that of its file. Repeating is harmless: only the time of use moves on."""
    present = get(tx, oid)
    if present is not None:
        _write(tx, present, used)
        return
    catalog.add(tx, _BYTES, room_of(size))
    _write(tx, Resident(oid, used, room_of(size)), used)


def touch(tx: Tx, oid: Oid, used: int) -> None:
    """It was used just now. Nothing where it is no resident."""
    present = get(tx, oid)
    if present is not None:
        _write(tx, present, used)


def drop(tx: Tx, oid: Oid) -> bool:
    """Whether it was a resident."""
    present = get(tx, oid)
    if present is None:
        return False
    key = oid.to_bytes()
    tx.delete("residents", key)
    tx.delete("by_used", catalog.u64(present.used) + key)
    catalog.add(tx, _BYTES, -present.room)
    return True


def least_recently_used(tx: Tx) -> Iterator[Oid]:
    for key, _ in tx.scan("by_used"):
        yield Oid.from_bytes(key[8:])


def total(tx: Tx) -> int:
    """The bytes on disk of all residents."""
    return catalog.counter(tx, _BYTES)


def _write(tx: Tx, row: Resident, used: int) -> None:
    key = row.oid.to_bytes()
    tx.delete("by_used", catalog.u64(row.used) + key)
    tx.put("residents", key, _ROW.pack(used, row.room))
    tx.put("by_used", catalog.u64(used) + key, b"")


# Pins: objects that are never evicted.


def pin(tx: Tx, oids: Iterable[Oid]) -> None:
    """NotFound where one of them is being deleted just now."""
    for oid in oids:
        row = catalog.get(tx, oid)
        if row is not None and row.state == "deleting":
            raise NotFound(f"no object {oid}")
        tx.put("pins", oid.to_bytes(), b"")
        unrecorded.mark_oid(tx, oid.to_bytes())


def unpin(tx: Tx, oid: Oid) -> bool:
    """Whether it was pinned."""
    unrecorded.mark_oid(tx, oid.to_bytes())
    return tx.delete("pins", oid.to_bytes())


def is_pinned(tx: Tx, oid: Oid) -> bool:
    return tx.get("pins", oid.to_bytes()) is not None


def pins(tx: Tx) -> list[Oid]:
    return [Oid.from_bytes(key) for key, _ in tx.scan("pins")]
