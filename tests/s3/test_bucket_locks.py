"""Locks in the bucket: one winner however many machines try, through lost answers and machines that stand still."""

import math
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from gitlfs.mounted import LFSFS
from server.test_ssh_session import answers, message

from lfsfs import open_store
from lfsfs.config import CacheOptions, S3Options
from lfsfs.errors import NotFound
from lfsfs.server.access import editing
from lfsfs.store import attachment
from lfsfs.store.bucket_locks import BucketLocks
from lfsfs.store.locks import Lock, LockFilter, Locks, LockTaken, NoLocks

from .proxy import Proxy
from .servers import Server

GAME = "/studio/game"
Machine = Callable[[str], AbstractAsyncContextManager[BucketLocks]]


@asynccontextmanager
async def machine(folder: Path, options: S3Options) -> AsyncIterator[BucketLocks]:
    async with open_store(folder, create=True, remote=(options, CacheOptions(deadline=10.0))) as store:
        assert store.remote is not None
        yield BucketLocks(store.remote)


async def tried(locks: Locks, path: str, owner: str) -> Lock | None:
    """The lock; None where somebody else has it."""
    try:
        return await locks.create(GAME, path, owner)
    except LockTaken as taken:
        assert taken.lock.owner != owner
        return None


@pytest.mark.slow
async def test_of_machines_that_want_one_lock_one_gets_it(tmp_path: Path, rgw_server: Server) -> None:
    options = rgw_server.options()  # moto now and then grants one name to two who ask at once
    async with machine(tmp_path / "a", options) as a, machine(tmp_path / "b", options) as b:
        for number in range(3):
            found: list[Lock | None] = []

            async def want(locks: Locks, owner: str, found: list[Lock | None] = found) -> None:
                found.append(await tried(locks, "a.psd", owner))

            async with trio.open_nursery() as nursery:
                for one in range(4):
                    nursery.start_soon(want, a, f"ann {number}{one}")
                    nursery.start_soon(want, b, f"bob {number}{one}")
            (winner,) = [lock for lock in found if lock is not None]
            assert (await b.list(GAME, LockFilter())).locks == [winner]
            ended: list[bool] = []

            async def end(locks: Locks, winner: Lock = winner, ended: list[bool] = ended) -> None:
                try:
                    ended.append(await locks.delete(GAME, winner.id) == winner)
                except NotFound:
                    pass

            async with trio.open_nursery() as nursery:
                for locks in (a, b, a, b):
                    nursery.start_soon(end, locks)
            assert ended == [True]
            assert (await a.list(GAME, LockFilter())).locks == []


async def test_locks_are_found_by_path_id_and_branch_and_come_in_pages(
    tmp_path: Path, moto_server: Server
) -> None:
    async with machine(tmp_path / "a", moto_server.options()) as locks:
        made = [await locks.create(GAME, f"{n}/ä.psd", "ann", f"refs/heads/{n % 2}") for n in range(5)]
        await locks.create("/studio/other", "0/ä.psd", "ann")
        await locks.delete(GAME, made[4].id)
        held, found, cursor = made[:4], [], None
        while True:
            page = await locks.list(GAME, LockFilter(), cursor, 3)
            assert len(page.locks) <= 3
            found += page.locks
            cursor = page.cursor
            if cursor is None:
                break
        assert sorted(found, key=lambda lock: lock.path) == held
        for lock in held:
            assert (await locks.list(GAME, LockFilter(path=lock.path))).locks == [lock]
            assert (await locks.list(GAME, LockFilter(id=lock.id))).locks == [lock]
            assert await locks.get(GAME, lock.id) == lock
        assert len((await locks.list(GAME, LockFilter(ref="refs/heads/1"))).locks) == 2
        for absent in (made[4].id, "nonsense", "", f"{'0' * 32}-1", "../../x-1"):
            with pytest.raises(NotFound):
                await locks.get(GAME, absent)
            assert (await locks.list(GAME, LockFilter(id=absent or "0"))).locks == []
        with pytest.raises(ValueError, match="cursor"):
            await locks.list(GAME, LockFilter(), "../..")


async def test_what_was_locked_and_given_back_often_leaves_one_note(
    tmp_path: Path, moto_server: Server
) -> None:
    options = moto_server.options()
    async with machine(tmp_path / "a", options) as locks:
        ids = []
        for _ in range(5):
            lock = await locks.create(GAME, "a.psd", "ann")
            ids.append(lock.id)
            await locks.delete(GAME, lock.id)
        assert len(set(ids)) == 5
    with moto_server.client() as client:
        prefix = f"{options.url.prefix}/locks/"
        found = client.list_objects_v2(Bucket=moto_server.bucket, Prefix=prefix)["Contents"]
    assert len(found) == 1


@pytest.mark.slow
async def test_a_machine_that_stood_still_before_its_write_does_not_get_what_is_long_over(
    tmp_path: Path, rgw_server: Server
) -> None:
    options = rgw_server.options()
    with Proxy(rgw_server.port) as proxy:
        slow_options = replace(options, endpoint=proxy.endpoint)
        async with machine(tmp_path / "a", options) as a, machine(tmp_path / "slow", slow_options) as slow:
            await slow.delete(GAME, (await slow.create(GAME, "a.psd", "sue")).id)
            await a.create(GAME, "other.psd", "ann")  # by then it has tried out the bucket
            proxy.fault(method="PUT", path="/locks/", delay=4.0)
            results: list[Lock | None] = []

            async def want() -> None:
                results.append(await tried(slow, "a.psd", "sue"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(want)
                await trio.sleep(0.7)  # it has looked, and its write is on its way
                first = await a.create(GAME, "a.psd", "ann")
                await a.delete(GAME, first.id)
                mine = await a.create(GAME, "a.psd", "ann")  # the turn that sue writes is gone by now
            assert results == [None], "two have the lock"
            assert (await slow.list(GAME, LockFilter(path="a.psd"))).locks == [mine]


@pytest.mark.slow
async def test_a_lock_whose_answer_was_lost_is_ours_all_the_same(tmp_path: Path, rgw_server: Server) -> None:
    with Proxy(rgw_server.port) as proxy:
        options = replace(rgw_server.options(), endpoint=proxy.endpoint)
        async with machine(tmp_path / "a", options) as locks:
            await locks.create(GAME, "other.psd", "ann")
            proxy.fault(method="PUT", path="/locks/", drop_reply=True)
            lock = await locks.create(GAME, "a.psd", "ann")
            assert await locks.get(GAME, lock.id) == lock
            proxy.fault(method="PUT", path="/locks/", drop_reply=True)
            assert await locks.delete(GAME, lock.id) == lock
            assert (await locks.list(GAME, LockFilter(path="a.psd"))).locks == []


async def test_a_server_that_does_not_tell_who_was_first_gets_no_locks(
    tmp_path: Path, rgw_server: Server
) -> None:
    with Proxy(rgw_server.port) as proxy:
        proxy.fault(times=math.inf, method="PUT", drop_field="if-none-match")
        options = replace(rgw_server.options(), endpoint=proxy.endpoint)
        async with machine(tmp_path / "a", options) as locks:
            with pytest.raises(NoLocks, match="lfsfs doctor"):
                await locks.create(GAME, "a.psd", "ann")
            assert (await locks.list(GAME, LockFilter())).locks == [], "a push is not held up"
        with rgw_server.client() as client:
            left = client.list_objects_v2(Bucket=rgw_server.bucket, Prefix=f"{options.url.prefix}/")
        keys = [item["Key"] for item in left.get("Contents", [])]
        assert not [key for key in keys if "/locks/" in key or "/doctor/" in key]


async def test_a_lock_that_was_taken_over_ssh_holds_for_every_machine(
    tmp_path: Path, rgw_server: Server
) -> None:
    options = rgw_server.options()
    async with machine(tmp_path / "a", options) as a, machine(tmp_path / "b", options) as b:
        attachment.save(tmp_path / "a", (options, CacheOptions()))
        editing.add_user(tmp_path / "a" / "users.toml", "alice", None)
        editing.grant(tmp_path / "a" / "users.toml", "alice", "write", GAME[1:])
        said = message("lock", "path=a.psd") + message("lock", "path=b.psd") + message("quit")
        await b.create(GAME, "b.psd", "bob")
        done = await trio.run_process(
            [LFSFS.with_name("git-lfs-transfer"), GAME[1:], "upload"],
            env=os.environ | {"LFSFS_STORE": str(tmp_path / "a"), "LFSFS_USER": "alice"},
            stdin=said,
            capture_stdout=True,
        )
        assert [one.status for one in answers(done.stdout)] == [201, 409, 200]
        held = (await a.list(GAME, LockFilter())).locks
        assert {(lock.path, lock.owner) for lock in held} == {("a.psd", "alice"), ("b.psd", "bob")}
