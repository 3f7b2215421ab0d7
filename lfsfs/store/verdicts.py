"""Verdicts: what a scanner said of an object, kept by oid, also of what never became one; and what is to be scanned yet.

Functions over a transaction. Layout of keys and values: docs/FORMAT.md.
"""

import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lfsfs.oid import Oid
from lfsfs.store.catalog import u64
from lfsfs.store.index import Tx

TABLE, UNSCANNED = "verdicts", "unscanned"
State = Literal["clean", "infected", "accepted"]
"""accepted: a person has said that it may be here, whatever a scanner finds. That does not age."""
_STATES: tuple[State, ...] = ("clean", "infected", "accepted")
_ROW = struct.Struct(">BQ")  # state, when; then the finding in UTF-8
_SECOND_NS = 10**9


@dataclass(frozen=True, slots=True)
class Verdict:
    """`when`: nanoseconds since 1970. `finding`: what was found, of what is infected."""

    oid: Oid
    state: State
    when: int
    finding: str = ""

    def counts(self, age: float) -> bool:
        """Whether it is not older than so many seconds."""
        return self.state == "accepted" or time.time_ns() - self.when < age * _SECOND_NS


def put(tx: Tx, oid: Oid, state: State, finding: str = "") -> None:
    """In place of what was said of it before. There is nothing left to scan."""
    tx.put(TABLE, oid.to_bytes(), _ROW.pack(_STATES.index(state), time.time_ns()) + finding.encode())
    tx.delete(UNSCANNED, oid.to_bytes())


def get(tx: Tx, oid: Oid) -> Verdict | None:
    """None also where what is there cannot be read: then the object is scanned anew."""
    value = tx.get(TABLE, oid.to_bytes())
    return None if value is None else _decode(oid.to_bytes(), value)


def every(tx: Tx) -> Iterator[Verdict]:
    """Ascending by oid."""
    for key, value in tx.scan(TABLE):
        found = _decode(key, value)
        if found is not None:
            yield found


def forget_old(tx: Tx, oids: Sequence[Oid], age: float) -> None:
    """Of these, those that do not count any more."""
    for oid in oids:
        found = get(tx, oid)
        if found is not None and not found.counts(age):
            tx.delete(TABLE, oid.to_bytes())


def scan_later(tx: Tx, oid: Oid) -> None:
    """The object is to be scanned: it is there already."""
    tx.put(UNSCANNED, oid.to_bytes(), u64(time.time_ns()))


def forget_unscanned(tx: Tx, oid: Oid) -> None:
    """It is gone. Absent is success."""
    tx.delete(UNSCANNED, oid.to_bytes())


def unscanned(tx: Tx, after: Oid | None, most: int) -> list[Oid]:
    """The next of what is to be scanned, ascending."""
    found = []
    for key, _ in tx.scan(UNSCANNED, start=b"" if after is None else after.to_bytes() + b"\0"):
        found.append(Oid.from_bytes(key))
        if len(found) == most:
            break
    return found


def _decode(key: bytes, value: bytes) -> Verdict | None:
    try:
        state, when = _ROW.unpack_from(value)
        return Verdict(Oid.from_bytes(key), _STATES[state], when, value[_ROW.size :].decode())
    except (struct.error, IndexError, ValueError):
        return None
