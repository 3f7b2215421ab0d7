"""The index compared with the tiers, both ways: rows and their bytes, bytes and their rows. Sizes only: no byte is read
but of what has no row, and of what is to be repaired.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import trio

from lfsfs import steps
from lfsfs.errors import Corrupt, LfsfsError
from lfsfs.integrity.checking import Checker
from lfsfs.integrity.fault import Fault, Kind
from lfsfs.integrity.local_file import Found, examine
from lfsfs.integrity.mirrors import UNREADABLE
from lfsfs.integrity.pace import Pace
from lfsfs.integrity.survey import Survey
from lfsfs.oid import Oid
from lfsfs.store import catalog, journal, packs, residents, trashed, withdrawn
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.digests import block_count
from lfsfs.store.hashing import DIGEST_BYTES
from lfsfs.store.index import Tx
from lfsfs.store.mime import HEAD_BYTES, type_of
from lfsfs.store.store import Store
from lfsfs.tiers.local import LocalTier

PAGE = 500
THREADS = 2


@dataclass(frozen=True, slots=True)
class _Row:
    row: ObjectStat
    digests: int
    here: bool


class Places:
    """One comparison of one store. `unindexed`: objects of the remote tier that the index does not know, if that says;
    `corrupt`: rows that say so.
    """

    def __init__(self, store: Store, tier: LocalTier, *, repair: bool) -> None:
        self.unindexed: int | None = None
        self.corrupt = 0
        self._store = store
        self._tier = tier
        self._repair = repair
        self._pace = Pace()
        self._checker = Checker(
            store,
            self._pace,
            trio.CapacityLimiter(THREADS),
            quick=False,
            remote_bytes=False,
            direct_upload=True,
        )

    async def check(self) -> list[Fault]:
        """What does not agree."""
        faults: list[Fault] = []
        survey = Survey(self._store, None)
        after: Oid | None = None
        while True:
            last, rows = self._store.index.view(lambda tx, after=after: self._page(tx, after))  # type: ignore[misc]
            listed = await survey.advance(last)
            for row in rows:
                faults += await self._check_row(row, listed)
                steps.add()
            if last is None:
                break
            after = last
        await survey.settle()
        steps.begin("files", len(survey.orphans))
        for oid in survey.orphans:
            faults.append(await self._take_in(oid))
            steps.add()
        self.unindexed = survey.unindexed
        return faults

    def _page(self, tx: Tx, after: Oid | None) -> tuple[Oid | None, list[_Row]]:
        """The last oid, None where there is no other page, and the rows."""
        start = b"" if after is None else after.to_bytes() + b"\0"
        found = []
        page = next(tx.pages("objects", PAGE, start=start), [])
        for key, value in page:
            try:
                row = catalog.decode_row(key, value)
            except UNREADABLE:
                continue  # told by the comparison of tables
            here = self._store.remote is None or _is_here(tx, row.oid)
            found.append(_Row(row, len(catalog.digests(tx, row.oid)), here))
        return (Oid.from_bytes(page[-1][0]) if len(page) == PAGE else None), found

    async def _check_row(self, found: _Row, listed: dict[Oid, int] | None) -> list[Fault]:
        """A row that says corrupt is no fault: everybody knows."""
        row = found.row
        self.corrupt += row.state == "corrupt"
        if row.state != "whole":
            return []
        faults: list[Fault] = []
        for kind, why in self._wrong(found, listed):
            if not self._still(found):
                return []
            if kind == "place":
                faults.append(await self._count(row, why, listed))
            else:
                faults.append(await self._mend(row, kind, why))
        return faults

    def _wrong(self, found: _Row, listed: dict[Oid, int] | None) -> Iterator[tuple[Kind, str]]:
        row = found.row
        size = self._tier.length(row.oid)
        if not found.here:
            if size is not None:
                yield "place", "a file that the index does not take to be here"
            if listed is not None and listed.get(row.oid) != row.size:
                yield _lacking(listed.get(row.oid), row.size)
        elif size != row.size:
            yield _lacking(size, row.size)
        elif found.digests != block_count(row.size) * DIGEST_BYTES:
            yield "bytes", "the index has no digests of its blocks"

    def _still(self, found: _Row) -> bool:
        """Whether the index says of it what it said: or somebody is at it just now."""

        def look(tx: Tx) -> bool:
            row = catalog.get(tx, found.row.oid)
            here = self._store.remote is None or _is_here(tx, found.row.oid)
            return (
                row is not None and (row.state, row.size) == ("whole", found.row.size) and here == found.here
            )

        return self._store.index.view(look)

    async def _mend(self, row: ObjectStat, kind: Kind, why: str) -> Fault:
        """By reading it: it heals from the other tier, or is marked corrupt."""
        if not self._repair:
            return Fault(kind, str(row.oid), why)
        verdict = await self._checker.check(row.oid)
        return Fault(kind, str(row.oid), verdict.why or why, verdict.kind in ("whole", "healed"))

    async def _count(self, row: ObjectStat, why: str, listed: dict[Oid, int] | None) -> Fault:
        """A file that nobody counts is a resident, where the remote tier has it too; else it waits for its upload."""
        if self._repair:
            there = listed is not None and listed.get(row.oid) == row.size
            await self._store.index.update(lambda tx: _enter(tx, row, self._tier, there=there))
            verdict = await self._checker.check(row.oid)
            return Fault("place", str(row.oid), why, verdict.kind in ("whole", "healed"))
        return Fault("place", str(row.oid), why)

    async def _take_in(self, oid: Oid) -> Fault:
        why = "a file that the index does not know"
        if self._repair:
            tier = self._tier
            found = await trio.to_thread.run_sync(lambda: examine(tier, oid, 0, b"", self._pace, quick=False))
            if found.state == "missing":
                return Fault("orphan", str(oid), "its file is gone meanwhile", True)
            row = await trio.to_thread.run_sync(_row_of, tier, oid, found)
            there = await self._is_there(row)
            await self._store.index.update(lambda tx: self._add(tx, row, found.blocks, there=there))
            return Fault("orphan", str(oid), found.why or why, row.state == "whole")
        return Fault("orphan", str(oid), why)

    async def _is_there(self, row: ObjectStat) -> bool:
        remote = self._store.remote
        if remote is None:
            return False
        tier = await remote.tier()
        try:
            return await remote.circuit.call(lambda: tier.size(row.oid), remote.options.deadline) == row.size
        except LfsfsError:
            return False  # it is uploaded once more, at the worst

    def _add(self, tx: Tx, row: ObjectStat, blocks: bytes, *, there: bool) -> None:
        if catalog.get(tx, row.oid) is not None:
            return
        catalog.put(tx, row, blocks)
        there = there and not withdrawn.is_absent(
            tx, row.oid
        )  # it may be about to go there: uploaded once more
        trashed.forget(tx, row.oid)
        if row.content_type == packs.CONTENT_TYPE and packs.find(tx, row.oid) is None:
            packs.add(tx, row.oid, row.size, "unread")
        if self._store.remote is not None:
            _enter(tx, row, self._tier, there=there)


def _enter(tx: Tx, row: ObjectStat, tier: LocalTier, *, there: bool) -> None:
    if there:
        residents.add(tx, row.oid, tier.stored_size(row.size), row.accessed)
    else:
        journal.enter(tx, row.oid, row.size, stored=tier.stored_size(row.size))


def _is_here(tx: Tx, oid: Oid) -> bool:
    return (journal.get(tx, oid) or residents.get(tx, oid)) is not None


def _lacking(size: int | None, due: int) -> tuple[Kind, str]:
    if size is None:
        return "missing", "its bytes are gone"
    return "bytes", f"it has {size} bytes where {due} are due"


def _row_of(tier: LocalTier, oid: Oid, found: Found) -> ObjectStat:
    head, size = b"", found.size
    with suppress(Corrupt), tier.open(oid) as file:
        head, size = file.read_at(0, HEAD_BYTES), file.size
    lies = os.stat(tier.path(oid))
    times = (lies.st_mtime_ns, lies.st_mtime_ns)
    state = "whole" if found.state == "whole" else "corrupt"
    return ObjectStat(oid, size, *times, lies.st_mode & 0o777, type_of(head), state)
