"""The upload journal: objects that are committed here and not known to be in the remote tier yet.

An entry is written in the transaction that commits the object, and removed when the remote tier has answered for it:
so it survives whatever the object survives. Functions over a transaction. Layout of keys and values: docs/FORMAT.md.
"""

import struct
import time
from dataclasses import dataclass

from lfsfs.oid import Oid
from lfsfs.store import catalog
from lfsfs.store.index import Tx
from lfsfs.store.residents import room_of

_ROW = struct.Struct(
    ">QQ?"
)  # since (ns since 1970), size, whether the remote tier's bytes are to be replaced
_SEALED_ROW = struct.Struct(">QQ?Q")  # and the bytes of its file, where that is sealed
_OBJECTS, _ROOM, _SIZE = b"pending_objects", b"pending_room", b"pending_bytes"
_RETRIES = b"upload_retries"
_DIRECT = b"direct\0"


@dataclass(frozen=True, slots=True)
class Pending:
    """An object that waits for its upload, `since` when (nanoseconds since 1970).

    `replace`: the remote tier has other bytes under this oid, which were found damaged. `stored`: those of its file
    here, where that is sealed; 0: as many as it has itself.
    """

    oid: Oid
    since: int
    size: int
    replace: bool
    stored: int = 0

    @property
    def room(self) -> int:
        """Bytes on the local disk."""
        return room_of(self.stored or self.size)


@dataclass(frozen=True, slots=True)
class Backlog:
    """All that wait. `room`: bytes on the local disk."""

    objects: int
    bytes: int
    room: int


def get(tx: Tx, oid: Oid) -> Pending | None:
    value = tx.get("pending", oid.to_bytes())
    return None if value is None else decode(oid.to_bytes(), value)


def decode(key: bytes, value: bytes) -> Pending:
    """What waits, from a row of the table."""
    row = _ROW if len(value) == _ROW.size else _SEALED_ROW
    return Pending(Oid.from_bytes(key), *row.unpack(value))


def enter(tx: Tx, oid: Oid, size: int, *, stored: int | None = None, replace: bool = False) -> None:
    """`stored`: the bytes of its file, if not `size`. Repeating is harmless."""
    present = get(tx, oid)
    if present is not None and (present.replace or not replace):
        return
    if present is not None:
        _count(tx, -1, present)
    row = Pending(oid, time.time_ns(), size, replace, 0 if stored in (None, size) else stored or 0)
    _count(tx, 1, row)
    plain = (row.since, size, replace)
    value = _SEALED_ROW.pack(*plain, row.stored) if row.stored else _ROW.pack(*plain)
    tx.put("pending", oid.to_bytes(), value)


def leave(tx: Tx, oid: Oid) -> bool:
    """Whether it was waiting."""
    present = get(tx, oid)
    if present is None:
        return False
    tx.delete("pending", oid.to_bytes())
    _count(tx, -1, present)
    return True


def ask_for_retry(tx: Tx) -> None:
    """Whoever uploads, in whichever process, shall try at once what it has put off."""
    catalog.add(tx, _RETRIES, 1)


def retries_asked(tx: Tx) -> int:
    """How often somebody has asked."""
    return catalog.counter(tx, _RETRIES)


def page(tx: Tx, after: Oid | None, limit: int) -> list[Pending]:
    """The next of them in the order of their oids."""
    start = b"" if after is None else after.to_bytes() + b"\0"
    found = []
    for key, value in tx.scan("pending", start=start):
        found.append(decode(key, value))
        if len(found) == limit:
            break
    return found


def backlog(tx: Tx) -> Backlog:
    return Backlog(*(catalog.counter(tx, name) for name in (_OBJECTS, _SIZE, _ROOM)))


def _count(tx: Tx, sign: int, row: Pending) -> None:
    catalog.add(tx, _OBJECTS, sign)
    catalog.add(tx, _SIZE, sign * row.size)
    catalog.add(tx, _ROOM, sign * row.room)


# Objects that are being put into the remote tier before they are committed: a kill leaves what was sent of them there.


def begin_direct(tx: Tx, oid: Oid) -> None:
    tx.put("meta", _DIRECT + oid.to_bytes(), b"")


def end_direct(tx: Tx, oid: Oid) -> None:
    tx.delete("meta", _DIRECT + oid.to_bytes())


def direct(tx: Tx) -> list[Oid]:
    """Those that were begun and not ended, by this process or by one that is dead."""
    return [Oid.from_bytes(key[len(_DIRECT) :]) for key, _ in tx.scan("meta", prefix=_DIRECT)]
