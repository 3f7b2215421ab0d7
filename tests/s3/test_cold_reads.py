"""What only the bucket has is read: each block once, verified, and kept."""

import os

import pytest
import trio
import trio.lowlevel

from lfsfs import Oid
from lfsfs.errors import Corrupt
from lfsfs.store import digests

from .proxy import Proxy
from .stores import (
    MIB,
    Bucket,
    Machine,
    content_of,
    local_files,
    object_name,
    uploaded,
)

SIZES = (0, 1, 4096, MIB - 1, MIB, MIB + 1, 5 * MIB + 7)


@pytest.mark.promise("8.4")
@pytest.mark.parametrize("readers", [1, 32])
async def test_a_block_is_fetched_once_however_many_readers(
    machine: Machine, proxy: Proxy, readers: int
) -> None:
    content = os.urandom(16 * MIB + 5)
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(content)).oid
    before = proxy.counters()["bytes down"]
    async with machine("b") as b:
        right: list[bool] = []

        async def read() -> None:
            found = await content_of(b, oid)
            right.append(found == content)

        async with trio.open_nursery() as nursery:
            for _ in range(readers):
                nursery.start_soon(read)
        assert right == [True] * readers
        assert proxy.counters()["bytes down"] - before <= 1.05 * len(content)


async def test_any_range_reads_back_and_costs_its_blocks_only(machine: Machine, proxy: Proxy) -> None:
    content = os.urandom(40 * MIB)
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(content)).oid
    async with machine("b") as b:
        before = proxy.counters()["bytes down"]
        async with await b.open(oid) as reader:
            for offset, size in ((20 * MIB + 3, 5), (40 * MIB - 7, 100), (MIB - 2, 4), (30 * MIB, 0)):
                assert await reader.read(offset, size) == content[offset : offset + size]
        assert proxy.counters()["bytes down"] - before < 9 * MIB


async def test_what_was_read_as_a_whole_is_local_from_then_on(machine: Machine, proxy: Proxy) -> None:
    contents = [os.urandom(size) for size in SIZES]
    async with machine("a", mode="s3-only") as a:
        rows = [await a.put(content) for content in contents]
    async with machine("b") as b:
        for row in rows:
            await content_of(b, row.oid)
        with trio.fail_after(5):
            while len(local_files(b)) < len(SIZES) - 1:  # of the empty one there is nothing to fetch
                await trio.sleep(0.02)
        proxy.down()
        for row, content in zip(rows, contents, strict=True):
            assert await content_of(b, row.oid) == content


@pytest.mark.parametrize("size", [10, MIB, 3 * MIB + 1])
async def test_objects_that_no_lfsfs_has_put_there_are_read_and_verified(
    machine: Machine, bucket: Bucket, size: int
) -> None:
    content = os.urandom(size)
    oid = bucket.put_object(content)
    async with machine("b") as b:
        assert await content_of(b, oid) == content
    assert bool(bucket.names("digests")) == (size > MIB), "the next machine need not read all of it first"


@pytest.mark.promise("9.4")
@pytest.mark.parametrize("size", [10, MIB, 3 * MIB + 1])
async def test_an_object_with_the_wrong_bytes_in_the_bucket_is_never_served(
    machine: Machine, bucket: Bucket, size: int
) -> None:
    content = os.urandom(size)
    oid = Oid.of(content)
    bucket.put(object_name(oid), os.urandom(size))
    async with machine("b") as b:
        with pytest.raises(Corrupt):
            await content_of(b, oid)
        with pytest.raises(Corrupt):
            async with await b.open(oid) as reader:
                await reader.read(0, 5)
        await b.put(content)
        await uploaded(b)
        assert bucket.get(object_name(oid)) == content


async def test_a_digest_note_that_is_damaged_costs_a_second_read_and_nothing_else(
    machine: Machine, bucket: Bucket
) -> None:
    content = os.urandom(3 * MIB)
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(content)).oid
    bucket.flip(digests.note_key(oid), 100)
    async with machine("b") as b:
        assert await content_of(b, oid) == content
    async with machine("c") as c:
        assert await content_of(c, oid) == content


@pytest.mark.promise("9.4")
async def test_the_first_block_does_not_wait_for_the_digests_to_come_nor_its_reader_less(
    machine: Machine, bucket: Bucket, proxy: Proxy
) -> None:
    content = os.urandom(5 * MIB)
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(content)).oid
    async with machine("b", uploads=False) as b:
        await b.stat(oid)
        proxy.fault(method="GET", path="/digests/", delay=0.8)
        before = proxy.counters()["bytes down"]
        answers: list[bytes] = []

        async def read() -> None:
            async with await b.open(oid) as reader:
                answers.append(await reader.read(0, 10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.to_thread.run_sync(proxy.await_count, "bytes down", before + MIB)
            assert answers == []  # the block is there; nothing tells yet whether it is right
        assert answers == [content[:10]]
        assert await content_of(b, oid) == content


@pytest.mark.promise("6.3")
async def test_absence_is_remembered_briefly(machine: Machine, bucket: Bucket, proxy: Proxy) -> None:
    oid = Oid.of(b"comes later")
    async with machine("b") as b:
        assert not await b.exists(oid)
        asked = proxy.counters()["HEAD"]
        for _ in range(50):
            assert not await b.exists(oid)
        assert proxy.counters()["HEAD"] == asked
        bucket.put_object(b"comes later")
        with trio.fail_after(5):
            while not await b.exists(oid):
                await trio.sleep(0.1)
