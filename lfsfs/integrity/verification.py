"""Verification: goes through a store, all of it or a part, several objects at once; can be ended early, and go on."""

import os
import random
from collections import deque
from dataclasses import dataclass, replace

import trio

from lfsfs.errors import LfsfsError, NotFound
from lfsfs.integrity import position, vectors
from lfsfs.integrity.checking import AWAY, UNKNOWN, Checker
from lfsfs.integrity.mirrors import UNREADABLE
from lfsfs.integrity.pace import Pace
from lfsfs.integrity.position import Position, Purpose
from lfsfs.integrity.report import NAMED, Report, Verdict
from lfsfs.integrity.survey import Survey
from lfsfs.oid import Oid
from lfsfs.store import catalog
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.store import Store

PAGE = 500
SAVE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Scope:
    """What is to be looked at, and how closely.

    `oids`: these alone. `share`: so large a part, by chance. `seconds`, `size`: when it is enough (an object that was
    begun is ended). `resume`: from where the last run stopped. `quick`, `remote_bytes`: see Checker.
    """

    oids: tuple[Oid, ...] = ()
    share: float | None = None
    seconds: float | None = None
    size: int | None = None
    resume: bool = False
    quick: bool = False
    remote_bytes: bool = False


@dataclass(slots=True)
class Progress:
    """How far a run has come. The totals are those of the store when it began."""

    objects: int = 0
    bytes: int = 0
    total_objects: int = 0
    total_bytes: int = 0


class Verification:
    """One run over one store. `parallel`: threads that hash; None: one for each processor."""

    def __init__(
        self, store: Store, scope: Scope, *, pace: Pace | None = None, parallel: int | None = None,
        purpose: Purpose = "verify", direct_upload: bool = False, save_seconds: float = SAVE_SECONDS,
    ) -> None:  # fmt: skip
        self.progress = Progress()
        self.report = Report()
        self.pace = pace or Pace()
        self._store = store
        self._scope = scope
        self._purpose: Purpose = purpose
        self._parallel = parallel or os.cpu_count() or 1
        self._checker = Checker(
            store, self.pace, trio.CapacityLimiter(self._parallel), quick=scope.quick,
            remote_bytes=scope.remote_bytes, direct_upload=direct_upload,
        )  # fmt: skip
        self._position = Position()
        self._save_seconds = save_seconds
        self._saved = trio.current_time()
        self._admitted: int | None = None  # bytes of what was begun; None: nothing was
        self._under_way: deque[tuple[ObjectStat, list[bool]]] = deque()
        self._failure: LfsfsError | None = None
        self._away = False  # the remote tier does not list what it has

    async def run(self) -> Report:
        """What was found, of all only where `report.complete`. How far it came is remembered."""
        self._begun = trio.current_time()
        await self._store.index.flush()
        self._set_out()
        try:
            if self._scope.oids:
                await self._check_named()
            else:
                await self._check_all()
        finally:
            self.report.bytes = self.pace.read
            self.report.seconds = trio.current_time() - self._begun
            with trio.CancelScope(shield=True):
                await self.remember()
        return self.report

    @property
    def position(self) -> Position:
        return self._position

    def _set_out(self) -> None:
        found = self._store.index.view(lambda tx: (position.load(tx, self._purpose), catalog.totals(tx)))
        if self._scope.resume and found[0] is not None:
            self._position, self.report.resumed = found[0], True
        self.progress.total_objects, self.progress.total_bytes = found[1]
        self.progress.objects, self.progress.bytes = self._position.objects, self._position.size

    async def remember(self) -> None:
        """Notes in the index how far it has come."""
        index = self._store.index
        if index.read_only or self._scope.oids:
            return
        if self.report.complete:
            await index.update(lambda tx: position.forget(tx, self._purpose))
        else:
            await index.update(lambda tx: position.save(tx, self._purpose, self._position))

    async def _check_named(self) -> None:
        verdicts: dict[Oid, Verdict] = {}
        slots = trio.CapacityLimiter(2 * self._parallel)
        async with trio.open_nursery() as nursery:
            for oid in self._scope.oids:
                nursery.start_soon(self._check_one_named, nursery, slots, oid, verdicts)
        if self._failure is not None:
            raise self._failure
        for oid in self._scope.oids:  # in the order in which they were asked for
            if verdicts[oid].kind == "gone":
                raise NotFound(f"no object {oid}")
            self.report.take(verdicts[oid])
        self.report.complete = True

    async def _check_one_named(
        self, nursery: trio.Nursery, slots: trio.CapacityLimiter, oid: Oid, verdicts: dict[Oid, Verdict]
    ) -> None:
        async with slots:
            try:
                verdicts[oid] = await self._checker.check(oid)
            except OSError as failed:
                verdicts[oid] = Verdict(oid, "unreachable", failed.strerror or str(failed))
            except LfsfsError as failed:
                self._failure = self._failure or failed
                nursery.cancel_scope.cancel()

    async def _check_all(self) -> None:
        if self._position.stage == "objects":
            if not await self._check_objects():
                return
            self._position = replace(self._position, stage="vectors", after="")
        self.report.complete = await self._check_vectors()

    # Objects.

    async def _check_objects(self) -> bool:
        """Whether all were looked at."""
        after = Oid.from_bytes(self._position.key) if self._position.after else None
        survey = Survey(self._store, after) if self._scope.share is None else None
        ended, goes_on = False, True
        async with trio.open_nursery() as nursery:
            slots = trio.Semaphore(2 * self._parallel)
            while goes_on and not ended:
                page = self._store.index.view(lambda tx, after=after: _page(tx, after))  # type: ignore[misc]
                ended = len(page) < PAGE
                after = None if ended else Oid.from_bytes(page[-1][0])
                rows = self._readable(page)
                listed = None if survey is None else await survey.advance(after)
                self._away = survey is not None and self._store.remote is not None and listed is None
                goes_on = await self._start(nursery, slots, rows, listed)
        if self._failure is not None:
            raise self._failure
        if survey is not None:
            await survey.settle()
            self._tell(survey)
        return goes_on

    def _readable(self, page: list[tuple[bytes, bytes]]) -> list[ObjectStat]:
        """The rows; one that cannot be read is told."""
        rows = []
        for key, value in page:
            try:
                rows.append(catalog.decode_row(key, value))
            except UNREADABLE:
                self.report.corrupt[key.hex()] = "its row in the index cannot be read: `lfsfs fsck --repair`"
        return rows

    async def _start(
        self, nursery: trio.Nursery, slots: trio.Semaphore, rows: list[ObjectStat],
        listed: dict[Oid, int] | None,
    ) -> bool:  # fmt: skip
        """Starts the checks of one page; False where a budget leaves no room for all of them."""
        for row in rows:
            chosen = self._is_chosen()
            if chosen:
                await slots.acquire()
                if not self._has_room(row.size):
                    return False
            done = [not chosen]
            self._under_way.append((row, done))
            if chosen:
                self._admitted = (self._admitted or 0) + row.size
                otherwise = AWAY if self._away else UNKNOWN
                remote_size = otherwise if listed is None else listed.get(row.oid)
                nursery.start_soon(self._one, nursery, slots, row, remote_size, done)
            else:
                self._advance()
        return True

    async def _one(
        self, nursery: trio.Nursery, slots: trio.Semaphore, row: ObjectStat,
        remote_size: int | None, done: list[bool],
    ) -> None:  # fmt: skip
        try:
            try:
                verdict = await self._checker.check(row.oid, remote_size)
            except OSError as failed:
                verdict = Verdict(row.oid, "unreachable", failed.strerror or str(failed))
            self.report.take(verdict)
            done[0] = True
            self._advance()
        except LfsfsError as failed:
            self._failure = self._failure or failed
            nursery.cancel_scope.cancel()
        finally:
            slots.release()

    def _advance(self) -> None:
        """Moves on past all that is done, and remembers that from time to time."""
        while self._under_way and self._under_way[0][1][0]:
            row, _ = self._under_way.popleft()
            self._position = self._position.moved(row.oid.to_bytes(), 1, row.size)
        self.progress.objects, self.progress.bytes = self._position.objects, self._position.size
        if trio.current_time() - self._saved > self._save_seconds:
            self._saved = trio.current_time()
            where = self._position
            self._store.index.defer(lambda tx: position.save(tx, self._purpose, where))

    def _is_chosen(self) -> bool:
        return self._scope.share is None or random.random() < self._scope.share

    def _has_room(self, size: int) -> bool:
        """Whether the budgets allow to begin something of this size. Each run begins something, and so comes on."""
        scope = self._scope
        if self._admitted is None:
            return True
        if scope.seconds is not None and trio.current_time() - self._begun >= scope.seconds:
            return False
        return scope.size is None or self._admitted + size <= scope.size

    def _tell(self, survey: Survey) -> None:
        report = self.report
        report.orphaned, report.unindexed = survey.orphaned, survey.unindexed
        report.orphans = list(map(str, survey.orphans[:NAMED]))
        report.unindexed_oids = list(map(str, survey.unindexed_oids[:NAMED]))

    # Embeddings.

    async def _check_vectors(self) -> bool:
        """Whether all rows were looked at."""
        if self._store.index.view(lambda tx: tx.count("packs") + tx.count("vectors")):
            await self._store.embeddings.settle()
        while keys := self._store.index.view(lambda tx: vectors.page(tx, self._position.key)):
            if not self._has_room(0):
                return False
            chosen = [key for key in keys if self._is_chosen()]
            for found in await vectors.check_rows(self._store, chosen, self.pace):
                if found.oid is not None:
                    self.report.corrupt[str(found.oid)] = found.why
                else:
                    self.report.damaged_vectors[found.name] = found.why
            self.report.vectors += len(chosen)
            self._admitted = self._admitted or 0
            self._position = self._position.moved(keys[-1], 0, 0)
            self._advance()
        return True


def _page(tx: Tx, after: Oid | None) -> list[tuple[bytes, bytes]]:
    start = b"" if after is None else after.to_bytes() + b"\0"
    return next(tx.pages("objects", PAGE, start=start), [])
