"""Events: what one process changed that another may have cached.

The mount lets the kernel keep entries for a long time. What somebody else takes away (`lfsfs rm` beside a running
daemon) is recorded here in the same transaction, and the daemon, which sees that the index moved, reads on from
where it stood. Old events are dropped; who falls behind further than that is told so, and forgets everything.
"""

from dataclasses import dataclass

from lfsfs.store import catalog
from lfsfs.store.index import Tx

KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` is one of object-deleted, object-corrupt, repository-removed, name-changed (below incoming/),
    vector-changed (replaced or deleted), collection-changed (many of its vectors are), collection-removed; `key` says
    which, in the words of its table.
    """

    kind: str
    key: bytes


def record(tx: Tx, event: Event) -> None:
    number = catalog.add(tx, b"events", 1)
    tx.put("events", catalog.u64(number), event.kind.encode() + b"\0" + event.key)
    tx.delete("events", catalog.u64(max(0, number - KEPT)))


def last(tx: Tx) -> int:
    return catalog.counter(tx, b"events")


def since(tx: Tx, number: int) -> list[Event] | None:
    """The events after `number`, oldest first; None if some of them are no longer there."""
    if last(tx) - number > KEPT - 1:
        return None
    found = []
    for _, value in tx.scan("events", start=catalog.u64(number + 1)):
        kind, _, key = value.partition(b"\0")
        found.append(Event(kind.decode(), key))
    return found
