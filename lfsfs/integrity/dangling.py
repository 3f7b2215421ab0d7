"""What refers to an object that is not there: not in the index, nor in the remote tier, which is asked."""

from collections.abc import Callable

import trio

from lfsfs import steps
from lfsfs.errors import Denied, NotFound, Unavailable
from lfsfs.integrity.fault import Fault, Kind
from lfsfs.integrity.tables import PAGE
from lfsfs.oid import EMPTY_OID, Oid
from lfsfs.store import catalog, journal, names, references, rendered, residents
from lfsfs.store.index import Tx
from lfsfs.store.store import Store

OID_BYTES = 32
Repair = Callable[[Tx, bytes, Oid], object]


def _drop_reference(tx: Tx, key: bytes, oid: Oid) -> None:
    references.drop(tx, int.from_bytes(key[:4], "big"), oid)


_TABLES: tuple[tuple[str, Kind, slice, Repair | None], ...] = (
    ("references", "reference", slice(4, None), _drop_reference),
    ("pins", "reference", slice(None), lambda tx, key, oid: residents.unpin(tx, oid)),
    ("names_by_oid", "name", slice(0, 32), None),
    ("residents", "place", slice(None), lambda tx, key, oid: residents.drop(tx, oid)),
    ("pending", "place", slice(None), lambda tx, key, oid: journal.leave(tx, oid)),
    ("digests", "entry", slice(None), lambda tx, key, oid: catalog.forget_digests(tx, oid)),
)
"""A table, where in its keys the oid is, and what puts it right: a name in incoming/ is left, for people to decide."""

DANGLING = tuple(table for table, *_ in _TABLES)


async def check_dangling(store: Store, *, repair: bool) -> list[Fault]:
    """References, pins, names and the like of objects that are nowhere."""
    faults: list[Fault] = []
    known: dict[Oid, bool | None] = {}
    for table, kind, where, fix in _TABLES:
        after: bytes | None = None
        while True:
            start = b"" if after is None else after + b"\0"
            keys = store.index.view(lambda tx, table=table, start=start: _page(tx, table, start))  # type: ignore[misc]
            if not keys:
                break
            after = keys[-1]
            steps.add(len(keys))
            await trio.lowlevel.checkpoint()
            absent = store.index.view(lambda tx, keys=keys, where=where: _absent(tx, keys, where))  # type: ignore[misc]
            for key, oid in absent:
                if oid not in known:
                    known[oid] = await _is_elsewhere(store, oid)
                if not known[oid]:
                    faults.append(
                        await _fault(store, table, kind, key, oid, fix if repair else None, known[oid])
                    )
    return faults


def _page(tx: Tx, table: str, start: bytes) -> list[bytes]:
    return [key for key, _ in next(tx.pages(table, PAGE, start=start), [])]


def _absent(tx: Tx, keys: list[bytes], where: slice) -> list[tuple[bytes, Oid]]:
    oids = ((key, key[where]) for key in keys if len(key[where]) == OID_BYTES)
    return [
        (key, Oid.from_bytes(oid))
        for key, oid in oids
        if tx.get("objects", oid) is None
        and tx.get("vectors", rendered.PREFIX + oid) is None
        and Oid.from_bytes(oid) != EMPTY_OID
    ]


async def _is_elsewhere(store: Store, oid: Oid) -> bool | None:
    """Whether the remote tier has it, which gives it a row where the store may be written to; None: it does not say."""
    remote = store.remote
    if remote is None:
        return False
    tier = await remote.tier()
    try:
        await remote.circuit.call(lambda: tier.size(oid), remote.options.deadline)
        await store.find_row(oid)
    except NotFound:
        return False
    except (Unavailable, Denied):
        return None
    return True


async def _fault(
    store: Store, table: str, kind: Kind, key: bytes, oid: Oid, fix: Repair | None, elsewhere: bool | None
) -> Fault:
    what = f"{table}/{key.hex()}"
    if table == "names_by_oid":
        number = int.from_bytes(key[32:], "big")
        paths = store.index.view(lambda tx: names.paths(tx, number))
        what = ", ".join(f"incoming/{path.decode('utf-8', 'surrogateescape')}" for path in paths) or what
    elif table == "references":
        what = store.index.view(lambda tx: _repository(tx, key))
    why = (
        f"object {oid} is nowhere" if elsewhere is False else f"object {oid} is not here, and S3 does not say"
    )
    repaired = fix is not None and elsewhere is False
    if fix is not None and repaired:
        await store.index.update(lambda tx: fix(tx, key, oid))
    return Fault(kind, what, why, repaired)


def _repository(tx: Tx, key: bytes) -> str:
    number = int.from_bytes(key[:4], "big")
    return next(
        (found.name for found in references.repositories(tx) if found.id == number), f"repository {number}"
    )
