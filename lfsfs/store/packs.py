"""The table of packs: which objects hold vectors of this machine's collections. Functions over a transaction.

A pack is an object like any other; its row here keeps it alive. What lies in it is the concern of lfsfs.embeddings.
Layout of keys and values: docs/FORMAT.md.
"""

import struct
import time
from dataclasses import dataclass
from typing import Literal

from lfsfs.oid import Oid
from lfsfs.store import catalog, rendered, unrecorded
from lfsfs.store.index import Tx

MAGIC = b"lfsfs-vectors-1\n"
CONTENT_TYPE = "application/x-lfsfs-vectors"
State = Literal["pending", "live", "unread", "dropped", "foreign", "foreign-unread"]
"""pending: of a batch that is not complete yet; unread: its rows are still to be taken into the index;
dropped: no pack any more, and its object is about to be deleted; foreign: another machine's, of whose vectors objects
are made here; foreign-unread: one whose vectors are not known yet.
"""
UNREAD: tuple[State, ...] = ("unread", "foreign-unread")
FOREIGN: tuple[State, ...] = ("foreign", "foreign-unread")
_STATES: tuple[State, ...] = ("pending", "live", "unread", "dropped", "foreign", "foreign-unread")
_ROW = struct.Struct(">32sBQQ")  # oid, state, size, since (ns since 1970)
_LAST = b"last_pack"


@dataclass(frozen=True, slots=True)
class Pack:
    """`number` is what rows of vectors say; `size` in bytes, `since` in nanoseconds since 1970."""

    number: int
    oid: Oid
    state: State
    size: int
    since: int


def add(tx: Tx, oid: Oid, size: int, state: State) -> Pack:
    """The pack of this oid; where it is known already, with this state from now on."""
    present = find(tx, oid)
    number = catalog.add(tx, _LAST, 1) if present is None else present.number
    pack = Pack(number, oid, state, size, time.time_ns())
    tx.put("packs", _key(number), _ROW.pack(oid.to_bytes(), _STATES.index(state), size, pack.since))
    tx.put("packs_by_oid", oid.to_bytes(), _key(number))
    unrecorded.mark_oid(tx, oid.to_bytes())
    _tell(tx)
    if state in UNREAD:
        rendered.mark_incomplete(tx)
    return pack


def drop(tx: Tx, pack: Pack) -> None:
    """The object is no pack of ours any more, and may be deleted; `remove` is for when it is. Absent is success."""
    if get(tx, pack.number) is None:
        return
    state = _STATES.index("dropped")
    tx.put("packs", _key(pack.number), _ROW.pack(pack.oid.to_bytes(), state, pack.size, pack.since))
    if tx.get("packs_by_oid", pack.oid.to_bytes()) == _key(pack.number):
        tx.delete("packs_by_oid", pack.oid.to_bytes())
    unrecorded.mark_oid(tx, pack.oid.to_bytes())
    _tell(tx)


def _tell(tx: Tx) -> None:
    """Other machines want to know of our packs where objects are made of vectors."""
    if next(rendered.scan(tx), None) is not None:
        unrecorded.mark_machine(tx)


def remove(tx: Tx, pack: Pack) -> None:
    """Forgets a pack that was dropped. Absent is success."""
    tx.delete("packs", _key(pack.number))


def find(tx: Tx, oid: Oid) -> Pack | None:
    key = tx.get("packs_by_oid", oid.to_bytes())
    return None if key is None else get(tx, int.from_bytes(key, "big"))


def get(tx: Tx, number: int) -> Pack | None:
    value = tx.get("packs", _key(number))
    return None if value is None else decode(_key(number), value)


def every(tx: Tx, state: State | None = None) -> list[Pack]:
    """All of them, or those of one state, in the order of their numbers."""
    found = [decode(key, value) for key, value in tx.scan("packs")]
    return [pack for pack in found if state in (None, pack.state)]


def last_number(tx: Tx) -> int:
    """The number of the pack that was added last, which may be gone."""
    return catalog.counter(tx, _LAST)


def decode(key: bytes, value: bytes) -> Pack:
    """The pack of a row of the table."""
    oid, state, size, since = _ROW.unpack(value)
    return Pack(int.from_bytes(key, "big"), Oid.from_bytes(oid), _STATES[state], size, since)


def _key(number: int) -> bytes:
    return number.to_bytes(4, "big")
