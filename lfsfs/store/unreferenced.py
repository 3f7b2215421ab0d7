"""Since when nothing refers to an object: what garbage collection found out in earlier runs.

An object that has a row here may be deleted by gc; one that has none is not, whatever refers to it. So whoever comes
to refer to an object of this table has to do so in the index at once, not a moment later (lfsfs.store.references), and
the row goes with every reference that comes or goes: the time begins anew. Functions over a transaction. Layout of keys
and values: docs/FORMAT.md.
"""

from collections.abc import Iterator

from lfsfs.oid import Oid
from lfsfs.store.index import Tx

_EPOCH, _SEEN = b"gc_epoch", b"gc_seen"


def note(tx: Tx, oid: Oid, now: int) -> int:
    """Nothing refers to it; since when that is known (nanoseconds since 1970): `now`, or an earlier run."""
    present = since(tx, oid)
    if present is None:
        tx.put("unreferenced", oid.to_bytes(), now.to_bytes(8, "big"))
        return now
    return present


def since(tx: Tx, oid: Oid) -> int | None:
    """None where it is not known that nothing refers to it."""
    value = tx.get("unreferenced", oid.to_bytes())
    return None if value is None else int.from_bytes(value, "big")


def forget(tx: Tx, oid: Oid) -> None:
    """Something refers to it, or it is gone. Absent is success."""
    tx.delete("unreferenced", oid.to_bytes())


def every(tx: Tx) -> Iterator[tuple[Oid, int]]:
    """Ascending, each with its time."""
    for key, value in tx.scan("unreferenced"):
        yield Oid.from_bytes(key), int.from_bytes(value, "big")


# Epochs: a daemon that has answered one has no reference on its way to the index from before it.


def begin_epoch(tx: Tx) -> int:
    """Asks the daemon of the store; the number of the epoch."""
    epoch = _number(tx, _EPOCH) + 1
    tx.put("meta", _EPOCH, epoch.to_bytes(8, "big"))
    return epoch


def epoch(tx: Tx) -> int:
    return _number(tx, _EPOCH)


def seen(tx: Tx) -> int:
    """The epoch that a daemon has answered last."""
    return _number(tx, _SEEN)


def answer(tx: Tx, number: int) -> None:
    tx.put("meta", _SEEN, number.to_bytes(8, "big"))


def _number(tx: Tx, key: bytes) -> int:
    return int.from_bytes(tx.get("meta", key) or b"", "big")
