"""Small objects whose bytes the index keeps until the disk has them: what is left of them when the power goes.

A kill leaves the page cache, so the loss of power is made by hand: what no fsync had covered is taken away.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from lfsfs import Oid, Store, open_store
from lfsfs.store import write_ahead
from lfsfs.store.bursts import Bursts
from lfsfs.store.index import Tx
from lfsfs.store.write_ahead import LIMIT_BYTES, TABLE, WriteAhead

OLD_BOOT = b"another run of the machine".ljust(36)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[Store, WriteAhead]]:
    async with open_store(path, create=True) as store:
        assert store.write_ahead is not None
        yield store, store.write_ahead


async def put_ahead(store: Store, ahead: WriteAhead, content: bytes) -> Oid:
    """An object as a daemon commits it: nothing of it has reached the disk but the index."""
    ahead.is_open = True
    try:
        return (await store.put(content)).oid
    finally:
        ahead.is_open = False


async def reboot(store: Store) -> None:
    """From now on all that the index keeps was written by another run of the machine."""

    def write(tx: Tx) -> None:
        for key, value in list(tx.scan(TABLE)):
            tx.put(TABLE, key, OLD_BOOT + value[len(OLD_BOOT) :])

    await store.index.update(write)


def kept(store: Store) -> int:
    return store.index.view(lambda tx: tx.count(TABLE))


@pytest.mark.promise("2.4")
@pytest.mark.parametrize("left", ["nothing", "an empty file", "zeros", "half"])
async def test_what_the_disk_lost_is_written_again(tmp_path: Path, left: str) -> None:
    content = b"a small file\n" * 200
    async with opened(tmp_path / "store") as (store, ahead):
        oid = await put_ahead(store, ahead, content)
        await reboot(store)
        path = store.tier.path(oid)  # type: ignore[attr-defined]
        path.unlink()
        remains = {"an empty file": b"", "zeros": bytes(len(content)), "half": content[: len(content) // 2]}
        if left != "nothing":
            path.write_bytes(remains[left])
    async with opened(tmp_path / "store") as (store, _):
        assert path.read_bytes() == content
        assert await store.check(oid)


async def test_what_the_disk_has_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as (store, ahead):
        oid = await put_ahead(store, ahead, b"small")
        path = store.tier.path(oid)  # type: ignore[attr-defined]
        await reboot(store)
    before = path.stat()
    async with opened(tmp_path / "store"):
        assert path.stat().st_ino == before.st_ino


async def test_while_the_machine_runs_on_nothing_is_looked_at(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as (store, ahead):
        oid = await put_ahead(store, ahead, b"small")
        path = store.tier.path(oid)  # type: ignore[attr-defined]
        path.unlink()
        assert await ahead.replay() == 0
        assert not path.exists()


async def test_what_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as (store, ahead):
        oid = await put_ahead(store, ahead, b"small")
        await store.delete(oid)
        assert kept(store) == 0
        await reboot(store)
    async with opened(tmp_path / "store") as (store, _):
        assert not store.tier.path(oid).exists()  # type: ignore[attr-defined]
        assert store.lookup(oid) is None


async def test_what_is_on_disk_is_kept_no_longer(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as (store, ahead):
        for number in range(20):
            await put_ahead(store, ahead, b"%d" % number)
        assert kept(store) == 20
        await ahead.settle()
        assert kept(store) == 0
        assert store.index.view(write_ahead.is_empty)


async def test_what_is_written_while_the_disk_is_waited_for_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as (store, ahead):
        oid = await put_ahead(store, ahead, b"deleted, and written again")
        sync, began, go_on = ahead._tier.sync, trio.Event(), trio.Event()

        def slow_sync() -> None:
            sync()
            trio.from_thread.run_sync(began.set)
            trio.from_thread.run(go_on.wait)

        ahead._tier.sync = slow_sync  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ahead.settle)
            await began.wait()
            await store.delete(oid)
            await put_ahead(store, ahead, b"deleted, and written again")
            go_on.set()
        assert kept(store) == 1


async def test_it_takes_so_much_and_no_more(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as (store, ahead):
        piece = bytes(60_000)
        for number in range(LIMIT_BYTES // len(piece) + 20):
            oid = await put_ahead(store, ahead, piece + b"%d" % number)
        assert kept(store) * len(piece) <= LIMIT_BYTES + len(piece)
        assert store.index.view(lambda tx: tx.get(TABLE, oid.to_bytes())) is None
        assert await store.check(oid)


async def test_a_daemon_leaves_nothing_behind(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as (store, ahead):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ahead.run, Bursts())
            await trio.testing.wait_all_tasks_blocked()
            await store.put(b"small")
            assert kept(store) == 1
            nursery.cancel_scope.cancel()
        assert kept(store) == 0
