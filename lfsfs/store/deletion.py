"""Deletion, in the index: marked, then the bytes go, then the row is forgotten. Functions over a transaction.

The count of deletions moves before the first byte goes and after the last is gone: a commit that sees it move looks
again. What was marked by a process that died, the next one that opens the store finishes.
"""

from dataclasses import dataclass, replace

from lfsfs.errors import InUse, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, events, journal, keepers, residents, trashed, unreferenced, write_ahead
from lfsfs.store.index import Tx
from lfsfs.store.trashed import Reason

LOCK = "deletion.lock"
"""Below STORE: held by the one who deletes, over all processes."""
_DELETING_KEY = b"deleting\0"
_EVERYWHERE, _HERE, _TRASH = b"", b"here", b"trash\0"


@dataclass(frozen=True, slots=True)
class Manner:
    """How an object is deleted. `everywhere`: from the remote tier too. `trashed`: when and why, where it goes to the
    trash; then the remote tier keeps its bytes until that is emptied.
    """

    everywhere: bool = True
    trashed: tuple[int, Reason] | None = None


def deletions(tx: Tx) -> int:
    return catalog.counter(tx, b"deletions")


def unfinished(tx: Tx) -> dict[Oid, Manner]:
    """What is being deleted, and how."""
    found = tx.scan("meta", prefix=_DELETING_KEY)
    return {Oid.from_bytes(key[len(_DELETING_KEY) :]): _manner(value) for key, value in found}


def _manner(value: bytes) -> Manner:
    if value.startswith(_TRASH):
        return Manner(everywhere=False, trashed=trashed.decode_mark(value[len(_TRASH) :]))
    return Manner(everywhere=value != _HERE)


def mark(tx: Tx, oid: Oid, state: str) -> None:
    """Notes what was found of an object; whoever has cached that it is whole learns that it is not."""
    row = catalog.get(tx, oid)
    if row is not None and row.state != "deleting":
        catalog.put(tx, replace(row, state=state))
        if state == "corrupt" and row.state != "corrupt":
            events.record(tx, events.Event("object-corrupt", oid.to_bytes()))


def mark_deleting(tx: Tx, oid: Oid, manner: Manner, *, force: bool) -> None:
    """NotFound; InUse where anything refers to it, unless `force`."""
    if catalog.get(tx, oid) is None:
        raise NotFound(f"no object {oid}")
    if not force and keepers.is_kept(tx, oid):
        raise InUse(f"object {oid} is still referred to: `lfsfs why` says by what")
    mark(tx, oid, "deleting")
    write_ahead.drop(tx, oid)
    _begin(tx, oid, manner)


def take_back(tx: Tx, oid: Oid, size: int) -> bool:
    """As mark_deleting, for what was deleted while it was on its way to the remote tier.

    False where it is known again: somebody has committed it anew.
    """
    if catalog.get(tx, oid) is not None:
        return False
    catalog.put(tx, catalog.ObjectStat(oid, size, 0, 0, 0, "", "deleting"))
    _begin(tx, oid, Manner())
    return True


def _begin(tx: Tx, oid: Oid, manner: Manner) -> None:
    if manner.trashed is not None:
        value = _TRASH + trashed.encode_mark(*manner.trashed)
    else:
        value = _EVERYWHERE if manner.everywhere else _HERE
    tx.put("meta", _DELETING_KEY + oid.to_bytes(), value)
    catalog.add(tx, b"deletions", 1)


def forget(tx: Tx, oid: Oid) -> None:
    catalog.delete(tx, oid)
    residents.drop(tx, oid)
    residents.unpin(tx, oid)
    journal.leave(tx, oid)
    unreferenced.forget(tx, oid)
    tx.delete("meta", _DELETING_KEY + oid.to_bytes())
    catalog.add(tx, b"deletions", 1)
    events.record(tx, events.Event("object-deleted", oid.to_bytes()))
