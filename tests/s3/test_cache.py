"""A store with S3 behind the local disk: how much of it is used, by what waits and by what is kept."""

import os

import pytest
import trio
import trio.lowlevel

from lfsfs import Oid
from lfsfs.errors import NoSpace
from lfsfs.store import residents

from .proxy import Proxy
from .stores import (
    DEADLINE,
    MIB,
    PATIENCE,
    Machine,
    content_of,
    local_files,
    uploaded,
)


@pytest.mark.promise("8.1")
async def test_what_was_uploaded_makes_room_the_least_recently_used_first(machine: Machine) -> None:
    async with machine("a", size=4 * MIB) as a:
        oids = []
        for _ in range(4):
            oids.append((await a.put(os.urandom(MIB - 70_000))).oid)
            await uploaded(a)
        await trio.sleep(1.1)
        await content_of(a, oids[0])  # a use later than all of them
        assert a.remote is not None
        a.remote.cache.hold(oids[0])
        a.remote.cache.unhold(oids[0])
        await a.index.flush()
        oids.append((await a.put(os.urandom(MIB - 70_000))).oid)
        await uploaded(a)
        left = local_files(a)
        assert oids[0] in left and oids[4] in left and oids[1] not in left


@pytest.mark.promise("8.1")
async def test_what_is_pinned_or_open_stays(machine: Machine) -> None:
    async with machine("a", size=3 * MIB) as a:
        assert a.remote is not None
        pinned, held = [(await a.put(os.urandom(MIB - 70_000))).oid for _ in range(2)]
        await a.index.update(lambda tx: residents.pin(tx, [pinned]))
        a.remote.cache.hold(held)
        await uploaded(a)
        for _ in range(4):
            await a.put(os.urandom(MIB - 70_000))
            await uploaded(a)
        assert {pinned, held} <= local_files(a)


@pytest.mark.promise("7.2", "8.1")
async def test_what_waits_for_its_upload_is_never_evicted(machine: Machine, proxy: Proxy) -> None:
    async with machine("a", size=2 * MIB) as a:
        proxy.down()
        contents = [os.urandom(MIB) for _ in range(6)]
        oids = [(await a.put(content)).oid for content in contents]
        assert local_files(a) == set(oids)
        for oid, content in zip(oids, contents, strict=True):
            assert await content_of(a, oid) == content
        proxy.up()
        await uploaded(a)
        assert len(local_files(a)) <= 2
        for oid, content in zip(oids, contents, strict=True):
            assert await content_of(a, oid) == content


@pytest.mark.promise("8.2")
async def test_a_writer_waits_at_the_bound_and_then_gets_enospc(machine: Machine, proxy: Proxy) -> None:
    async with machine("a", pending_size=4 * MIB) as a:
        proxy.down()
        await a.put(os.urandom(3 * MIB))
        begun = trio.current_time()
        with trio.fail_after(3 * DEADLINE), pytest.raises(NoSpace):
            await a.put(os.urandom(3 * MIB))
        assert trio.current_time() - begun >= DEADLINE * 0.9
        proxy.up()
        await uploaded(a)
        await a.put(os.urandom(3 * MIB))


async def test_a_file_larger_than_the_bound_fails_at_once(machine: Machine) -> None:
    async with machine("a", pending_size=2 * MIB, deadline=4 * PATIENCE) as a:
        with trio.fail_after(PATIENCE), pytest.raises(NoSpace, match="pending-size"):
            await a.put(os.urandom(3 * MIB))


@pytest.mark.promise("8.2")
async def test_many_writers_at_the_bound_all_come_through(machine: Machine) -> None:
    """Each gets some of the room; without an order among them none could ever finish."""
    async with machine("a", size=8 * MIB, pending_size=8 * MIB, deadline=20.0) as a:
        contents = [os.urandom(3 * MIB) for _ in range(12)]

        async def write(content: bytes) -> None:
            async with a.create_upload() as upload:
                for start in range(0, len(content), 100_000):
                    await upload.write(content[start : start + 100_000])
                    await trio.sleep(0.001)
                await upload.finalize()

        async with trio.open_nursery() as nursery:
            for content in contents:
                nursery.start_soon(write, content)
        await uploaded(a)
        for content in contents:
            assert await content_of(a, Oid.of(content)) == content


@pytest.mark.promise("8.3")
async def test_an_object_larger_than_the_cache_reads_all_the_same(machine: Machine) -> None:
    content = os.urandom(12 * MIB)
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(content)).oid
    async with machine("b", size=2 * MIB) as b:
        assert await content_of(b, oid) == content
        assert (
            sum(path.stat().st_blocks * 512 for path in b.layout.path.rglob("*") if path.is_file()) <= 3 * MIB
        )


async def test_what_was_fetched_is_evicted_once_nobody_reads_it_and_no_file_stays_open(
    machine: Machine,
) -> None:
    """An evicted file that somebody has open takes room that nobody counts."""
    contents = [os.urandom(MIB - 70_000 + number) for number in range(6)]
    async with machine("a", mode="s3-only") as a:
        oids = [(await a.put(content)).oid for content in contents]
    async with machine("b", size=4 * MIB) as b:
        reader = await b.open(oids[0])
        assert await reader.read(0, MIB) == contents[0]
        for oid, content in zip(oids, contents, strict=True):
            assert await content_of(b, oid) == content
            with trio.fail_after(5):
                while oid not in local_files(b):
                    await trio.sleep(0.01)
        left = local_files(b)
        assert oids[0] in left and oids[5] in left and len(left) < 6
        reader.close()
        open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit()
                      and os.path.lexists(f"/proc/self/fd/{fd}")]  # fmt: skip
        ours = [path for path in open_files if path.startswith(str(b.layout.path / "staging"))]
        assert [path for path in ours if not path.endswith("lock")] == []
