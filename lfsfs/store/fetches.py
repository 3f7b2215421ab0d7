"""Fetches: objects that come from the remote tier: looked for, read while they come, kept when they are whole."""

import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import trio

from lfsfs.errors import Corrupt, LfsfsError, NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.store import catalog, digests, events, journal, repairs, residents, unrecorded, withdrawn
from lfsfs.store.cache import Cache
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.circuit import Circuit
from lfsfs.store.fetch import Fetch, Lanes
from lfsfs.store.fetch_reader import FetchReader
from lfsfs.store.hashing import BLOCK_BYTES, Digest, block_digest
from lfsfs.store.index import Index, Tx
from lfsfs.store.mime import HEAD_BYTES, type_of
from lfsfs.store.moved import Moved
from lfsfs.store.shared import Shared
from lfsfs.store.space import Space
from lfsfs.store.staging import Staging
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.remote import RemoteTier

log = logging.getLogger("lfsfs.remote")
ABSENCE_SECONDS = 2.0  # how long it is remembered that the remote tier has not got an object
ABSENCES = 10_000
RECHECK_SECONDS = 30.0  # how soon after it was found damaged an object is looked at again
LOOKUP_SECONDS = 5.0  # what a look for an unknown object may take
IDLE_FETCHES = 128  # parts of objects that nobody reads just now
FLIGHTS = 8  # ranged GETs at once
UNKNOWN_MODE = 0o644  # the permission bits of an object that another machine has committed
UNKNOWN_TYPE = "application/octet-stream"
SLOWEST_BYTES_PER_SECOND = (
    1 << 20
)  # what a transfer of a whole object may be as slow as before it counts as stuck


@dataclass(frozen=True, slots=True)
class Side:
    """What the parts of the remote side share. `keeps`: whether what was fetched may stay on the local disk."""

    index: Index
    staging: Staging
    circuit: Circuit
    space: Space
    cache: Cache
    tier: Callable[[], Awaitable[RemoteTier]]
    deadline: float
    keeps: bool
    moved: Moved = field(default_factory=Moved)


class Fetches:
    """The fetches under way, one for each object, and what was learnt of objects that are not there."""

    nursery: trio.Nursery
    """Where flights fly: set by whoever opens one."""
    join: Callable[[], Awaitable[None]]
    """Awaited before an object is looked for in the remote tier: this machine is known there."""

    def __init__(self, side: Side, local: LocalTier) -> None:
        self._side = side
        self._files = local
        self._fetches: dict[Oid, Fetch] = {}
        self._absent: dict[Oid, float] = {}
        self._discovered: dict[Oid, ObjectStat] = {}
        self._lookups: Shared[ObjectStat | None] = Shared()
        self._rechecks: Shared[None] = Shared()
        self._beginnings: Shared[Fetch] = Shared()
        self._damaged: dict[Oid, float] = {}
        self._flights = trio.CapacityLimiter(FLIGHTS)

    def close(self) -> None:
        """Drops what is under way. No flight is left."""
        for fetch in self._fetches.values():
            fetch.close()
        self._fetches.clear()

    async def discover(self, oid: Oid) -> ObjectStat | None:
        """The row of an object that another machine has committed; None if the remote tier has not got it either.

        Absence is remembered for a moment. Unavailable where the remote tier does not say.
        """
        if self._absent.get(oid, 0.0) > trio.current_time() or self._is_leaving(oid):
            return None
        return await self._lookups.do(oid, lambda: self._look_up(oid))

    def _is_leaving(self, oid: Oid) -> bool:
        return self._side.index.view(lambda tx: withdrawn.is_absent(tx, oid))

    async def _look_up(self, oid: Oid) -> ObjectStat | None:
        tier = await self._side.tier()
        patience = 0.0 if self._side.circuit.is_open else min(LOOKUP_SECONDS, self._side.deadline)
        if not self._side.index.view(unrecorded.has_joined):
            with trio.move_on_after(LOOKUP_SECONDS) as impatience:
                await self.join()
            if impatience.cancelled_caught:
                raise Unavailable("the remote tier does not answer: this machine is not known there yet")
        try:
            size = await self._side.circuit.call(lambda: tier.size(oid), patience)
        except NotFound:
            self._remember_absence(oid)
            return None
        now = time.time_ns()
        row = ObjectStat(oid, size, now, now, UNKNOWN_MODE, UNKNOWN_TYPE, "whole")
        if self._is_leaving(oid):
            return None
        self._discovered[oid] = row

        def forget() -> None:
            self._discovered.pop(oid, None)

        self._side.index.defer(lambda tx: _add_discovered(tx, row), after=forget)
        return row

    def discovered(self, oid: Oid) -> ObjectStat | None:
        """The row of an object that was found just now, as long as the index has not got it.

        To be asked before the index is: what is gone here is there.
        """
        return self._discovered.get(oid)

    def _remember_absence(self, oid: Oid) -> None:
        if len(self._absent) >= ABSENCES:
            self._absent.clear()
        self._absent[oid] = trio.current_time() + ABSENCE_SECONDS

    async def reader(self, row: ObjectStat) -> FetchReader:
        """A reader of bytes that come from the remote tier. NotFound, Corrupt, Unavailable."""
        self._side.moved.misses += 1
        fetch = self._fetches.get(row.oid)
        while fetch is None or fetch.retired:
            try:
                fetch = await self._beginnings.do(row.oid, lambda: self._begin(row))
            except Corrupt:
                await self.found_damaged(row.oid)
                raise
        return FetchReader(fetch, self._side.space.cache_limit, ended=self.ended, damaged=self.found_damaged)

    async def recheck(self, row: ObjectStat, *, at_once: bool = False) -> bool:
        """Whether an object that was found damaged is whole in the remote tier by now: somebody may have healed it.

        It is read for that, all of it: not sooner than RECHECK_SECONDS after the last time, unless `at_once`.
        """
        if not at_once and self._damaged.get(row.oid, 0.0) > trio.current_time():
            return False
        try:
            await self._rechecks.do(row.oid, lambda: self._recheck(row))
        except (Corrupt, NotFound):
            self._damaged[row.oid] = trio.current_time() + RECHECK_SECONDS
            return False
        return True

    async def _recheck(self, row: ObjectStat) -> None:
        tier = await self._side.tier()
        size = await self._side.circuit.call(lambda: tier.size(row.oid), self._side.deadline)
        await self._make_digests(tier, replace(row, size=size))
        await self._side.index.update(lambda tx: _mark(tx, row.oid, "whole", size))

    async def found_damaged(self, oid: Oid) -> None:
        """The remote tier's bytes are wrong: the row says so, and the next commit of the object replaces them."""
        self._damaged[oid] = trio.current_time() + RECHECK_SECONDS
        log.error("object %s is damaged in the remote tier", oid)
        if not self._side.index.read_only:
            await self._side.index.update(lambda tx: _mark(tx, oid, "corrupt", None))

    async def _begin(self, row: ObjectStat) -> Fetch:
        present = self._fetches.get(row.oid)
        if present is not None and not present.retired:
            return present  # of one who has gone away since
        tier = await self._side.tier()
        lanes = Lanes(
            tier, self._side.circuit, self._side.space, self.nursery, self._flights, self._side.deadline,
            self._side.moved,
        )  # fmt: skip
        known = self._side.index.view(lambda tx: catalog.digests(tx, row.oid))
        small: bytes | None = None
        if not known and 0 < row.size <= BLOCK_BYTES:
            small = await self._read_block(tier, row)
            known = block_digest(small)
        part = self._files.new_part(self._side.staging.new_path(), row.oid, row.size)
        fetch = Fetch(
            lanes, row.oid, row.size, part, learn=lambda: self._find_digests(tier, row),
            whole=lambda: self._promote(fetch, verified=small is not None), ended=self.ended,
        )  # fmt: skip
        if known or not row.size:
            fetch.know(known)
        self._fetches[row.oid] = fetch
        if small:
            fetch.users += 1  # or it could be given up for the room that it asks for
            try:
                await fetch.seed(small)
            finally:
                fetch.users -= 1
        self._trim()
        return fetch

    async def _read_block(self, tier: RemoteTier, row: ObjectStat) -> bytes:
        """An object of one block: its oid verifies it."""
        content = await self._side.circuit.call(lambda: tier.read(row.oid, 0, row.size), self._side.deadline)
        if Oid.of(content) != row.oid:
            raise Corrupt(f"object {row.oid} is damaged in the remote tier")
        self._note_digests(row.oid, block_digest(content), type_of(content[:HEAD_BYTES]))
        return content

    async def _find_digests(self, tier: RemoteTier, row: ObjectStat) -> bytes:
        """The block digests of an object that another machine has committed."""
        try:
            note = await self._side.circuit.call(
                lambda: tier.note(digests.note_key(row.oid), digests.note_size(row.size)), self._side.deadline
            )
            found = digests.decode(note, row.oid, row.size)
            self._note_digests(row.oid, found, None)
            return found
        except (NotFound, Corrupt) as missing:
            log.warning(
                "object %s: no usable digest note in the remote tier, reading all of it: %s", row.oid, missing
            )
        return await self._make_digests(tier, row)

    async def _make_digests(self, tier: RemoteTier, row: ObjectStat) -> bytes:
        """Reads the whole object, for its digests: no lfsfs has put it there. Nothing of it is served yet."""
        digest = Digest()

        async def attempt() -> None:
            await tier.fetch(row.oid, digest.size, row.size - digest.size, digest.update)

        await self._side.circuit.call(attempt, self._side.deadline + row.size / SLOWEST_BYTES_PER_SECOND)
        if digest.sha256() != row.oid.to_bytes():
            raise Corrupt(f"object {row.oid} is damaged in the remote tier")
        self._note_digests(row.oid, digest.blocks(), None)
        note = digests.encode(row.oid, row.size, digest.blocks())
        try:
            await tier.put_note(digests.note_key(row.oid), note)
        except LfsfsError as refused:
            log.info("object %s: its digest note was not written: %s", row.oid, refused)
        return digest.blocks()

    def _note_digests(self, oid: Oid, blocks: bytes, content_type: str | None) -> None:
        """For later readers: the present ones do not wait until the index has it."""

        def write(tx: Tx) -> None:
            row = catalog.get(tx, oid)
            if row is not None:
                catalog.put(tx, replace(row, content_type=content_type or row.content_type), blocks)

        self._side.index.defer(write)

    async def _promote(self, fetch: Fetch, *, verified: bool) -> None:
        """Every block is here: the object becomes a resident. Only bytes that have its SHA-256 do."""
        try:
            found, content_type = await trio.to_thread.run_sync(_examine, fetch, verified)
            if found is not None and found != fetch.oid:
                await self._discard_lie(fetch)
                return

            def write(tx: Tx) -> bool:
                row = catalog.get(tx, fetch.oid)
                if row is None or row.state == "deleting":
                    return False
                if row.content_type == UNKNOWN_TYPE and content_type != UNKNOWN_TYPE:
                    catalog.put(tx, replace(row, content_type=content_type))
                residents.add(tx, fetch.oid, self._files.stored_size(fetch.size), time.time_ns())
                os.chmod(fetch.part.path, row.mode)
                return True

            if not self._side.keeps:
                return
            # Readers still have the file open: evicted now, it would take room that nobody counts.
            self._hold(fetch)
            if await self._side.index.update(write):
                fetch.give_back()
                await self._files.keep_part(fetch.oid, fetch.part)
                self._retire(fetch)
        except Exception as failed:  # whatever it is, the readers have their bytes
            log.warning("object %s: fetched, but not kept: %s", fetch.oid, failed)
        finally:
            fetch.settled.set()
            self.ended(fetch)

    async def _discard_lie(self, fetch: Fetch) -> None:
        """Block digests that the bytes agree with, but the oid does not: they are forgotten, and so are the bytes."""
        await self.found_damaged(fetch.oid)
        self._retire(fetch)

    def _retire(self, fetch: Fetch) -> None:
        """Later readers go elsewhere; the present ones keep the file, which has no name of its own any more."""
        if self._fetches.get(fetch.oid) is fetch:
            del self._fetches[fetch.oid]
        fetch.retired = True
        fetch.part.path.unlink(missing_ok=True)
        self.ended(fetch)

    def ended(self, fetch: Fetch) -> None:
        """A reader, or a flight, is done with it."""
        fetch.used = trio.current_time()
        if fetch.is_idle and (fetch.retired or not self._side.keeps):
            if self._fetches.get(fetch.oid) is fetch:
                del self._fetches[fetch.oid]
            self._close(fetch)

    async def heal(self, row: ObjectStat) -> FetchReader:
        """A reader of the remote tier's bytes in the place of a local copy that was found damaged or gone.

        Corrupt if the remote tier does not have it.
        """
        if self._side.index.view(lambda tx: journal.get(tx, row.oid)) is not None:
            raise Corrupt(f"object {row.oid} is damaged, and was not uploaded yet")
        if self._side.index.view(lambda tx: residents.get(tx, row.oid)) is not None:
            log.warning(
                "object %s: the local copy is damaged or gone, taking it from the remote tier", row.oid
            )
            await self._side.cache.drop([row.oid])
        try:
            reader = await self.reader(row)
        except NotFound as missing:
            raise Corrupt(f"object {row.oid} is in the index, its bytes are gone") from missing
        if self._side.keeps:
            self.nursery.start_soon(self._bring_back, row)
        return reader

    async def _bring_back(self, row: ObjectStat) -> None:
        try:
            await self.prefetch(row)
        except LfsfsError as failed:
            log.warning("object %s: not healed on the local disk: %s", row.oid, failed)

    async def prefetch(self, row: ObjectStat) -> bool:
        """Makes the object a resident; whether it is one now."""
        if not self._side.cache.has(row.oid):
            async with await self.reader(row) as reader:
                await reader.fetch.fill()
                if reader.fetch.is_whole:
                    await reader.fetch.settled.wait()
        return self._side.cache.has(row.oid)

    # Room.

    def busy(self) -> frozenset[Oid]:
        """Objects of which something is open or flying here."""
        return frozenset(oid for oid, fetch in self._fetches.items() if not fetch.is_idle)

    def _trim(self) -> None:
        """Each fetch has a file open: of those that nobody uses, only so many stay."""
        idle = [fetch for fetch in self._fetches.values() if fetch.is_idle]
        for fetch in sorted(idle, key=lambda fetch: fetch.used)[: max(0, len(idle) - IDLE_FETCHES)]:
            del self._fetches[fetch.oid]
            self._close(fetch)

    def drop_idle(self, size: int) -> int:
        """Gives up fetches that nobody uses, the least recently used first, until they make `size` bytes."""
        freed = 0
        for fetch in sorted(self._fetches.values(), key=lambda fetch: fetch.used):
            if freed >= size:
                break
            if fetch.is_idle and fetch.room:
                freed += fetch.room
                del self._fetches[fetch.oid]
                self._close(fetch)
        return freed

    def idle_room(self) -> int:
        """The bytes that `drop_idle` could free."""
        return sum(fetch.room for fetch in self._fetches.values() if fetch.is_idle)

    def _hold(self, fetch: Fetch) -> None:
        """The resident that a fetch has become is in use as long as the fetch is."""
        self._side.cache.hold(fetch.oid)
        fetch.held = True

    def _close(self, fetch: Fetch) -> None:
        fetch.close()
        if fetch.held:
            fetch.held = False
            self._side.cache.unhold(fetch.oid)

    def forget(self, oid: Oid) -> None:
        """The object was deleted: nobody finds its fetch any more."""
        fetch = self._fetches.get(oid)
        if fetch is not None:
            self._retire(fetch)


def _mark(tx: Tx, oid: Oid, state: str, size: int | None) -> None:
    """Notes what was found of an object in the remote tier. The digests of a damaged one may be wrong as well."""
    row = catalog.get(tx, oid)
    if row is None or row.state == "deleting":
        return
    catalog.put(tx, replace(row, state=state, size=row.size if size is None else size))
    if state == "corrupt":
        if row.state != "corrupt":
            events.record(tx, events.Event("object-corrupt", oid.to_bytes()))
        catalog.forget_digests(tx, oid)
        repairs.enter(tx, oid)
    else:
        repairs.settle(tx, oid)


def _add_discovered(tx: Tx, row: ObjectStat) -> None:
    if catalog.get(tx, row.oid) is None and not withdrawn.is_absent(tx, row.oid):
        catalog.put(tx, row)


def _examine(fetch: Fetch, verified: bool) -> tuple[Oid | None, str]:
    """The oid of the bytes that came, unless they are known to be right, and their content type. Corrupt; OSError."""
    content_type = type_of(fetch.part.read(0, min(HEAD_BYTES, fetch.size)))
    if verified:
        return None, content_type
    digest = hashlib.sha256()
    for offset in range(0, fetch.size, BLOCK_BYTES):
        digest.update(fetch.part.read(offset, min(BLOCK_BYTES, fetch.size - offset)))
    return Oid.from_bytes(digest.digest()), content_type
