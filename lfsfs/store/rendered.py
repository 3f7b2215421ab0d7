"""Objects whose bytes are not stored: the npz file of a vector, made from the pack of the vector whenever it is read.

Such an object has no row in `objects`, but one in `vectors`, under the collection of number 0, which no name leads to,
and with the oid in the place of a content hash. So it wants its vector as any collection does: what is deleted or
replaced there stays in its pack, and moves with it, while an object is made of it. How it is made is the concern of
lfsfs.embeddings. Functions over a transaction. Layout of keys and values: docs/FORMAT.md.
"""

import struct
import time
from collections.abc import Iterator

from lfsfs.errors import InUse
from lfsfs.oid import Oid
from lfsfs.store import catalog, events, names, references, residents
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx

PREFIX = bytes(4)
"""What a key in `vectors` begins with that belongs to an object."""
CONTENT_TYPE = "application/x-npz"
MODE = 0o644
_ROW = struct.Struct(">12xI8xQ")  # of a row of `vectors`: the form, and when it was written
_SIZE = b"npz_size\0"
_INCOMPLETE = b"npz_incomplete"
# The beginning of the one npz file that lfsfs makes of a vector, but for checksum and sizes: docs/FORMAT.md.
_HEAD = b"PK\3\4\x14\0\0\0\0\0\0\0\x21\0"
_NAME = slice(26, 40), b"\x0a\0\0\0vector.npy"


class RenderedStat(ObjectStat):
    """The row of an object whose bytes are made when they are read."""

    __slots__ = ()


def is_candidate(head: bytes) -> bool:
    """Whether a file that begins so may be an npz file as lfsfs makes it."""
    where, name = _NAME
    return head.startswith(_HEAD) and head[where] == name


def key(oid: Oid) -> bytes:
    return PREFIX + oid.to_bytes()


def get(tx: Tx, oid: Oid) -> RenderedStat | None:
    """The row of an object that is made of a vector; None where it is none."""
    value = tx.get("vectors", key(oid))
    if value is None:
        return None
    form, created = _ROW.unpack(value)
    size = catalog.counter(tx, _SIZE + form.to_bytes(4, "big"))
    return RenderedStat(oid, size, created, created, MODE, CONTENT_TYPE, "whole")


def find(tx: Tx, oid: Oid) -> ObjectStat | None:
    """The row of an object of either kind, whatever its state."""
    return catalog.get(tx, oid) or get(tx, oid)


def note_size(tx: Tx, form: int, size: int) -> None:
    """The npz file of every vector of this form has so many bytes."""
    tx.put("meta", _SIZE + form.to_bytes(4, "big"), catalog.u64(size))


def scan(tx: Tx, prefix: bytes = b"") -> Iterator[Oid]:
    """The oids that begin so, ascending."""
    for found, _ in tx.scan("vectors", prefix=PREFIX + prefix):
        yield Oid.from_bytes(found[4:])


def is_referred_to(tx: Tx, oid: Oid) -> bool:
    return bool(references.referrers(tx, oid) or names.numbers_of(tx, oid) or residents.is_pinned(tx, oid))


def delete(tx: Tx, oid: Oid, *, force: bool = False) -> bool:
    """Forgets the object; whether there was one. InUse while anything refers to it, unless `force`."""
    if not force and is_referred_to(tx, oid):
        raise InUse(f"object {oid} is still referred to: `lfsfs stat` says by what")
    if not tx.delete("vectors", key(oid)):
        return False
    events.record(tx, events.Event("object-deleted", oid.to_bytes()))
    return True


# After the loss of an index.


def mark_incomplete(tx: Tx) -> None:
    """There are vectors of which it is not known which objects were made of them."""
    tx.put("meta", _INCOMPLETE, time.time_ns().to_bytes(8, "big"))


def incomplete(tx: Tx) -> bytes | None:
    """Not None where that is so: what `mark_complete` wants to know."""
    return tx.get("meta", _INCOMPLETE)


def mark_complete(tx: Tx, since: bytes) -> None:
    """It is known of all that there were then."""
    if tx.get("meta", _INCOMPLETE) == since:
        tx.delete("meta", _INCOMPLETE)
