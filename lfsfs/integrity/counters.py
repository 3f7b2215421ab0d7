"""The counters of the index, compared with what they count."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lfsfs.integrity.fault import Fault
from lfsfs.integrity.mirrors import UNREADABLE
from lfsfs.store import catalog, journal, quotas, references, residents, write_ahead
from lfsfs.store.index import Index, Tx

T = TypeVar("T")
_REFERENCES = b"references\0"
_FORMS = b"vectors\0"


async def check_counters(index: Index, *, repair: bool) -> list[Fault]:
    """Those that are wrong. The last number given of each kind must only be no smaller than one that is in use."""
    faults = index.view(lambda tx: list(_wrong(tx, fix=False)))
    if faults and repair:
        return await index.update(lambda tx: list(_wrong(tx, fix=True)))
    return faults


def _wrong(tx: Tx, *, fix: bool) -> Iterator[Fault]:
    for name, right in _counted(tx).items():
        stored = tx.get("meta", name)
        if stored != catalog.u64(right) and (stored is not None or right):
            yield _set(tx, name, right, fix)
    for name, least in _least(tx).items():
        if catalog.counter(tx, name) < least:
            yield _set(tx, name, least, fix)


def _set(tx: Tx, name: bytes, right: int, fix: bool) -> Fault:
    said = tx.get("meta", name)
    if fix:
        tx.put("meta", name, catalog.u64(right))
    shown = "nothing" if said is None else str(int.from_bytes(said, "big"))
    return Fault("counter", _shown(name), f"it says {shown}, and is {right}", fix)


def _counted(tx: Tx) -> dict[bytes, int]:
    """What each counter should say."""
    sizes = [row.size for row in _readable(catalog.decode_row, tx.scan("objects"))]
    waiting = list(_readable(journal.decode, tx.scan("pending")))
    rooms = [resident.room for resident in _readable(residents.decode, tx.scan("residents"))]
    right = {
        b"objects": len(sizes),
        b"bytes": sum(sizes),
        b"resident_bytes": sum(rooms),
        b"pending_objects": len(waiting),
        b"pending_bytes": sum(pending.size for pending in waiting),
        b"pending_room": sum(pending.room for pending in waiting),
        b"write_ahead_bytes": sum(write_ahead.content_size(value) for _, value in tx.scan("write_ahead")),
        b"loose_bytes": sum(len(value) - 4 for _, value in tx.scan("loose_vectors")),
    }
    of_repositories = Counter(key[:4] for key, _ in tx.scan("references"))
    for repository in references.repositories(tx):
        number = repository.id.to_bytes(4, "big")
        right[_REFERENCES + number] = of_repositories[number]
        if tx.get("meta", quotas.USED + number) is not None:
            right[quotas.USED + number] = quotas.count(tx, repository.id)
    of_forms = Counter(
        key[:4] + value[12:16] for page in tx.pages("vectors", 10_000) for key, value in page if any(key[:4])
    )
    known = {key[len(_FORMS) :]: 0 for key, _ in tx.scan("meta", prefix=_FORMS)}
    return right | {_FORMS + key: count for key, count in {**known, **of_forms}.items()}


def _least(tx: Tx) -> dict[bytes, int]:
    """The greatest number in use of each kind: no counter may be below it, or a number would be given twice."""
    inode = next(tx.scan_back("inodes", None), None)
    pack = next(tx.scan_back("packs", None), None)
    collections = [int.from_bytes(value[:4], "big") for _, value in tx.scan("collections")]
    forms = [int.from_bytes(key, "big") for key, _ in tx.scan("vector_forms") if len(key) == 4]
    return {
        b"last_inode": int.from_bytes(inode[0], "big") - 1 if inode else 0,
        b"last_pack": int.from_bytes(pack[0], "big") if pack else 0,
        b"last_repository": max((found.id for found in references.repositories(tx)), default=0),
        b"last_collection": max(collections, default=0),
        b"last_form": max(forms, default=0),
    }


def _readable(decode: Callable[[bytes, bytes], T], rows: Iterable[tuple[bytes, bytes]]) -> Iterator[T]:
    """But for rows that are damaged: those are told by themselves."""
    for key, value in rows:
        try:
            yield decode(key, value)
        except UNREADABLE:
            continue


def _shown(name: bytes) -> str:
    head, separator, rest = name.partition(b"\0")
    return head.decode() + (f"/{rest.hex()}" if separator else "")
