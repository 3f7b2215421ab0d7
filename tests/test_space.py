"""Space as a model has it: writers, fetches, uploads and cancellations in any order, looked at after every step.

What lies on the disk is asked of the disk (st_blocks), not of Space.
"""

import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.abc
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from lfsfs.errors import NoSpace
from lfsfs.oid import Oid
from lfsfs.store import journal, residents
from lfsfs.store.index import Index, Tx
from lfsfs.store.layout import open_layout
from lfsfs.store.space import STAT_BLOCK_BYTES, Grant, Space

KIB = 1 << 10
INDEX_BYTES = 1 << 20  # of the cache's bound: the index lies on the same disk
PENDING_LIMIT = 512 * KIB
CACHE_LIMIT = 256 * KIB + INDEX_BYTES
DEADLINE = 60.0
STUCK_SECONDS = 0.02  # of real time: then the clock jumps to whatever is waited for


@dataclass(frozen=True)
class Writing:
    """One file: several tasks write to it at once, each its pieces; then it is committed or dropped."""

    pieces: list[list[tuple[int, int]]]
    """For each task: offset and size, in bytes."""
    committed: bool
    cancelled_after: int | None
    """Turns of the scheduler."""


@dataclass(frozen=True)
class Fetching:
    """Room for what comes from S3, held for some turns; `kept`: it becomes a resident."""

    size: int
    turns: int
    kept: bool
    cancelled_after: int | None


turns = st.one_of(st.none(), st.integers(0, 40))
piece = st.tuples(
    st.sampled_from([0, 1, 5000, 64 * KIB, 200 * KIB]), st.sampled_from([1, 4096, 30_000, 96 * KIB])
)
writing = st.builds(
    Writing, st.lists(st.lists(piece, min_size=1, max_size=4), min_size=1, max_size=3), st.booleans(), turns
)
fetching = st.builds(Fetching, st.integers(0, 300 * KIB), st.integers(0, 10), st.booleans(), turns)


def room(fd: int) -> int:
    return os.fstat(fd).st_blocks * STAT_BLOCK_BYTES


@dataclass(eq=False)
class World(trio.abc.Instrument):
    """A store's disk and its Space; after each step of any task it looks whether a bound is exceeded."""

    index: Index
    folder: Path
    space: Space
    staged: dict[int, Oid] = field(default_factory=dict)
    """Files being written, by descriptor; once the index knows the object it counts there."""
    fetched: dict[Oid, int] = field(default_factory=dict)
    """Bytes that came from S3; as above."""
    grants: dict[int, Grant] = field(default_factory=dict)
    beyond: int = 0
    """The most bytes that a file had more than its grant."""
    peak_pending: int = 0
    peak_cached: int = 0
    number: int = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.index.view(self._look)

    def _look(self, tx: Tx) -> None:
        def is_new(oid: Oid) -> bool:
            return journal.get(tx, oid) is None and residents.get(tx, oid) is None

        staged = sum(room(fd) for fd, oid in self.staged.items() if is_new(oid))
        fetched = sum(size for oid, size in self.fetched.items() if is_new(oid))
        pending = staged + journal.backlog(tx).room
        self.peak_pending = max(self.peak_pending, pending)
        self.peak_cached = max(self.peak_cached, fetched + residents.total(tx))
        for fd, grant in self.grants.items():
            self.beyond = max(self.beyond, room(fd) - grant.reserved)

    def oid(self) -> Oid:
        self.number += 1
        return Oid.of(str(self.number).encode())

    async def evict(self, size: int) -> bool:
        """As Remote does it: the least recently used go, if they make enough."""

        def look(tx: Tx) -> list[tuple[Oid, int]]:
            rows = [residents.get(tx, oid) for oid in residents.least_recently_used(tx)]
            return [(row.oid, row.room) for row in rows if row is not None]

        victims, freed = [], 0
        for oid, room in self.index.view(look):
            if freed < size:
                victims.append(oid)
                freed += room
        if freed < size:
            return False
        with trio.CancelScope(shield=True):
            await self.index.update(lambda tx: [residents.drop(tx, oid) for oid in victims])
        return True

    # What happens.

    async def write(self, plan: Writing) -> None:
        oid = self.oid()
        fd = os.open(self.folder / oid, os.O_CREAT | os.O_RDWR)
        self.staged[fd] = oid
        grant = self.grants[fd] = self.space.grant()
        try:
            async with trio.open_nursery() as nursery:
                for pieces in plan.pieces:
                    nursery.start_soon(self._write_pieces, grant, fd, pieces)
            grant.shrink(room(fd))
            await trio.lowlevel.checkpoint()
            if plan.committed:
                size = room(fd)
                await self.index.update(lambda tx: journal.enter(tx, oid, size))
        except* NoSpace:
            pass
        finally:
            del self.staged[fd], self.grants[fd]
            os.close(fd)
            grant.close()
            grant.close()

    async def _write_pieces(self, grant: Grant, fd: int, pieces: list[tuple[int, int]]) -> None:
        for offset, size in pieces:
            await grant.cover(lambda: room(fd), size)
            os.pwrite(fd, os.urandom(1) * size, offset)
            await trio.lowlevel.checkpoint()

    async def fetch(self, plan: Fetching) -> None:
        size, oid = residents.room_of(plan.size), self.oid()
        if not await self.space.reserve_cache(size):
            return
        self.fetched[oid] = size
        try:
            for _ in range(plan.turns):
                await trio.lowlevel.checkpoint()
            if plan.kept:
                await self.index.update(lambda tx: residents.add(tx, oid, size, self.number))
        finally:
            del self.fetched[oid]
            self.space.release_cache(size)

    async def upload(self) -> None:
        """What waits becomes cache, or goes, one after the other and for ever."""
        while True:
            for pending in self.index.view(lambda tx: journal.page(tx, None, 4)):
                fits = await self.space.reserve_cache(residents.room_of(pending.size))

                def settle(tx: Tx, pending: journal.Pending = pending, fits: bool = fits) -> None:
                    if journal.leave(tx, pending.oid) and fits:
                        residents.add(tx, pending.oid, pending.size, self.number)

                await self.index.update(settle)
                if fits:
                    self.space.release_cache(residents.room_of(pending.size))
                self.space.wake()
            await trio.sleep(0.1)


async def cancelled_after(count: int | None, work: Callable[[], Awaitable[None]]) -> None:
    """Cancels the work when the scheduler has gone round so often."""
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await work()
            nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        if count is not None:
            for _ in range(count):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


@contextmanager
def a_world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        layout = open_layout(Path(folder) / "store", create=True)
        index = Index(layout.index, durable=False)
        try:
            space = Space(
                index, layout.path, cache_limit=CACHE_LIMIT, pending_limit=PENDING_LIMIT, deadline=DEADLINE
            )
            world = World(index, Path(folder), space)
            space.evict = world.evict
            yield world
            space.close()
        finally:
            index.close()


@given(st.lists(writing, max_size=5), st.lists(fetching, max_size=5))
@settings(max_examples=60, deadline=None)
def test_no_bound_is_exceeded_after_any_step_and_nothing_stays_reserved(
    writings: list[Writing], fetchings: list[Fetching]
) -> None:
    with a_world() as world:

        async def everything() -> None:
            async with trio.open_nursery() as background:
                background.start_soon(world.upload)
                async with trio.open_nursery() as nursery:
                    for one in writings:
                        nursery.start_soon(
                            cancelled_after, one.cancelled_after, lambda one=one: world.write(one)
                        )
                    for other in fetchings:
                        nursery.start_soon(
                            cancelled_after, other.cancelled_after, lambda other=other: world.fetch(other)
                        )
                background.cancel_scope.cancel()

        clock = trio.testing.MockClock(autojump_threshold=STUCK_SECONDS)
        trio.run(everything, clock=clock, instruments=[world])
        assert world.beyond <= 0
        assert world.peak_pending <= PENDING_LIMIT
        assert world.peak_cached <= CACHE_LIMIT
        assert world.space.pending() == world.index.view(journal.backlog).room
        assert world.space.cached() == world.index.view(residents.total)
        assert not world.space._waiting and not world.space._grants


async def test_two_tasks_that_waited_to_write_to_one_file_do_not_count_on_the_same_room() -> None:
    with a_world() as world:
        other = world.space.grant()
        await world.space.reserve_pending(other, PENDING_LIMIT - 4 * KIB)
        grant, fd = world.space.grant(), os.open(world.folder / "file", os.O_CREAT | os.O_RDWR)

        async def write(first: int) -> None:
            for number in (first, first + 1):
                await grant.cover(lambda: room(fd), 96 * KIB)
                os.pwrite(fd, bytes(96 * KIB), number * 96 * KIB)
                assert room(fd) <= grant.reserved

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, 0)
            nursery.start_soon(write, 2)
            await trio.testing.wait_all_tasks_blocked()
            other.close()
        os.close(fd)
        grant.close()


async def test_who_waits_for_room_goes_on_waiting_as_long_as_something_is_uploaded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with a_world() as world:
        other = world.space.grant()
        await world.space.reserve_pending(other, PENDING_LIMIT)
        begun = trio.current_time()

        async def upload_now_and_then() -> None:
            for _ in range(3):
                await trio.sleep(DEADLINE * 0.9)
                world.space.wake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload_now_and_then)
            with pytest.raises(NoSpace, match="nothing was uploaded for 60 s"):
                await world.space.reserve_pending(world.space.grant(), 1)
        assert trio.current_time() - begun >= DEADLINE * 3.6
        other.close()
