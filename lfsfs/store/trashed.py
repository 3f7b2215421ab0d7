"""The rows of the trash: objects that were taken out of the store and can be restored. Functions over a transaction.

A row says when the object went, and where its bytes are: in a file below STORE/trash, or in the remote tier, where they
stay under the name of the object until the trash is emptied. Committing the object anew takes its row away, so that the
bytes in the remote tier are an object's again. Layout of keys and values: docs/FORMAT.md.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from lfsfs.oid import Oid
from lfsfs.store.index import Tx

TABLE = "trash"
Reason = Literal["gc", "rm", "unlink", "infected", "pack"]
"""What has taken it out: garbage collection, `lfsfs rm`, an unlink in the mount, a scanner."""
_REASONS: tuple[Reason, ...] = ("gc", "rm", "unlink", "infected", "pack")
_ROW = struct.Struct(">QQBB")  # when, size, bits: 1 a file, 2 the remote tier; reason
_MARK = struct.Struct(">QB")
_SECOND_NS = 10**9


@dataclass(frozen=True, slots=True)
class Trashed:
    """`when`: nanoseconds since 1970. `size`: of the object, bytes. `file`, `remote`: where its bytes are."""

    oid: Oid
    when: int
    size: int
    file: bool
    remote: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class Held:
    """Objects, and their bytes, that the trash has on the local disk; and objects that it has in the bucket."""

    objects: int
    bytes: int
    remote: int


def put(tx: Tx, row: Trashed) -> None:
    bits = row.file | row.remote << 1
    tx.put(TABLE, row.oid.to_bytes(), _ROW.pack(row.when, row.size, bits, _REASONS.index(row.reason)))


def get(tx: Tx, oid: Oid) -> Trashed | None:
    value = tx.get(TABLE, oid.to_bytes())
    return None if value is None else _decode(oid, value)


def forget(tx: Tx, oid: Oid) -> None:
    """It is an object again, or gone for good. Absent is success."""
    tx.delete(TABLE, oid.to_bytes())


def every(tx: Tx, after: Oid | None = None) -> Iterator[Trashed]:
    """Ascending by oid."""
    start = b"" if after is None else after.to_bytes() + b"\0"
    for key, value in tx.scan(TABLE, start=start):
        yield _decode(Oid.from_bytes(key), value)


def folder(trash: Path, when: int) -> Path:
    """Where what went at this time lies: a directory a day, by UTC."""
    return trash / datetime.fromtimestamp(when // _SECOND_NS, UTC).strftime("%Y-%m-%d")


def held(tx: Tx) -> Held:
    """What all of the trash holds."""
    local = remote = size = 0
    for key, value in tx.scan(TABLE):
        row = _decode(Oid.from_bytes(key), value)
        local, remote = local + row.file, remote + row.remote
        size += row.size if row.file else 0
    return Held(local, size, remote)


def encode_mark(when: int, reason: Reason) -> bytes:
    """What the mark of a deletion says of one that leads to the trash."""
    return _MARK.pack(when, _REASONS.index(reason))


def decode_mark(value: bytes) -> tuple[int, Reason]:
    when, reason = _MARK.unpack(value)
    return when, _REASONS[reason]


def _decode(oid: Oid, value: bytes) -> Trashed:
    when, size, bits, reason = _ROW.unpack(value)
    return Trashed(oid, when, size, bool(bits & 1), bool(bits & 2), _REASONS[reason])
