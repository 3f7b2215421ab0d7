"""Remote: the tier behind the local disk, as the store uses it. What is where, what comes, what goes, what waits.

The local disk has what waits for its upload (journal) and some of what was uploaded (residents). Everything else of
the catalog is in the remote tier only, and comes by fetches.
"""

import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from lfsfs.config import CacheOptions
from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, digests, journal, residents
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.circuit import Circuit
from lfsfs.store.fetch import Fetch, Lanes
from lfsfs.store.hashing import BLOCK_BYTES, Digest, block_digest
from lfsfs.store.index import Index, Tx
from lfsfs.store.journal import Pending
from lfsfs.store.space import Space
from lfsfs.store.staging import HEAD_BYTES, Sealed, Staging, type_of
from lfsfs.store.uploads import Uploads
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.remote import RemoteTier
from lfsfs.tiers.turns import Turns

log = logging.getLogger("lfsfs.remote")
ABSENCE_SECONDS = 2.0  # how long it is remembered that the remote tier has not got an object
ABSENCES = 10_000
LOOKUP_SECONDS = 5.0  # what a look for an unknown object may take
FLIGHTS = 8  # ranged GETs at once
AHEAD_BLOCKS = 32  # as far as a sequential reader is read ahead of
TOUCH_NS = 10**9  # a use within a second of the last one recorded is not recorded
EVICTION_BATCH = 512
UNKNOWN_MODE = 0o644  # the permission bits of an object that another machine has committed
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


class Remote:
    """The remote side of one open store. Used from one trio thread, inside `running`."""

    def __init__(
        self,
        url: str,
        options: CacheOptions,
        open_tier: OpenTier,
        index: Index,
        local: LocalTier,
        staging: Staging,
    ) -> None:
        self.url = url
        self.options = options
        self.circuit = Circuit()
        self.space = Space(
            index, local.root,
            cache_limit=options.size, pending_limit=options.pending_size, deadline=options.deadline,
        )  # fmt: skip
        self.space.evict = self.evict
        self.uploads: Uploads | None = None
        self._open_tier = open_tier
        self._index = index
        self._local = local
        self._cache = LocalTier(
            local.root, temp=staging.directory, durable=False
        )  # what is evictable need not last
        self._staging = staging
        self._held: dict[Oid, int] = {}
        self._leaving: dict[Oid, trio.Event] = {}
        self._fetches: dict[Oid, Fetch] = {}
        self._absent: dict[Oid, float] = {}
        self._turns = Turns()
        self._flights = trio.CapacityLimiter(FLIGHTS)
        self._connecting = trio.Lock()
        self._tier: RemoteTier | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Remote"]:
        """Background work happens inside; fetches that are still under way at the end are dropped."""
        failure: BaseException | None = None
        async with AsyncExitStack() as self._stack, trio.open_nursery() as self._nursery:
            try:
                yield self
            except BaseException as failed:  # taken out of the nursery, which would wrap it in a group
                failure = failed
            self._nursery.cancel_scope.cancel()
        for fetch in self._fetches.values():
            fetch.close()
        self._fetches.clear()
        if failure is not None:
            raise failure

    async def tier(self) -> RemoteTier:
        """The tier itself, connected at the first use: most commands never need it."""
        async with self._connecting:
            if self._tier is None:
                self._tier = await self._stack.enter_async_context(self._open_tier())
            return self._tier

    # Objects in.

    async def place(self, sealed: Sealed, row: ObjectStat | None) -> "Placement":
        """Sees to it that a commit has its bytes where the mode wants them before its row is written.

        Nothing is moved for an object that is known and whole: then it is here, or in the remote tier, or both.
        """
        if row is not None and row.state == "whole":
            return Placement(self, sealed)
        damaged = row is not None and row.state == "corrupt"
        if self.options.mode != "write-back":
            await self._put_through(sealed, damaged=damaged)
            if self.options.mode == "s3-only":
                return Placement(self, sealed)
        room = residents.room_of(sealed.size)
        if self.options.mode == "write-through" and not await self.space.reserve_cache(room):
            return Placement(self, sealed)
        placement = Placement(self, sealed, local=True, damaged=damaged)
        placement.reserved = room if self.options.mode == "write-through" else 0
        try:
            if damaged:
                await self._local.delete(sealed.oid)
            await self._local.put(sealed.oid, sealed.path)
        except BaseException:
            placement.close()
            raise
        return placement

    async def _put_through(self, sealed: Sealed, *, damaged: bool) -> None:
        tier = await self.tier()

        async def put() -> None:
            if damaged:
                await tier.delete(sealed.oid)
            if digests.needs_note(sealed.size):
                note = digests.encode(sealed.oid, sealed.size, sealed.blocks)
                await tier.put_note(digests.note_key(sealed.oid), note)
            await tier.put(sealed.oid, sealed.path)

        await self.circuit.call(put, self.options.deadline + sealed.size / SLOWEST_BYTES_PER_SECOND)

    @property
    def keeps_local(self) -> bool:
        """Whether what was fetched may stay on the local disk."""
        return self.options.mode != "s3-only"

    async def run_uploads(self) -> None:
        """The uploader, for ever: one process of a store runs it."""
        await (await self.uploader()).run()

    async def uploader(self) -> Uploads:
        if self.uploads is None:
            tier = await self.tier()
            self.uploads = Uploads(
                self._index,
                tier,
                self.circuit,
                self._local.path,
                self._uploaded,
                parallel=self.options.parallel,
            )
        return self.uploads

    async def _uploaded(self, pending: Pending) -> None:
        """The remote tier has it: from now on it is cache, where there is room for it."""
        oid, room = pending.oid, residents.room_of(pending.size)
        fits = await self.space.reserve_cache(room)
        while not fits and self._is_busy(oid):
            await trio.sleep(BUSY_PAUSE_SECONDS)  # a reader has it open: it cannot go now
            fits = await self.space.reserve_cache(room)
        if not fits:
            self._leaving[oid] = trio.Event()

        def write(tx: Tx) -> bool:
            row = catalog.get(tx, oid)
            known = journal.leave(tx, oid) and row is not None and row.state != "deleting"
            if known and fits:
                residents.add(tx, oid, pending.size, time.time_ns())
            return known

        try:
            known = await self._index.update(write)
            if known and not fits:
                await self._cache.delete(oid)
        finally:
            if fits:
                self.space.release_cache(room)
            else:
                self._leaving.pop(oid).set()
            self.space.wake()
        if not known:  # deleted while it was on its way
            await (await self.tier()).delete(oid)

    # Objects out.

    async def discover(self, oid: Oid) -> ObjectStat | None:
        """The row of an object that another machine has committed; None if the remote tier has not got it either.

        Absence is remembered for a moment. Unavailable where the remote tier does not say.
        """
        if self._absent.get(oid, 0.0) > trio.current_time():
            return None
        async with self._turns.of(oid):
            row = self._index.view(lambda tx: catalog.get(tx, oid))
            if row is not None:
                return row
            tier = await self.tier()
            try:
                size = await self.circuit.call(
                    lambda: tier.size(oid),
                    0.0 if self.circuit.is_open else min(LOOKUP_SECONDS, self.options.deadline),
                )
            except NotFound:
                self._remember_absence(oid)
                return None
            now = time.time_ns()
            row = ObjectStat(oid, size, now, now, UNKNOWN_MODE, UNKNOWN_TYPE, "whole")
            return await self._index.update(lambda tx: _add_discovered(tx, row))

    def _remember_absence(self, oid: Oid) -> None:
        if len(self._absent) >= ABSENCES:
            self._absent.clear()
        self._absent[oid] = trio.current_time() + ABSENCE_SECONDS

    def is_local(self, oid: Oid) -> bool:
        """Whether the local disk has it, as far as the index knows."""
        if oid in self._leaving:
            return False
        return self._index.view(lambda tx: (residents.get(tx, oid) or journal.get(tx, oid)) is not None)

    def hold(self, oid: Oid) -> None:
        """It is open: not to be evicted until as many `unhold` have come."""
        self._held[oid] = self._held.get(oid, 0) + 1

    def unhold(self, oid: Oid) -> None:
        self._held[oid] -= 1
        if not self._held[oid]:
            del self._held[oid]
        self._touch(oid)

    def _touch(self, oid: Oid) -> None:
        present = self._index.view(lambda tx: residents.get(tx, oid))
        now = time.time_ns()
        if present is not None and now - present.used > TOUCH_NS:
            self._index.defer(lambda tx: residents.touch(tx, oid, now))

    async def reader(self, row: ObjectStat) -> "FetchReader":
        """A reader of bytes that come from the remote tier. NotFound, Corrupt, Unavailable."""
        fetch = self._fetches.get(row.oid)
        if fetch is None:
            async with self._turns.of(row.oid):
                fetch = self._fetches.get(row.oid) or await self._begin(row)
        return FetchReader(self, fetch)

    async def _begin(self, row: ObjectStat) -> Fetch:
        tier = await self.tier()
        lanes = Lanes(tier, self.circuit, self.space, self._nursery, self._flights, self.options.deadline)
        known = self._index.view(lambda tx: catalog.digests(tx, row.oid))
        small: bytes | None = None
        ours = bool(known) or row.size == 0
        if not ours:
            known, small = await self._find_digests(tier, row)
        path = self._staging.new_path()
        verified = ours or small is not None
        fetch = Fetch(
            lanes, row.oid, row.size, known, path,
            whole=lambda: self._promote(fetch, verified=verified), ended=self.ended,
        )  # fmt: skip
        self._fetches[row.oid] = fetch
        if small:
            await fetch.seed(small)
        return fetch

    async def _find_digests(self, tier: RemoteTier, row: ObjectStat) -> tuple[bytes, bytes | None]:
        """The block digests of an object that another machine has committed, and its bytes where it is one block."""
        if not digests.needs_note(row.size):
            content = await self.circuit.call(lambda: tier.read(row.oid, 0, row.size), self.options.deadline)
            if Oid.of(content) != row.oid:
                raise Corrupt(f"object {row.oid} is damaged in the remote tier")
            found = block_digest(content)
            await self._note_digests(row.oid, found, type_of(content[:HEAD_BYTES]))
            return found, content
        try:
            note = await self.circuit.call(
                lambda: tier.note(digests.note_key(row.oid)), self.options.deadline
            )
            found = digests.decode(note, row.oid, row.size)
            await self._note_digests(row.oid, found, None)
            return found, None
        except (NotFound, Corrupt) as missing:
            log.warning(
                "object %s: no usable digest note in the remote tier, reading all of it: %s", row.oid, missing
            )
        return await self._make_digests(tier, row), None

    async def _make_digests(self, tier: RemoteTier, row: ObjectStat) -> bytes:
        """Reads the whole object, for its digests: no lfsfs has put it there. Nothing of it is served yet."""
        digest = Digest()

        async def attempt() -> None:
            await tier.fetch(row.oid, digest.size, row.size - digest.size, digest.update)

        await self.circuit.call(attempt, self.options.deadline + row.size / SLOWEST_BYTES_PER_SECOND)
        if digest.sha256() != row.oid.to_bytes():
            raise Corrupt(f"object {row.oid} is damaged in the remote tier")
        await self._note_digests(row.oid, digest.blocks(), None)
        note = digests.encode(row.oid, row.size, digest.blocks())
        try:
            await tier.put_note(digests.note_key(row.oid), note)
        except LfsfsError as refused:
            log.info("object %s: its digest note was not written: %s", row.oid, refused)
        return digest.blocks()

    async def _note_digests(self, oid: Oid, blocks: bytes, content_type: str | None) -> None:
        def write(tx: Tx) -> None:
            row = catalog.get(tx, oid)
            if row is not None:
                catalog.put(tx, replace(row, content_type=content_type or row.content_type), blocks)

        await self._index.update(write)

    async def _promote(self, fetch: Fetch, *, verified: bool) -> None:
        """Every block is here: the object becomes a resident. Only bytes that have its SHA-256 do."""
        try:
            found, content_type = await trio.to_thread.run_sync(_examine, fetch.path, verified)
            if found is not None and found != fetch.oid:
                await self._discard_lie(fetch)
                return

            def write(tx: Tx) -> bool:
                row = catalog.get(tx, fetch.oid)
                if row is None or row.state == "deleting":
                    return False
                if row.content_type == UNKNOWN_TYPE and content_type != UNKNOWN_TYPE:
                    catalog.put(tx, replace(row, content_type=content_type))
                residents.add(tx, fetch.oid, fetch.size, time.time_ns())
                os.chmod(fetch.path, row.mode)
                return True

            if self.keeps_local and await self._index.update(write):
                fetch.give_back()
                await self._cache.put(fetch.oid, fetch.path)
                self._retire(fetch)
        except (LfsfsError, OSError) as failed:
            log.warning("object %s: fetched, but not kept: %s", fetch.oid, failed)

    async def _discard_lie(self, fetch: Fetch) -> None:
        """Block digests that the bytes agree with, but the oid does not: they are forgotten, and so are the bytes."""
        log.error("object %s is damaged in the remote tier, and its digest note with it", fetch.oid)
        await self._index.update(lambda tx: catalog.forget_digests(tx, fetch.oid))
        self._retire(fetch)

    def _retire(self, fetch: Fetch) -> None:
        """Later readers go elsewhere; the present ones keep the file, which has no name of its own any more."""
        if self._fetches.get(fetch.oid) is fetch:
            del self._fetches[fetch.oid]
        fetch.retired = True
        fetch.path.unlink(missing_ok=True)
        self.ended(fetch)

    def ended(self, fetch: Fetch) -> None:
        """A reader, or a flight, is done with it."""
        fetch.used = trio.current_time()
        if fetch.is_idle and (fetch.retired or not self.keeps_local):
            if self._fetches.get(fetch.oid) is fetch:
                del self._fetches[fetch.oid]
            fetch.close()

    async def heal(self, row: ObjectStat) -> "FetchReader":
        """A reader of the remote tier's bytes in the place of a local copy that was found damaged or gone.

        Corrupt if the remote tier does not have it.
        """
        if self._index.view(lambda tx: journal.get(tx, row.oid)) is not None:
            raise Corrupt(f"object {row.oid} is damaged, and was not uploaded yet")
        if self._index.view(lambda tx: residents.get(tx, row.oid)) is not None:
            log.warning(
                "object %s: the local copy is damaged or gone, taking it from the remote tier", row.oid
            )
            await self._drop([row.oid])
        try:
            return await self.reader(row)
        except NotFound as missing:
            raise Corrupt(f"object {row.oid} is in the index, its bytes are gone") from missing

    async def prefetch(self, row: ObjectStat) -> bool:
        """Makes the object a resident; whether it is one now."""
        if not self.is_local(row.oid):
            async with await self.reader(row) as reader:
                await reader.fetch.fill()
            for _ in range(PROMOTION_POLLS):
                if self.is_local(row.oid):
                    break
                await trio.sleep(BUSY_PAUSE_SECONDS)
        return self.is_local(row.oid)

    # Eviction.

    def _is_busy(self, oid: Oid) -> bool:
        fetch = self._fetches.get(oid)
        return oid in self._held or (fetch is not None and not fetch.is_idle)

    async def evict(self, size: int) -> bool:
        """Frees at least so many bytes of cache: idle fetches, then residents, least recently used first.

        False, and nothing done, where all the rest is open or pinned.
        """
        idle = sorted(
            (fetch for fetch in self._fetches.values() if fetch.is_idle), key=lambda fetch: fetch.used
        )
        fetches, freed = [], 0
        for fetch in idle:
            if freed >= size:
                break
            fetches.append(fetch)
            freed += fetch.room
        victims = self._index.view(lambda tx: self._victims(tx, size - freed)) if freed < size else ([], 0)
        if freed + victims[1] < size:
            return False
        for fetch in fetches:
            del self._fetches[fetch.oid]
            fetch.close()
        await self._drop(victims[0])
        return True

    def _victims(self, tx: Tx, size: int) -> tuple[list[Oid], int]:
        found, freed = [], 0
        for oid in residents.least_recently_used(tx):
            if freed >= size:
                break
            if self._is_busy(oid) or oid in self._leaving or residents.is_pinned(tx, oid):
                continue
            present = residents.get(tx, oid)
            if present is not None:
                found.append(oid)
                freed += present.room
        return found, freed

    async def _drop(self, oids: list[Oid]) -> None:
        """Takes residents from the local disk: the file first, the row after it."""
        if not oids:
            return
        event = trio.Event()
        self._leaving.update((oid, event) for oid in oids)
        try:
            with trio.CancelScope(shield=True):
                for oid in oids:
                    await self._cache.delete(oid)
                await self._index.update(lambda tx: [residents.drop(tx, oid) for oid in oids])
        finally:
            for oid in oids:
                self._leaving.pop(oid, None)
            event.set()

    async def delete(self, oid: Oid) -> None:
        """Takes the object, and its digest note, from the remote tier. Unavailable where that does not answer."""
        fetch = self._fetches.pop(oid, None)
        if fetch is not None:
            self._retire(fetch)
        tier = await self.tier()

        async def remove() -> None:
            await tier.delete(oid)
            await tier.delete_note(digests.note_key(oid))

        await self.circuit.call(remove, self.options.deadline)

    # State.

    def status(self) -> RemoteStatus:
        backlog = self._index.view(journal.backlog)
        uploads = self.uploads
        error = self.circuit.last_error or next(iter(uploads.failures.values() if uploads else ()), "")
        return RemoteStatus(
            url=self.url, mode=self.options.mode, degraded=self.circuit.is_open, error=error,
            pending_objects=backlog.objects, pending_bytes=backlog.bytes,
            cached=self.space.cached(), cache_limit=self.space.cache_limit,
            pending=self.space.pending(), pending_limit=self.space.pending_limit,
            uploading=len(uploads.active) if uploads else 0, failing=len(uploads.failures) if uploads else 0,
        )  # fmt: skip


class Placement:
    """Where a commit has put its bytes: what its transaction writes of that, and the room that it holds until then."""

    def __init__(self, remote: Remote, sealed: Sealed, *, local: bool = False, damaged: bool = False) -> None:
        self.reserved = 0
        self._remote = remote
        self._sealed = sealed
        self._local = local
        self._damaged = damaged

    def enter(self, tx: Tx) -> None:
        """In the transaction of the commit."""
        oid, size = self._sealed.oid, self._sealed.size
        if not self._local:
            return
        if self._remote.options.mode == "write-through":
            residents.add(tx, oid, size, time.time_ns())
        elif residents.get(tx, oid) is None:
            journal.enter(tx, oid, size, replace=self._damaged)

    def close(self) -> None:
        """The transaction is over."""
        self._remote.space.release_cache(self.reserved)
        self.reserved = 0


class FetchReader:
    """One open of an object that comes from the remote tier. Reads ahead of a reader that goes on where it stopped."""

    def __init__(self, remote: Remote, fetch: Fetch) -> None:
        self.oid = fetch.oid
        self.size = fetch.size
        self.fetch = fetch
        self._remote = remote
        self._next = 0
        self._ahead = 0
        self._open = True
        fetch.users += 1

    async def __aenter__(self) -> "FetchReader":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Repeating is harmless."""
        if self._open:
            self._open = False
            self.fetch.users -= 1
            self._remote.ended(self.fetch)

    def is_verified(self, offset: int, size: int) -> bool:
        """There is no local file to read around us."""
        return False

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; short only at the end of the object."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        return await self.fetch.read(offset, size, self._window(offset, size))

    def _window(self, offset: int, size: int) -> int:
        """How many blocks to read ahead: twice as many each time that the reader has gone on, none after a jump."""
        here, end = offset // BLOCK_BYTES, (offset + size - 1) // BLOCK_BYTES
        if here == self._next or here == self._next - 1:
            if end >= self._next:
                self._ahead = min(max(1, self._ahead * 2), AHEAD_BLOCKS)
        else:
            self._ahead = 0
        self._next = end + 1
        return self._ahead


UNKNOWN_TYPE = "application/octet-stream"
SLOWEST_BYTES_PER_SECOND = (
    1 << 20
)  # what a transfer of a whole object may be as slow as before it counts as stuck
BUSY_PAUSE_SECONDS = 0.05
PROMOTION_POLLS = 200
ADOPTION_PAGE = 1_000
_ADOPTED_BY = b"remote"


async def adopt(index: Index, local: LocalTier, url: str) -> int:
    """Puts whatever lies on the local disk into the journal, once for each remote tier that the store is given."""
    if index.read_only or index.view(lambda tx: tx.get("meta", _ADOPTED_BY)) == url.encode():
        return 0
    after, number = None, 0
    while page := await local.scan(after, ADOPTION_PAGE):
        after = page[-1]
        number += await index.update(lambda tx, page=page: _enter_all(tx, page))  # type: ignore[misc]
    await index.update(lambda tx: tx.put("meta", _ADOPTED_BY, url.encode()))
    if number:
        log.info("%d objects on the local disk wait for their upload to %s", number, url)
    return number


def _enter_all(tx: Tx, page: list[Oid]) -> int:
    number = 0
    for oid in page:
        row = catalog.get(tx, oid)
        if row is not None and row.state == "whole":
            residents.drop(tx, oid)
            journal.enter(tx, oid, row.size)
            number += 1
    return number


def _add_discovered(tx: Tx, row: ObjectStat) -> ObjectStat:
    present = catalog.get(tx, row.oid)
    if present is not None:
        return present
    catalog.put(tx, row)
    return row


def _examine(path: Path, verified: bool) -> tuple[Oid | None, str]:
    """The oid of a file's bytes, unless they are known to be right, and its content type."""
    digest = Digest()
    with path.open("rb") as file:
        content_type = type_of(file.read(HEAD_BYTES))
        if verified:
            return None, content_type
        file.seek(0)
        while piece := file.read(BLOCK_BYTES):
            digest.update(piece)
    return Oid.from_bytes(digest.sha256()), content_type
