"""What another process commits is seen within a second, and nobody is woken while nothing is committed."""

import time
from collections.abc import Iterator
from pathlib import Path

import forking
import pytest
import trio
import trio.testing
from gitlfs.mounted import Mount

from lfsfs.store.changes import PAUSE_SECONDS, Changes
from lfsfs.store.index import Index

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index")
    yield index
    index.close()


def commit(path: str) -> None:
    """In another process."""
    other = Index(Path(path))
    trio.run(other.update, lambda tx: tx.put("meta", b"a test", b""))
    other.close()


async def test_whoever_waits_sees_a_commit_of_another_process_within_a_second(index: Index) -> None:
    seen: list[tuple[int, float]] = []
    transaction = index.last_transaction()

    async def wait() -> None:
        seen.append((await index.changes.after(transaction), time.monotonic()))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await trio.sleep(2 * PAUSE_SECONDS)
            call = "test_changes:commit", str(index.path)
            await trio.to_thread.run_sync(lambda: forking.run(*call, seconds=20))
            committed = time.monotonic()
    assert {newest for newest, _ in seen} == {index.last_transaction()}
    assert all(when - committed < 1 for _, when in seen)


async def test_nobody_looks_while_nothing_is_written(index: Index) -> None:
    looks: list[int] = []

    def newest() -> int:
        looks.append(1)
        return 7

    changes = Changes(index.path, newest)
    with trio.move_on_after(8 * PAUSE_SECONDS):
        await changes.after(7)
    changes.close()
    assert len(looks) == 1


async def test_one_who_gives_up_leaves_nobody_waiting(index: Index) -> None:
    transaction = index.last_transaction()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            first = await nursery.start(_until_cancelled, index.changes, transaction)
            nursery.start_soon(index.changes.after, transaction)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            await index.update(lambda tx: tx.put("meta", b"a test", b""))


async def _until_cancelled(
    changes: Changes, transaction: int, task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await changes.after(transaction)


async def test_where_the_kernel_tells_nothing_it_is_looked_all_the_same(index: Index) -> None:
    nowhere = Changes(index.path / "nowhere", index.last_transaction)
    transaction = index.last_transaction()
    await index.update(lambda tx: tx.put("meta", b"a test", b""))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nowhere.after, index.last_transaction())
            await trio.testing.wait_all_tasks_blocked(PAUSE_SECONDS / 4)
            await index.update(lambda tx: tx.put("meta", b"a test", b"again"))
    assert transaction < index.last_transaction()


@pytest.mark.mount
def test_a_mount_that_nobody_uses_hardly_wakes_up(tmp_path: Path) -> None:
    """It was five times a second and more, each with a look at the index: a quarter of a percent of a core."""
    with Mount(tmp_path, "--scrub-rate", "off") as mount:
        (mount.path / "incoming" / "file").write_bytes(b"used a little")
        pid = mount.pid
        time.sleep(2.5)  # the small file reaches the disk, its content type is told
        before = _wakings(pid)
        time.sleep(3)
        assert _wakings(pid) - before <= 6


def _wakings(pid: int) -> int:
    """Of the thread that answers."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
