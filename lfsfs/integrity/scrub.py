"""Scrub: a verification of the whole store, again and again, in a daemon, while nobody uses the store."""

import logging
import math
import time
from dataclasses import replace

import trio

from lfsfs.config import ScrubOptions
from lfsfs.errors import LfsfsError
from lfsfs.integrity import scrub_record
from lfsfs.integrity.idleness import Idleness
from lfsfs.integrity.pace import Pace
from lfsfs.integrity.report import Report
from lfsfs.integrity.scrub_record import Pass, ScrubRecord
from lfsfs.integrity.verification import Scope, Verification
from lfsfs.store.store import Store
from lfsfs.units import SECOND_NS, format_size

log = logging.getLogger("lfsfs.integrity")
RECORD_SECONDS = 30.0  # so much of its work is done once more after a kill
RETRY_SECONDS = 600.0
LONGEST_SLEEP_SECONDS = 3600.0  # the clock may be set


class Scrub:
    """The scrub of one store. One process of a store runs it."""

    def __init__(self, store: Store, options: ScrubOptions) -> None:
        self._store = store
        self._options = options

    async def run(self) -> None:
        """Scrubs, for ever."""
        if not self._options.rate or self._store.index.read_only:
            return
        while True:
            await self._until_due()
            try:
                await self._pass()
            except (LfsfsError, OSError) as failed:
                log.error("the scrub was broken off, and goes on later: %s", failed)
                await trio.sleep(RETRY_SECONDS)
            except Exception:  # whatever it is, the daemon serves on
                log.exception("the scrub was broken off by an unexpected failure")
                await trio.sleep(RETRY_SECONDS)

    async def _until_due(self) -> None:
        while (left := self._due() - time.time()) > 0:  # noqa: ASYNC110 - it is the clock
            await trio.sleep(min(left, LONGEST_SLEEP_SECONDS))

    def _due(self) -> float:
        """When the next pass may begin, in seconds since 1970: at once where one was begun, or there was none."""
        record = self._store.index.view(scrub_record.load)
        if record.present is not None or record.last is None:
            return 0.0
        return record.last.finished / SECOND_NS + self._options.interval

    async def _pass(self) -> None:
        """Begins a pass, or goes on with the one that was begun, to its end."""
        idleness: Idleness
        pace = Pace(self._options.rate, lambda: idleness.is_used())
        idleness = Idleness(self._store.index, pace, self._options.idle)
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(idleness.run)
            try:
                await idleness.wait()
                await self._verify(pace, idleness)
            except (
                LfsfsError,
                OSError,
            ) as failed:  # taken out of the nursery, which would wrap it in a group
                failure = failed
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _verify(self, pace: Pace, idleness: Idleness) -> None:
        verification = Verification(
            self._store, Scope(resume=True), pace=pace, parallel=1, purpose="scrub", save_seconds=math.inf
        )
        before = self._store.index.view(scrub_record.load)
        present = before.present or Pass(started=time.time_ns())
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._record, verification, present, before.last, idleness)
                try:
                    await verification.run()
                except (LfsfsError, OSError) as failed:
                    failure = failed
                nursery.cancel_scope.cancel()
        finally:
            now = _counted(present, verification)
            if verification.report.complete:
                now = replace(now, finished=time.time_ns())
            with trio.CancelScope(shield=True):
                await self._save(ScrubRecord(None, now) if now.finished else ScrubRecord(now, before.last))
        if failure is not None:
            raise failure
        _tell(now, verification.report)

    async def _save(self, record: ScrubRecord) -> None:
        await self._store.index.update(lambda tx: scrub_record.save(tx, record))

    async def _record(
        self, verification: Verification, present: Pass, last: Pass | None, idleness: Idleness
    ) -> None:
        """Notes how far it has come, from time to time."""
        while True:
            await self._save(ScrubRecord(_counted(present, verification), last))
            if verification.position.objects:
                await verification.remember()
            idleness.excuse()
            await trio.sleep(RECORD_SECONDS)


def _counted(present: Pass, verification: Verification) -> Pass:
    """The pass with what this part of it has found; the counts before it were written by the parts before."""
    report, position = verification.report, verification.position
    return replace(
        present,
        objects=position.objects,
        bytes=position.size,
        healed=present.healed + len(report.healed),
        corrupt=present.corrupt + len(report.corrupt) + len(report.damaged_vectors),
        missing=present.missing + len(report.missing),
    )


def _tell(done: Pass, report: Report) -> None:
    level = logging.ERROR if done.corrupt or done.missing else logging.INFO
    log.log(
        level, "scrub: %d objects (%s): %d corrupt, %d missing, %d healed", done.objects, format_size(done.bytes),
        done.corrupt, done.missing, done.healed,
    )  # fmt: skip
    for name, why in report.damaged_vectors.items():
        log.error("scrub: vector %s: %s", name, why)
