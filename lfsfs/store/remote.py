"""Remote: the tier behind the local disk, as the store uses it. What is where, what comes, what goes, what waits.

The local disk has what waits for its upload (journal) and some of what was uploaded (residents). Everything else of
the catalog is in the remote tier only, and comes by fetches.
"""

import contextlib
import logging
import math
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from lfsfs.config import CacheOptions
from lfsfs.errors import Denied, LfsfsError, NotFound, ReadOnly
from lfsfs.oid import Oid
from lfsfs.store import catalog, digests, journal, repairs, residents
from lfsfs.store.bursts import Bursts
from lfsfs.store.cache import Cache
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.circuit import Circuit
from lfsfs.store.fetches import SLOWEST_BYTES_PER_SECOND, Fetches, Side
from lfsfs.store.index import Index, Tx
from lfsfs.store.journal import Pending
from lfsfs.store.moved import Moved
from lfsfs.store.placing import Work, put_sealed
from lfsfs.store.records import Records
from lfsfs.store.repairs import Repairs
from lfsfs.store.space import Space
from lfsfs.store.staged_file import Sealed
from lfsfs.store.staging import Staging
from lfsfs.store.uploads import LEAST_IN_PARTS, Uploads
from lfsfs.store.withdrawals import Withdrawals
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.remote import RemoteTier
from lfsfs.tiers.remote_wrapper import unchecked
from lfsfs.tiers.source import open_source

log = logging.getLogger("lfsfs.remote")
SWEEP_PAUSE_SECONDS = 60.0  # a mount that is short-lived looks for nothing
SWEEP_INTERVAL_SECONDS = 86_400.0
ABANDONED_SECONDS = 7 * 86_400.0  # within a week 5 TiB go at 9 MB/s
RECONCILE_SECONDS = 30.0  # between two tries to read what this machine had recorded
PROBE_INTERVAL_SECONDS = 1.0
PROBE_KEY = "probes"  # a note of no content, for a moment
BUSY_PAUSE_SECONDS = 0.05
PAGE = 256
OpenTier = Callable[[], AbstractAsyncContextManager[RemoteTier]]


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """How the remote tier and the local disk stand. Sizes in bytes, `oldest` in nanoseconds since 1970."""

    url: str
    mode: str
    degraded: bool
    error: str
    pending_objects: int
    pending_bytes: int
    cached: int
    cache_limit: int
    pending: int
    pending_limit: int | None
    uploading: int
    failing: int
    damaged: int = 0
    """Objects that this machine has found damaged in the remote tier, and that nobody has put right so far."""
    notice: str = ""
    """What a person should know of the records of this machine."""
    moved: Moved = field(default_factory=Moved)
    """Since the daemon began."""


class Remote:
    """The remote side of one open store. Used from one trio thread, inside `running`."""

    reconcile: Callable[[], Awaitable[None]]
    """What is done when the remote tier answers: set by the store. No record is written before.

    Deletions end; what this machine had recorded comes back, once for an index.
    """
    take_back: Callable[[Oid, int], Awaitable[None]]
    """Removes from the remote tier what was deleted while it was uploaded, and its size: set by the store."""

    def __init__(
        self,
        machine: str,
        url: str,
        identity: str,
        options: CacheOptions,
        open_tier: OpenTier,
        index: Index,
        local: LocalTier,
        staging: Staging,
        *,
        owns_cache: bool,
    ) -> None:
        self.url = url
        self.identity = identity
        self.options = options
        self.moved = Moved()
        self._machine = machine
        self.circuit = Circuit(self._probe)
        self.space = Space(
            index, local.root,
            cache_limit=options.size, pending_limit=options.pending_size, deadline=options.deadline,
            sealed=None if local.plain or options.mode != "write-back" else local.stored_size,
        )  # fmt: skip
        if owns_cache:  # another process does not know what this one has open
            self.space.evict = self._evict
        # What can be fetched again need not survive a power loss.
        evictable = local.quick(staging.directory)
        self.cache = Cache(index, evictable)
        side = Side(
            index,
            staging,
            self.circuit,
            self.space,
            self.cache,
            self.tier,
            options.deadline,
            owns_cache and options.mode != "s3-only",
            self.moved,
        )
        self.fetches = Fetches(side, evictable)
        self.records = Records(machine, local.root, index, self.circuit, self.tier, options.deadline)
        self.withdrawals = Withdrawals(
            machine, local.root, index, self.circuit, self.tier, self.records, options.deadline
        )
        self.fetches.join = self.withdrawals.join
        self.repairs = Repairs(
            index, self.circuit, self.tier, self.cache, self.space, local,
            partial(self.fetches.recheck, at_once=True), options.deadline,
        )  # fmt: skip
        self.uploads: Uploads | None = None
        self.bursts = Bursts()
        self._open_tier = open_tier
        self._index = index
        self._local = local
        self._keeper = local if options.mode == "write-back" else evictable
        self._connecting = trio.Lock()
        self._tier: RemoteTier | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Remote"]:
        """Background work happens inside; fetches that are still under way at the end are dropped."""
        failure: BaseException | None = None
        async with AsyncExitStack() as self._stack, trio.open_nursery() as nursery:
            self.fetches.nursery = nursery
            try:
                yield self
            except BaseException as failed:  # taken out of the nursery, which would wrap it in a group
                failure = failed
            nursery.cancel_scope.cancel()
        self.fetches.close()
        self.space.close()
        if failure is not None:
            raise failure

    async def tier(self) -> RemoteTier:
        """The tier itself, connected at the first use: most commands never need it."""
        async with self._connecting:
            if self._tier is None:
                self._tier = await self._stack.enter_async_context(self._open_tier())
            return self._tier

    async def _probe(self) -> None:
        await (await self.tier()).check()

    async def check(self, *, writing: bool) -> None:
        """Whether the remote tier can be used, and where `writing` written to: an error says what to do."""
        tier = await self.tier()
        await tier.check()
        key = f"{PROBE_KEY}/{self._machine}"
        with contextlib.suppress(NotFound):  # that the answer is understood is enough
            await tier.note(key)
        if not writing:
            return
        try:
            await tier.put_note(key, b"")
        except (Denied, ReadOnly) as refused:
            raise type(refused)(f"{refused}. To read only: mount with --read-only") from refused
        with contextlib.suppress(Denied):  # writing is enough to go on
            await tier.delete_note(key)

    # Objects in.

    async def place(
        self, sealed: Sealed, row: ObjectStat | None, local: LocalTier | None = None
    ) -> "Placement":
        """Sees to it that a commit has its bytes where the mode wants them before its row is written.

        Nothing is moved for an object that is known and whole: then it is here, or in the remote tier, or both.
        `local`: what puts it on the local disk, if not the tier that makes it durable there.
        """
        if row is not None and row.state == "whole":
            return Placement(self, sealed)
        damaged = row is not None and row.state == "corrupt"
        if self.options.mode != "write-back":
            sealed = await trio.to_thread.run_sync(sealed.written_out)
            await self._put_through(sealed, damaged=damaged)
            if damaged:
                await self.repairs.done(sealed.oid)
            if self.options.mode == "s3-only":
                return Placement(self, sealed)
        room = residents.room_of(self._local.stored_size(sealed.size))
        if self.options.mode == "write-through" and not await self.space.reserve_cache(room):
            return Placement(self, sealed)
        placement = Placement(self, sealed, local=True, damaged=damaged)
        placement.reserved = room if self.options.mode == "write-through" else 0
        try:
            if damaged:
                await self._local.delete(sealed.oid)
            placement.work = await put_sealed(local or self._keeper, sealed)
        except BaseException:
            placement.close()
            raise
        return placement

    async def _put_through(self, sealed: Sealed, *, damaged: bool) -> None:
        tier = await self.tier()
        await self.withdrawals.over(sealed.oid)

        async def put() -> None:
            if digests.needs_note(sealed.size):
                note = digests.encode(sealed.oid, sealed.size, sealed.blocks)
                await tier.put_note(digests.note_key(sealed.oid), note)
            with open_source(sealed.oid, sealed.path, over=damaged) as source:
                await tier.put_source(sealed.oid, source, unchecked)

        end = trio.current_time() + self.options.deadline + sealed.size / SLOWEST_BYTES_PER_SECOND
        if sealed.size <= LEAST_IN_PARTS:
            await self.circuit.call(put, end - trio.current_time())
            return
        if self.uploads is not None:  # or our own parts would go with those of a killed predecessor
            with trio.move_on_after(self.options.deadline):
                await self.uploads.cleared.wait()
        await self._index.update(lambda tx: journal.begin_direct(tx, sealed.oid))
        await self.circuit.call(put, max(0.0, end - trio.current_time()))
        self._index.defer(lambda tx: journal.end_direct(tx, sealed.oid))

    async def run(self) -> None:
        """Uploads, and records what this machine refers to, for ever: one process of a store does so."""
        if self.options.mode == "s3-only":
            await self._empty_cache()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_records)
            nursery.start_soon(self.withdrawals.run)
            nursery.start_soon(self.repairs.run)
            nursery.start_soon(self._run_probes)
            nursery.start_soon(self._run_sweeps)
            await (await self.uploader()).run()

    async def _empty_cache(self) -> None:
        """What was kept in another mode goes, as far as it is neither pinned nor open."""
        residents_left, _ = self.cache.victims(sys.maxsize, self.fetches.busy())
        for first in range(0, len(residents_left), PAGE):
            await self.cache.drop(residents_left[first : first + PAGE])

    async def _run_probes(self) -> None:
        """Finds out by itself when the remote tier is back: lookups do not wait for that, and may be all there is."""
        while True:
            if self.circuit.is_open:
                with contextlib.suppress(LfsfsError):  # it is back, and refuses: not our concern here
                    await self.circuit.call(self._probe, math.inf)
            await trio.sleep(PROBE_INTERVAL_SECONDS)

    async def _run_sweeps(self) -> None:
        """Aborts what was begun to be uploaded in parts long ago, by machines that never came back."""
        tier = await self.tier()
        while True:
            await trio.sleep(SWEEP_PAUSE_SECONDS)
            try:
                aborted = await self.circuit.call(lambda: tier.abort_uploads(ABANDONED_SECONDS), math.inf)
                if aborted:
                    log.info("%d uploads that nobody went on with were aborted", aborted)
            except LfsfsError as refused:
                log.warning("abandoned uploads were not looked for: %s", refused)
            await trio.sleep(SWEEP_INTERVAL_SECONDS)

    async def _run_records(self) -> None:
        while True:
            try:
                await self.circuit.call(self.reconcile, math.inf)
                await self.records.run()
            except (LfsfsError, OSError) as failed:
                self.records.failure = f"cannot read what this machine had recorded: {failed}"
                log.error("cannot read what this machine had recorded, and try again: %s", failed)
                await trio.sleep(RECONCILE_SECONDS)

    async def drain(self) -> None:
        """Uploads and records whatever waits for it, puts right what others found damaged; returns when all is done."""
        await self.withdrawals.join()
        await self.withdrawals.follow()
        await (await self.uploader()).drain()
        await self.repairs.look()
        await (await self.uploader()).drain()
        await self.reconcile()
        await self.records.publish()

    def is_drained(self) -> bool:
        return not self._index.view(journal.backlog).objects and self.records.is_published()

    async def upload(self, pending: Pending) -> None:
        """Uploads one that waits: for a process beside which no daemon does. Unavailable at the deadline."""
        uploads = await self.uploader()
        uploads.cleared.set()  # what others are uploading just now is not ours to clear
        deadline = self.options.deadline + pending.size / SLOWEST_BYTES_PER_SECOND
        await self.withdrawals.over(pending.oid)
        await self.circuit.call(lambda: uploads.upload(pending), deadline)
        await self._uploaded(pending)

    async def uploader(self) -> Uploads:
        if self.uploads is None:
            tier = await self.tier()
            self.uploads = Uploads(
                self._index,
                tier,
                self.circuit,
                self._local,
                self._uploaded,
                self.withdrawals.join,
                self.bursts,
                parallel=self.options.parallel,
            )
        return self.uploads

    async def _uploaded(self, pending: Pending) -> None:
        """The remote tier has it: from now on it is cache, where there is room for it."""
        self.moved.uploaded_objects += 1
        self.moved.uploaded_bytes += pending.size
        oid, stored = pending.oid, self._local.stored_size(pending.size)
        room = residents.room_of(stored)
        keeps = self.options.mode != "s3-only"
        fits = keeps and await self.space.reserve_cache(room)
        while keeps and not fits and (self.cache.is_held(oid) or oid in self.fetches.busy()):
            await trio.sleep(BUSY_PAUSE_SECONDS)  # a reader has it open: it cannot go now
            fits = await self.space.reserve_cache(room)
        if not fits:
            self.cache.leaving.add(oid)

        def write(tx: Tx) -> tuple[bool, bool]:
            row = catalog.get(tx, oid)
            known = row is not None and row.state != "deleting"
            # What was entered anew meanwhile is another matter: it is uploaded once more.
            left = journal.get(tx, oid) == pending and journal.leave(tx, oid) and known
            if left and fits:
                residents.add(tx, oid, stored, time.time_ns())
            return known, left

        try:
            known, left = await self._index.update(write)
            if left and not fits:
                await self.cache.remove_file(oid)
        finally:
            if fits:
                self.space.release_cache(room)
            else:
                self.cache.leaving.discard(oid)
            self.space.wake()
        if pending.replace:
            await self.repairs.done(oid)
        # Deleted while it was on its way. What is known and waits no more was uploaded by another process, or
        # found in the remote tier by a rebuild: it may have no other copy.
        if not known:
            try:
                await self.take_back(oid, pending.size)
            except LfsfsError as failed:
                log.warning(
                    "object %s was deleted while it was uploaded, and may stay in S3: %s", oid, failed
                )

    async def _evict(self, size: int) -> bool:
        """Frees at least so many bytes of cache: idle fetches, then residents, least recently used first.

        False, and nothing done, where all the rest is open or pinned.
        """
        idle = self.fetches.idle_room()
        victims, freed = self.cache.victims(size - idle, self.fetches.busy()) if idle < size else ([], 0)
        if idle + freed < size:
            return False
        self.fetches.drop_idle(size)
        await self.cache.drop(victims)
        return True

    async def delete(self, oid: Oid) -> None:
        """Takes the object, and its digest note, from the remote tier. Unavailable where that does not answer."""
        self.fetches.forget(oid)
        tier = await self.tier()

        async def remove() -> None:
            await tier.delete(oid)
            await tier.delete_note(digests.note_key(oid))

        await self.circuit.call(remove, self.options.deadline)

    # State.

    def status(self) -> RemoteStatus:
        backlog = self._index.view(journal.backlog)
        uploads = self.uploads
        failures = [
            self.circuit.last_error,
            *(uploads.failures.values() if uploads else ()),
            self.records.failure,
        ]
        error = next(filter(None, failures), "")
        return RemoteStatus(
            url=self.url, mode=self.options.mode, degraded=self.circuit.is_open, error=error,
            pending_objects=backlog.objects, pending_bytes=backlog.bytes,
            cached=self.space.cached(), cache_limit=self.space.cache_limit,
            pending=self.space.pending(), pending_limit=self.space.pending_limit,
            uploading=len(uploads.active) if uploads else 0, failing=len(uploads.failures) if uploads else 0,
            damaged=len(self._index.view(repairs.found)), notice=self.records.notice,
            moved=replace(self.moved),
        )  # fmt: skip


class Placement:
    """Where a commit has put its bytes: what its transaction writes of that, and the room that it holds until then."""

    def __init__(self, remote: Remote, sealed: Sealed, *, local: bool = False, damaged: bool = False) -> None:
        self.reserved = 0
        self.work: Work | None = None  # what is to be done before the transaction
        self._remote = remote
        self._sealed = sealed
        self._local = local
        self._damaged = damaged

    def enter(self, tx: Tx) -> None:
        """In the transaction of the commit."""
        oid, size = self._sealed.oid, self._sealed.size
        if self._damaged:
            residents.drop(tx, oid)
        if not self._local:
            return
        if self._remote.options.mode == "write-through":
            residents.add(tx, oid, self._remote._local.stored_size(size), time.time_ns())
        elif residents.get(tx, oid) is None:
            stored = self._remote._local.stored_size(size)
            journal.enter(tx, oid, size, stored=stored, replace=self._damaged)

    def close(self) -> None:
        """The transaction is over."""
        self._remote.space.release_cache(self.reserved)
        self.reserved = 0
