"""Deletion, in the index: marked, then the bytes go, then the row is forgotten. Functions over a transaction.

The count of deletions moves before the first byte goes and after the last is gone: a commit that sees it move looks
again. What was marked by a process that died, the next one that opens the store finishes.
"""

from dataclasses import replace

from lfsfs.errors import InUse, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, events, journal, names, packs, references, residents, write_ahead
from lfsfs.store.index import Tx

LOCK = "deletion.lock"
"""Below STORE: held by the one who deletes, over all processes."""
_DELETING_KEY = b"deleting\0"
_EVERYWHERE, _HERE = b"", b"here"


def deletions(tx: Tx) -> int:
    return catalog.counter(tx, b"deletions")


def unfinished(tx: Tx) -> dict[Oid, bool]:
    """What is being deleted, and whether it is from the remote tier too."""
    found = tx.scan("meta", prefix=_DELETING_KEY)
    return {Oid.from_bytes(key[len(_DELETING_KEY) :]): value != _HERE for key, value in found}


def mark(tx: Tx, oid: Oid, state: str) -> None:
    """Notes what was found of an object; whoever has cached that it is whole learns that it is not."""
    row = catalog.get(tx, oid)
    if row is not None and row.state != "deleting":
        catalog.put(tx, replace(row, state=state))
        if state == "corrupt" and row.state != "corrupt":
            events.record(tx, events.Event("object-corrupt", oid.to_bytes()))


def mark_deleting(tx: Tx, oid: Oid, *, force: bool, everywhere: bool) -> None:
    if catalog.get(tx, oid) is None:
        raise NotFound(f"no object {oid}")
    if not force and (names.numbers_of(tx, oid) or references.referrers(tx, oid) or packs.find(tx, oid)):
        raise InUse(f"object {oid} is still referred to: `lfsfs stat` says by what")
    mark(tx, oid, "deleting")
    write_ahead.drop(tx, oid)
    _begin(tx, oid, everywhere=everywhere)


def take_back(tx: Tx, oid: Oid, size: int) -> bool:
    """As mark_deleting, for what was deleted while it was on its way to the remote tier.

    False where it is known again: somebody has committed it anew.
    """
    if catalog.get(tx, oid) is not None:
        return False
    catalog.put(tx, catalog.ObjectStat(oid, size, 0, 0, 0, "", "deleting"))
    _begin(tx, oid, everywhere=True)
    return True


def _begin(tx: Tx, oid: Oid, *, everywhere: bool) -> None:
    tx.put("meta", _DELETING_KEY + oid.to_bytes(), _EVERYWHERE if everywhere else _HERE)
    catalog.add(tx, b"deletions", 1)


def forget(tx: Tx, oid: Oid) -> None:
    catalog.delete(tx, oid)
    residents.drop(tx, oid)
    residents.unpin(tx, oid)
    journal.leave(tx, oid)
    tx.delete("meta", _DELETING_KEY + oid.to_bytes())
    catalog.add(tx, b"deletions", 1)
    events.record(tx, events.Event("object-deleted", oid.to_bytes()))
