"""Shards: a machine's references and names as bytes, for the remote tier. Layout: docs/FORMAT.md.

A shard carries a check of its own, so that damage is found out and never taken for "refers to nothing".
"""

import struct
import zlib
from collections.abc import Iterable, Iterator

from lfsfs.errors import Corrupt
from lfsfs.oid import Oid
from lfsfs.store import names, packs
from lfsfs.store.catalog import u64
from lfsfs.store.hashing import DIGEST_BYTES, block_digest
from lfsfs.store.index import Tx
from lfsfs.store.unrecorded import INODES_PER_SHARD

NAME_HOLDER = 0
"""Who refers to an object, in place of the id of a repository root: a name in incoming/."""
PIN_HOLDER = 2**32 - 1
PACK_HOLDER = 2**32 - 2
"""The object is a pack of vectors."""
FOREIGN_PACK_HOLDER = 2**32 - 3
"""The object is a pack of another machine's, and objects here are made of its vectors."""
_DAMAGED = "a record of what a machine refers to is damaged in the remote tier"
_REFERENCES = b"lfsfs-references-1\n"
_NAMES = b"lfsfs-names-1\n"
_WITHDRAWAL = b"lfsfs-withdrawal-1\n"
_ENTRY = struct.Struct(">32sI")  # oid, holder
_MOST_TEXT_BYTES = 256 << 20  # of a shard of names, unpacked: 4096 inodes with a million names
_LAST_INODE = 2**63 - 1
_INODE = struct.Struct(">QIH")  # number, bytes of the inode, names
_NAME = struct.Struct(">QH")  # parent, bytes of the name


def references(tx: Tx, first: int) -> bytes:
    """Everything on this machine that refers to an object whose oid begins with this byte."""
    prefix = bytes([first])
    entries = {
        (key[:32], int.from_bytes(key[32:], "big")) for key, _ in tx.scan("references_by_oid", prefix=prefix)
    }
    entries |= {(key[:32], NAME_HOLDER) for key, _ in tx.scan("names_by_oid", prefix=prefix)}
    entries |= {(key, PIN_HOLDER) for key, _ in tx.scan("pins", prefix=prefix)}
    for key, number in tx.scan("packs_by_oid", prefix=prefix):
        pack = packs.get(tx, int.from_bytes(number, "big"))
        foreign = pack is not None and pack.state in packs.FOREIGN
        entries.add((key, FOREIGN_PACK_HOLDER if foreign else PACK_HOLDER))
    return _sealed(_REFERENCES, b"".join(_ENTRY.pack(*entry) for entry in sorted(entries)))


def read_references(shard: bytes) -> list[tuple[Oid, int]]:
    """The objects and their holders: ids of repository roots, NAME_HOLDER, PIN_HOLDER, PACK_HOLDER,
    FOREIGN_PACK_HOLDER. Corrupt."""
    text = _opened(_REFERENCES, shard)
    if len(text) % _ENTRY.size:
        raise Corrupt(_DAMAGED)
    return [(Oid.from_bytes(oid), holder) for oid, holder in _ENTRY.iter_unpack(text)]


def withdrawal(number: int, oids: Iterable[Oid]) -> bytes:
    """Objects that a machine withdraws from the remote tier; or what another one answers that it needs of them."""
    return _sealed(_WITHDRAWAL, u64(number) + b"".join(oid.to_bytes() for oid in oids))


def read_withdrawal(note: bytes) -> tuple[int, list[Oid]]:
    """Its number and the objects. Corrupt."""
    text = _opened(_WITHDRAWAL, note)
    if len(text) % 32 != 8:
        raise Corrupt(_DAMAGED)
    return int.from_bytes(text[:8], "big"), [
        Oid.from_bytes(text[at : at + 32]) for at in range(8, len(text), 32)
    ]


def inodes(tx: Tx, number: int) -> bytes:
    """The inodes of a range, with their names."""
    first = number * INODES_PER_SHARD
    parts = []
    for key, value in tx.scan("inodes", start=u64(first)):
        inode = int.from_bytes(key, "big")
        if inode >= first + INODES_PER_SHARD:
            break
        links = [found[8:] for found, _ in tx.scan("parents", prefix=key)]
        parts.append(_INODE.pack(inode, len(value), len(links)) + value)
        parts += [link[:8] + len(link[8:]).to_bytes(2, "big") + link[8:] for link in links]
    return _sealed(_NAMES, zlib.compress(b"".join(parts)))


def read_inodes(shard: bytes) -> Iterator[tuple[names.Inode, list[tuple[int, bytes]]]]:
    """Each inode with the directories and names that it has. Corrupt, whatever somebody has put there."""
    try:
        yield from _decode_inodes(_unpacked(_opened(_NAMES, shard)))
    except (struct.error, zlib.error, LookupError, ValueError) as wrong:
        raise Corrupt(_DAMAGED) from wrong


def _unpacked(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(packed, _MOST_TEXT_BYTES)
    if not unpacking.eof:
        raise Corrupt(_DAMAGED)
    return text


def _decode_inodes(text: bytes) -> Iterator[tuple[names.Inode, list[tuple[int, bytes]]]]:
    at = 0
    while at < len(text):
        number, size, count = _INODE.unpack_from(text, at)
        at += _INODE.size
        if number > _LAST_INODE:
            raise Corrupt(_DAMAGED)
        inode = names.decode_inode(number, text[at : at + size])
        at += size
        links = []
        for _ in range(count):
            parent, length = _NAME.unpack_from(text, at)
            at += _NAME.size
            links.append((parent, names.check_name(text[at : at + length])))
            at += length
        yield inode, links


def _sealed(magic: bytes, text: bytes) -> bytes:
    return magic + text + block_digest(magic + text)


def _opened(magic: bytes, shard: bytes) -> bytes:
    text, check = shard[:-DIGEST_BYTES], shard[-DIGEST_BYTES:]
    if not text.startswith(magic) or block_digest(text) != check:
        raise Corrupt(_DAMAGED)
    return text[len(magic) :]
