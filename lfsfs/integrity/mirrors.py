"""Tables of the index that mirror others: each entry follows from a row, and each row has its entries.

Pure functions of one row, or one entry: mirrors.py knows the tables, tables.py compares them. Layout: docs/FORMAT.md.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from lfsfs.store import catalog, names, packs, residents
from lfsfs.store.catalog import u64
from lfsfs.store.index import Tx

Entry = tuple[str, bytes, bytes]
"""Table, key and value."""
UNREADABLE = (struct.error, ValueError, IndexError)
"""What decoding a damaged row raises."""
_OID, _NUMBER = 32, 8


@dataclass(frozen=True, slots=True)
class Source:
    """Where an entry comes from. `row`: the key of its row. `restore`: the row that is put back where it is lost, since
    the entry tells all of it; None: then the entry goes.
    """

    row: Callable[[bytes, bytes], bytes]
    restore: Callable[[Tx, bytes], bytes | None] | None = None


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A table with rows, and what follows from each: `entries`; the tables that these are in: `mirrors`."""

    table: str
    entries: Callable[[bytes, bytes], list[Entry]]
    mirrors: dict[str, Source]


def _of_object(key: bytes, value: bytes) -> list[Entry]:
    row = catalog.decode_row(key, value)
    return [(table, entry, b"") for table, entry in catalog.entries(row)]


def _of_reference(key: bytes, value: bytes) -> list[Entry]:
    if len(key) != 4 + _OID or len(value) != _NUMBER:
        raise ValueError("a reference of another length")
    return [("references_by_oid", key[4:] + key[:4], b"")]


def _of_resident(key: bytes, value: bytes) -> list[Entry]:
    return [("by_used", u64(residents.decode(key, value).used) + key, b"")]


def _of_pack(key: bytes, value: bytes) -> list[Entry]:
    pack = packs.decode(key, value)
    return [] if pack.state == "dropped" else [("packs_by_oid", pack.oid.to_bytes(), key)]


def _of_inode(key: bytes, value: bytes) -> list[Entry]:
    inode = names.decode_inode(int.from_bytes(key, "big"), value)
    return [("names_by_oid", inode.oid.to_bytes() + key, b"")] if inode.kind == "file" else []


def _of_name(key: bytes, value: bytes) -> list[Entry]:
    parent, name = key[:_NUMBER], key[_NUMBER:]
    if len(value) != _NUMBER or not name:
        raise ValueError("a name of another length")
    return [("parents", value + parent + name, b""), ("by_name", names.search_key(name) + b"\0" + value, b"")]


def _reference_of(tx: Tx, key: bytes) -> bytes | None:
    """A reference that is half there is one: it keeps an object alive."""
    number = int.from_bytes(key[_OID:], "big")
    known = any(int.from_bytes(value[:4], "big") == number for _, value in tx.scan("repositories"))
    return u64(time.time_ns()) if known else None


def _name_of(tx: Tx, key: bytes) -> bytes | None:
    """A name whose inode is there is one."""
    return key[:_NUMBER] if tx.get("inodes", key[:_NUMBER]) is not None else None


def _last_oid(key: bytes, _: bytes) -> bytes:
    return key[-_OID:]


MIRRORED = (
    Mirrored(
        "objects", _of_object,
        {table: Source(_last_oid) for table in ("by_created", "by_accessed", "by_size", "by_type")},
    ),
    Mirrored(
        "references", _of_reference,
        {"references_by_oid": Source(lambda key, _: key[_OID:] + key[:_OID], _reference_of)},
    ),
    Mirrored("residents", _of_resident, {"by_used": Source(_last_oid)}),
    Mirrored("packs", _of_pack, {"packs_by_oid": Source(lambda _, value: value)}),
    Mirrored("inodes", _of_inode, {"names_by_oid": Source(lambda key, _: key[_OID:])}),
    # An entry of `by_name` does not say in which directory its name is: it is looked for by its inode, below.
    Mirrored("entries", _of_name, {"parents": Source(lambda key, _: key[_NUMBER:], _name_of)}),
)  # fmt: skip
