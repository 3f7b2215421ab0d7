"""The index is derived: here it is made from the tier, for a store whose index was lost or never was.

Objects come back whole: their rows, digests and sizes. References come back with the next lookup of each clone;
names below incoming/ do not.
"""

import logging
import os
from collections.abc import Callable

import trio

from lfsfs import steps
from lfsfs.errors import Corrupt, InvalidName, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, journal, packs, references, residents, withdrawn
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.fetches import UNKNOWN_MODE, UNKNOWN_TYPE
from lfsfs.store.hashing import Digest
from lfsfs.store.index import Index, Tx
from lfsfs.store.layout import Layout, check_repository_name
from lfsfs.store.mime import HEAD_BYTES, type_of
from lfsfs.store.remote import Remote
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.remote import Stored

log = logging.getLogger("lfsfs.store")
PAGE = 1_000
_COMPLETE = b"complete"
_LOST = b"references_lost"


def is_complete(index: Index) -> bool:
    """Whether the catalog was once brought to agree with the tier; since then every commit keeps it so."""
    return index.view(lambda tx: tx.get("meta", _COMPLETE) is not None)


def lost_references(tx: Tx) -> bool:
    """Whether the index was made anew for objects that something may have referred to: nobody knows what."""
    return tx.get("meta", _LOST) is not None


def trust_references(tx: Tx) -> None:
    """Somebody says that whatever is needed is referred to again."""
    tx.delete("meta", _LOST)


async def rebuild_catalog(layout: Layout, index: Index, tier: LocalTier) -> int:
    """Gives a row to every object of the tier that has none; how many. May be cut off and begun again.

    A file whose bytes do not have the SHA-256 of its name gets a row that says so: it is listed, and never served.
    """
    added = 0
    after: Oid | None = None
    if steps.is_watched():
        steps.begin("reading objects", await tier.total(), "bytes")
    while page := await tier.scan(after, PAGE):
        after = page[-1]
        for oid in page:
            if index.view(lambda tx, oid=oid: catalog.get(tx, oid)) is None:  # type: ignore[misc]
                added += await _add(index, tier, oid)
    await index.update(lambda tx: _finish(tx, layout, lost=added > 0))
    return added


async def rebuild_from_remote(index: Index, local: LocalTier, remote: Remote) -> int:
    """Gives a row to every object of the remote tier that has none; how many. What is there need not be uploaded.

    Digests come with the first read. May be cut off and begun again.
    """
    tier = await remote.tier()
    added, after = 0, None
    steps.begin("listing the bucket")
    while page := await remote.circuit.call(
        lambda after=after: tier.survey(after, PAGE),  # type: ignore[misc]
        remote.options.deadline,
    ):
        after = page[-1].oid
        found, damaged = await index.update(lambda tx, page=page: _add_stored(tx, page, local))  # type: ignore[misc]
        added += found
        steps.add(len(page))
        for oid in damaged:
            await local.delete(oid)
    await remote.space.reserve_cache(0)
    return added


def _add_stored(tx: Tx, page: list[Stored], local: LocalTier) -> tuple[int, list[Oid]]:
    """How many rows were added, and which local files are damaged and need not be: the remote tier has the object."""
    added, damaged = 0, []
    for stored in page:
        row = catalog.get(tx, stored.oid)
        if row is None and withdrawn.is_absent(tx, stored.oid):
            continue
        if row is not None and row.state == "whole":
            if journal.get(tx, stored.oid) is not None and row.size == stored.size:
                journal.leave(tx, stored.oid)
                residents.add(tx, stored.oid, local.stored_size(stored.size), row.accessed)
            continue
        if row is not None and row.state == "deleting":
            continue
        if row is not None:
            damaged.append(stored.oid)
            catalog.forget_digests(tx, stored.oid)
        times = (stored.modified, stored.modified)
        catalog.put(tx, ObjectStat(stored.oid, stored.size, *times, UNKNOWN_MODE, UNKNOWN_TYPE, "whole"))
        added += 1
    return added, damaged


async def _add(index: Index, tier: LocalTier, oid: Oid) -> int:
    try:
        row, blocks = await trio.to_thread.run_sync(_read_row, tier, oid)
    except NotFound:
        return 0  # removed since the page was read
    await index.update(_writing(row, blocks))
    return 1


def _writing(row: ObjectStat, blocks: bytes) -> Callable[[Tx], None]:
    def write(tx: Tx) -> None:
        catalog.put(tx, row, blocks)
        if row.content_type == packs.CONTENT_TYPE and packs.find(tx, row.oid) is None:
            packs.add(tx, row.oid, row.size, "unread")

    return write


def _read_row(tier: LocalTier, oid: Oid) -> tuple[ObjectStat, bytes]:
    digest, head = Digest(), b""
    stat = tier.path(oid).stat() if tier.path(oid).exists() else None
    try:
        with tier.open(oid) as file:
            stat = os.fstat(file.descriptor)
            for piece in file.pieces():
                head = head or piece[:HEAD_BYTES]
                digest.update(piece)
                steps.add(len(piece))
    except Corrupt as damaged:
        log.warning("%s", damaged)
    if stat is None:
        raise NotFound(f"no object {oid}")
    state = "whole" if digest.sha256() == oid.to_bytes() else "corrupt"
    times = (stat.st_mtime_ns, stat.st_mtime_ns)
    return ObjectStat(oid, digest.size, *times, stat.st_mode & 0o777, type_of(head), state), digest.blocks()


def _finish(tx: Tx, layout: Layout, *, lost: bool) -> None:
    if layout.repositories.is_dir():
        for directory in sorted(layout.repositories.iterdir()):
            try:
                references.add_repository(tx, check_repository_name(directory.name))
            except InvalidName:
                continue  # not one of ours
    if lost:
        tx.put("meta", _LOST, b"1")
    tx.put("meta", _COMPLETE, b"1")
