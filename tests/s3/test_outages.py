"""A store with S3 behind the local disk, while the bucket is away."""

import errno
import os

import pytest
import trio
import trio.lowlevel

from lfsfs import Oid
from lfsfs.errors import Unavailable
from lfsfs.store.fetches import FLIGHTS

from .proxy import Proxy
from .stores import (
    DEADLINE,
    MIB,
    PATIENCE,
    Machine,
    content_of,
)


@pytest.mark.promise("7.3")
async def test_a_read_of_what_only_the_bucket_has_fails_by_the_deadline_and_works_again(
    machine: Machine, proxy: Proxy
) -> None:
    content = os.urandom(2 * MIB)
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(content)).oid
    async with machine("b") as b:
        await b.stat(oid)
        proxy.down()
        for _ in range(3):
            with trio.fail_after(DEADLINE + PATIENCE), pytest.raises(Unavailable) as failure:
                await content_of(b, oid)
            assert failure.value.errno == errno.ETIMEDOUT
        assert b.remote is not None and b.remote.status().degraded
        proxy.up()
        with trio.fail_after(DEADLINE + PATIENCE):
            assert await content_of(b, oid) == content
        assert not b.remote.status().degraded


@pytest.mark.promise("7.3")
async def test_many_readers_of_one_block_fail_together(machine: Machine, proxy: Proxy) -> None:
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(os.urandom(2 * MIB))).oid
    async with machine("b") as b:
        await b.stat(oid)
        proxy.down()

        async def read() -> None:
            with pytest.raises(Unavailable):
                await content_of(b, oid)

        with trio.fail_after(2 * DEADLINE + 3):
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(read)


@pytest.mark.promise("7.3")
async def test_many_readers_of_many_objects_fail_by_one_deadline(machine: Machine, proxy: Proxy) -> None:
    async with machine("a", mode="s3-only") as a:
        oids = [(await a.put(os.urandom(MIB + 1))).oid for _ in range(4 * FLIGHTS)]
    async with machine("b", deadline=3 * DEADLINE) as b:
        for oid in oids:
            await b.stat(oid)
        proxy.down()

        async def read(oid: Oid) -> None:
            with pytest.raises(Unavailable):
                await content_of(b, oid)

        with trio.fail_after(8 * DEADLINE):  # one after another they would take twelve
            async with trio.open_nursery() as nursery:
                for oid in oids:
                    nursery.start_soon(read, oid)


@pytest.mark.promise("7.3")
async def test_a_short_outage_is_only_a_pause(machine: Machine, proxy: Proxy) -> None:
    content = os.urandom(4 * MIB)
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(content)).oid
    async with machine("b", deadline=20.0) as b:
        await b.stat(oid)
        proxy.down()

        async def back() -> None:
            await trio.sleep(1.5)
            proxy.up()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(back)
            assert await content_of(b, oid) == content


async def test_an_unknown_object_is_unavailable_not_absent_while_the_bucket_is_away(
    machine: Machine, proxy: Proxy
) -> None:
    async with machine("b") as b:
        proxy.down()
        with trio.fail_after(DEADLINE + PATIENCE), pytest.raises(Unavailable):
            await b.stat(Oid.of(b"who knows"))
