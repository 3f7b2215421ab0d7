"""Rescreening: scans objects that are there already, and takes those that are infected out, to the trash."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from lfsfs.errors import LfsfsError, NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.scan import Subject
from lfsfs.store import catalog, verdicts
from lfsfs.store.index import Tx
from lfsfs.store.query import ListQuery
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.screening import Screening
from lfsfs.tiers.local import LocalTier

if TYPE_CHECKING:
    from lfsfs.store.store import Store

log = logging.getLogger("lfsfs.scan")
PAGE = 64
FORGOTTEN = 2_000  # verdicts in one transaction
FIRST_PAUSE_SECONDS = 1.0  # after the scanner did not answer
LONGEST_PAUSE_SECONDS = 60.0


class Rescreening:
    """Scans what lies in one store."""

    def __init__(self, store: "Store", screening: Screening) -> None:
        self._store = store
        self._screening = screening

    async def run(self) -> None:
        """Scans what waits for it, for ever. One process of a store does so."""
        index = self._store.index
        await self.forget_old()
        pause = FIRST_PAUSE_SECONDS
        while True:
            transaction = index.last_transaction()
            try:
                done = await self.scan_waiting()
                pause = FIRST_PAUSE_SECONDS
            except (LfsfsError, OSError) as failed:
                log.warning("objects wait to be scanned, which is tried again: %s", failed)
                await trio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            if not done:
                await index.changes.after(transaction)

    async def forget_old(self) -> None:
        """Drops verdicts that do not count any more, some at a time: commits go on."""
        index, age = self._store.index, self._screening.options.verdict_age
        old = index.view(lambda tx: [one.oid for one in verdicts.every(tx) if not one.counts(age)])
        for first in range(0, len(old), FORGOTTEN):
            some = old[first : first + FORGOTTEN]
            await index.update(lambda tx, some=some: verdicts.forget_old(tx, some, age))  # type: ignore[misc]

    async def scan_waiting(self) -> int:
        """Scans all that waits; how many. Unavailable where the scanner says nothing of one, after all others."""
        done, after = 0, None
        silent: list[Unavailable] = []
        while page := self._store.index.view(lambda tx, after=after: verdicts.unscanned(tx, after, PAGE)):  # type: ignore[misc]
            after = page[-1]
            before = len(silent)
            async with trio.open_nursery() as nursery:
                for oid in page:
                    nursery.start_soon(self._scan_or_note, oid, silent)
            done += len(page) - (len(silent) - before)
        if silent:
            raise silent[0]
        return done

    async def _scan_or_note(self, oid: Oid, silent: list[Unavailable]) -> None:
        try:
            await self.scan(oid)
        except Unavailable as failed:
            silent.append(failed)

    async def unknown(self) -> list[Oid]:
        """All objects of which nothing was said, or nothing that counts still."""
        age = self._screening.options.verdict_age
        found: list[Oid] = []
        wanted: ListQuery | None = ListQuery()
        while wanted is not None:
            page = await self._store.list(wanted)

            def look(tx: Tx, rows: list[catalog.ObjectStat] = page.objects) -> list[Oid]:
                said = [(row.oid, verdicts.get(tx, row.oid)) for row in rows]
                return [oid for oid, verdict in said if verdict is None or not verdict.counts(age)]

            found += self._store.index.view(look)
            wanted = None if page.cursor is None else replace(wanted, cursor=page.cursor)
        return found

    async def scan(self, oid: Oid) -> str | None:
        """Scans an object of the store and keeps the verdict; what was found. Then it is in the trash.

        NotFound is no error: there is nothing left to scan. Unavailable.
        """
        row = self._store.lookup(oid)
        try:
            finding = None if row is None else await self._finding(row)
        except NotFound:
            row = None  # it went meanwhile
        if row is None:
            await self._store.index.update(lambda tx: verdicts.forget_unscanned(tx, oid))
            return None
        if finding is None:
            await self._store.index.update(lambda tx: _note_clean(tx, oid))
            return None
        await self._store.index.update(lambda tx: verdicts.put(tx, oid, "infected", finding))
        log.warning("object %s is infected: %s: moved to the trash", oid, finding)
        try:
            await self._store.discard(oid, reason="infected", force=True)
        except NotFound:
            pass  # somebody else was quicker
        return finding

    async def _finding(self, row: catalog.ObjectStat) -> str | None:
        store = self._store
        if not isinstance(row, RenderedStat) and isinstance(store.tier, LocalTier) and store.tier.plain:
            with store.kept(row.oid):
                path = store.tier.path(row.oid)
                if path.is_file():
                    return await self._screening.scan(Subject(row.oid, row.size, path))
        copy = store.staging.new_path()
        try:
            await store.get(row.oid, copy)
            return await self._screening.scan(Subject(row.oid, row.size, copy))
        finally:
            copy.unlink(missing_ok=True)


def _note_clean(tx: Tx, oid: Oid) -> None:
    """Unless a person has said something of it meanwhile."""
    present = verdicts.get(tx, oid)
    if present is not None and present.state == "accepted":
        verdicts.forget_unscanned(tx, oid)
    else:
        verdicts.put(tx, oid, "clean")
