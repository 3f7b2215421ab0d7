"""Processes that write to one store at once: together they stay below its bounds, and one that dies counts no more."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from lfsfs.errors import NoSpace
from lfsfs.store.index import Index
from lfsfs.store.layout import open_layout
from lfsfs.store.rooms import SLOTS, Reserved, Rooms
from lfsfs.store.space import Space

KIB = 1 << 10
LIMIT = 1024 * KIB
HOLDER = """
import sys, time
from pathlib import Path
from lfsfs.store.rooms import Reserved, Rooms
rooms = Rooms(Path(sys.argv[1]))
with rooms.turn():
    rooms.set(Reserved(int(sys.argv[2]), 7))
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def a_holder(path: Path, size: int) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has reserved so much."""
    command = [sys.executable, "-c", HOLDER, str(path), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@contextmanager
def spaces(folder: Path, count: int, deadline: float = 5.0) -> Iterator[list[Space]]:
    """As many processes as that have of one store."""
    layout = open_layout(folder / "store", create=True)
    index = Index(layout.index, durable=False)
    index_bytes = 1 << 20
    found = [
        Space(index, layout.path, cache_limit=LIMIT + index_bytes, pending_limit=LIMIT, deadline=deadline)
        for _ in range(count)
    ]
    try:
        yield found
    finally:
        for space in found:
            space.close()
        index.close()


def test_what_another_process_has_reserved_counts_until_it_dies(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    with rooms.turn() as ours:
        assert ours
    with a_holder(tmp_path, 5000) as process:
        assert rooms.others() == Reserved(5000, 7)
        rooms.set(Reserved(1, 1))
        assert rooms.others() == Reserved(5000, 7)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert rooms.others() == Reserved()
    rooms.close()


def test_a_turn_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    one, other = Rooms(tmp_path), Rooms(tmp_path)
    with one.turn() as first, other.turn() as second:
        assert first and not second
    with other.turn() as second:
        assert second
    one.close()
    other.close()


def test_more_processes_than_slots_and_a_file_that_cannot_be_made_hold_up_nobody(tmp_path: Path) -> None:
    many = [Rooms(tmp_path) for _ in range(SLOTS + 3)]
    for rooms in many:
        with rooms.turn() as ours:
            assert ours
        rooms.set(Reserved(1, 2))
    assert many[-1].others() == Reserved(SLOTS, 2 * SLOTS)
    for rooms in many:
        rooms.close()
    (tmp_path / "file").write_bytes(b"")
    nowhere = Rooms(tmp_path / "file")
    with nowhere.turn() as ours:
        assert ours
    assert nowhere.others() == Reserved()
    nowhere.close()


async def test_together_they_never_reserve_more_than_the_bounds(tmp_path: Path) -> None:
    peak_staged = peak_fetched = done = 0
    rng = random.Random(1)
    with spaces(tmp_path, 4) as all_of_them:

        def look() -> None:
            nonlocal peak_staged, peak_fetched
            peak_staged = max(peak_staged, sum(space._staged for space in all_of_them))
            peak_fetched = max(peak_fetched, sum(space._fetching for space in all_of_them))

        async def write(space: Space) -> None:
            nonlocal done
            for _ in range(20):
                grant = space.grant()
                await space.reserve_pending(grant, rng.randrange(1, LIMIT // 3))
                look()
                await trio.sleep(0.001)
                grant.close()
                done += 1

        async def fetch(space: Space) -> None:
            for _ in range(40):
                size = rng.randrange(1, LIMIT)
                if await space.reserve_cache(size):
                    look()
                    await trio.sleep(0.001)
                    space.release_cache(size)

        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                for space in all_of_them:
                    for _ in range(2):
                        nursery.start_soon(write, space)
                    nursery.start_soon(fetch, space)
    assert done == 4 * 2 * 20
    assert LIMIT // 3 < peak_staged <= LIMIT
    assert LIMIT // 3 < peak_fetched <= LIMIT + (1 << 20)


async def test_a_writer_waits_for_the_room_of_another_process(tmp_path: Path) -> None:
    with spaces(tmp_path, 1, deadline=0.5) as (space,):
        grant = space.grant()
        await space.reserve_pending(grant, 4 * KIB)
        with a_holder(tmp_path / "store", LIMIT - 8 * KIB):
            try:
                await space.reserve_pending(grant, 64 * KIB)
            except NoSpace:
                pass
            else:
                raise AssertionError("that room is another's")
        await space.reserve_pending(grant, 64 * KIB)
