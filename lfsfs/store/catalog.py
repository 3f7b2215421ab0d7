"""The rows of objects: one per oid, with the indexes that make listing fast and the totals that make counting free.

Functions over a transaction; who calls them decides which one. Layout of keys and values: docs/FORMAT.md.
"""

import struct
from dataclasses import dataclass

from lfsfs.oid import Oid
from lfsfs.store.index import Tx

WHOLE, CORRUPT, DELETING = 0, 1, 2
STATES = ("whole", "corrupt", "deleting")
_ROW = struct.Struct(">BIQQQ")  # state, mode, size, created, accessed; then the content type in UTF-8
_HEAD = struct.Struct(">BIQ")
_U64 = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What the store knows of an object. Times are nanoseconds since 1970, sizes bytes."""

    oid: Oid
    size: int
    created: int
    accessed: int
    mode: int
    content_type: str
    state: str

    @property
    def blocks(self) -> int:
        """How many 1 MiB blocks have a digest."""
        return -(-self.size // (1 << 20))


def u64(number: int) -> bytes:
    return _U64.pack(number)


def encode_row(row: ObjectStat) -> bytes:
    head = _ROW.pack(STATES.index(row.state), row.mode, row.size, row.created, row.accessed)
    return head + row.content_type.encode()


def decode_row(key: bytes, value: bytes) -> ObjectStat:
    return decode_row_of(Oid.from_bytes(key), value)


def decode_row_of(oid: Oid, value: bytes) -> ObjectStat:
    state, mode, size, created, accessed = _ROW.unpack_from(value)
    content_type = value[_ROW.size :].decode()
    return ObjectStat(oid, size, created, accessed, mode, content_type, STATES[state])


def state_and_size(value: bytes) -> tuple[str, int]:
    """All that a batch looks at of a row."""
    state, _, size = _HEAD.unpack_from(value)
    return STATES[state], size


def get(tx: Tx, oid: Oid) -> ObjectStat | None:
    """The row, whatever its state."""
    key = oid.to_bytes()
    value = tx.get("objects", key)
    return None if value is None else decode_row(key, value)


def digests(tx: Tx, oid: Oid) -> bytes:
    """The BLAKE3 digests of the 1 MiB blocks, 32 bytes each, one after another."""
    return tx.get("digests", oid.to_bytes()) or b""


def put(tx: Tx, row: ObjectStat, block_digests: bytes | None = None) -> None:
    """Writes the row in place of any older one, and its index entries; digests only where given."""
    key = row.oid.to_bytes()
    old = get(tx, row.oid)
    if old is not None:
        _drop_entries(tx, old)
        _count(tx, -1, -old.size)
    tx.put("objects", key, encode_row(row))
    if block_digests is not None:
        tx.put("digests", key, block_digests)
    for table, entry in entries(row):
        tx.put(table, entry, b"")
    _count(tx, 1, row.size)


def delete(tx: Tx, oid: Oid) -> bool:
    """Removes the row with all its entries; whether there was one."""
    row = get(tx, oid)
    if row is None:
        return False
    _drop_entries(tx, row)
    tx.delete("objects", oid.to_bytes())
    tx.delete("digests", oid.to_bytes())
    _count(tx, -1, -row.size)
    return True


def forget_digests(tx: Tx, oid: Oid) -> None:
    """They turned out to be wrong, and are looked for again."""
    tx.delete("digests", oid.to_bytes())


def type_prefix(content_type: str) -> bytes:
    return content_type.encode()[:255] + b"\0"


def entries(row: ObjectStat) -> list[tuple[str, bytes]]:
    """The tables, and the keys there, by which the row is found."""
    key = row.oid.to_bytes()
    return [
        ("by_created", u64(row.created) + key),
        ("by_accessed", u64(row.accessed) + key),
        ("by_size", u64(row.size) + key),
        ("by_type", type_prefix(row.content_type) + u64(row.created) + key),
    ]


def _drop_entries(tx: Tx, row: ObjectStat) -> None:
    for table, entry in entries(row):
        tx.delete(table, entry)


# Totals.


def totals(tx: Tx) -> tuple[int, int]:
    """How many objects, and how many bytes."""
    return counter(tx, b"objects"), counter(tx, b"bytes")


def _count(tx: Tx, objects: int, size: int) -> None:
    add(tx, b"objects", objects)
    add(tx, b"bytes", size)


def counter(tx: Tx, name: bytes) -> int:
    value = tx.get("meta", name)
    return 0 if value is None else int(_U64.unpack(value)[0])


def add(tx: Tx, name: bytes, amount: int) -> int:
    """Adds to a named counter; its new value."""
    value = counter(tx, name) + amount
    tx.put("meta", name, u64(value))
    return value
