"""What two do at once that do not know of each other: commits, deletions, uploads, machines; and kills in between."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from tiers.conformance import Sources, whole

from lfsfs import Oid, Store, open_store
from lfsfs.config import CacheOptions
from lfsfs.errors import Corrupt, NotFound
from lfsfs.store import deletion, journal, residents
from lfsfs.store.journal import Pending
from lfsfs.store.remote import Remote
from lfsfs.tiers.s3 import open_s3

from .proxy import Proxy
from .servers import Server
from .stores import (
    MIB,
    PATIENCE,
    Bucket,
    Machine,
    content_of,
    damage,
    local_files,
    object_name,
    uploaded,
)


def remote_of(store: Store) -> Remote:
    assert store.remote is not None
    return store.remote


def waiting(store: Store, oid: Oid) -> Pending:
    found = store.index.view(lambda tx: journal.get(tx, oid))
    assert found is not None
    return found


def fetched_files_open(store: Store) -> list[str]:
    """What this process has open of what came from S3."""
    staging = os.path.realpath(store.staging.directory)
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [link for link in links if link.startswith(staging) and not link.endswith("/lock")]


async def until(true: Any) -> None:
    with trio.fail_after(PATIENCE):
        while not true():
            await trio.sleep(0.02)


# Uploads in parts.


async def test_of_two_machines_that_upload_the_same_in_parts_none_leaves_parts(
    moto_server: Server, tmp_path: Path
) -> None:
    """This server refuses the second Complete, as Amazon's does."""
    sources, content = Sources(tmp_path / "sources"), os.urandom(12 * MIB)
    options = moto_server.options(part_size=5 * MIB)
    async with open_s3(options) as one, open_s3(options) as other:
        async with trio.open_nursery() as nursery:
            for tier in (one, other):
                nursery.start_soon(sources.put, tier, content)
        assert await whole(one, Oid.of(content)) == content
        with moto_server.client() as client:
            left = client.list_multipart_uploads(Bucket=moto_server.bucket, Prefix=one.keys.root)
    assert left.get("Uploads", []) == []


async def test_an_upload_that_somebody_else_aborts_is_begun_anew(
    bucket: Bucket, proxy: Proxy, machine: Machine
) -> None:
    """A machine that comes back from a kill aborts what it finds of its objects; another may be sending one of them."""
    content = os.urandom(11 * MIB)
    async with machine("a", mode="write-through", deadline=PATIENCE) as a, open_s3(bucket.options) as other:
        proxy.fault(method="PUT", path="partNumber=2", times=1, delay=0.7)

        async def abort() -> None:
            with trio.fail_after(PATIENCE):
                while not await other.abort_uploads(0.0, {Oid.of(content)}):
                    await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(abort)
            await a.put(content)
    assert bucket.get(object_name(Oid.of(content))) == content


async def test_parts_of_a_machine_that_never_comes_back_are_aborted_by_another(
    bucket: Bucket, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfsfs.store.remote.SWEEP_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr("lfsfs.store.remote.ABANDONED_SECONDS", 0.0)
    name = object_name(Oid.of(b"never finished"))
    with bucket.server.client() as client:
        client.create_multipart_upload(Bucket=bucket.server.bucket, Key=bucket.key(name))

        def left() -> object:
            found = client.list_multipart_uploads(Bucket=bucket.server.bucket, Prefix=bucket.key(name))
            return found.get("Uploads")

        assert left()
        async with machine("a"):
            with trio.fail_after(PATIENCE):
                while await trio.to_thread.run_sync(left):
                    await trio.sleep(0.05)


# Deletions.


async def test_what_is_deleted_while_it_is_uploaded_stays_where_another_machine_needs_it(
    machine: Machine, bucket: Bucket
) -> None:
    content = os.urandom(3000)
    async with machine("a", uploads=False) as a, machine("b") as b:
        row = await b.put(content, repository=(await b.add_repository("game")).name)
        await uploaded(b)
        await remote_of(b).records.publish()
        await a.put(content)
        under_way = waiting(a, row.oid)
        await a.delete(row.oid)
        await remote_of(a)._uploaded(under_way)
        assert bucket.names() == {row.oid}
        assert await content_of(b, row.oid) == content


async def test_what_is_deleted_while_it_is_uploaded_goes_where_nobody_needs_it(
    machine: Machine, bucket: Bucket
) -> None:
    content = os.urandom(3 * MIB)
    async with machine("a", uploads=False) as a:
        row = await a.put(content)
        under_way = waiting(a, row.oid)
        await a.delete(row.oid)
        bucket.put_object(content)  # the upload is through
        await remote_of(a)._uploaded(under_way)
        assert bucket.names() == set()
        assert a.index.view(deletion.unfinished) == {}
        assert (await a.put(content)).oid == row.oid


async def test_what_was_committed_anew_while_it_was_uploaded_is_uploaded_anew(
    machine: Machine, bucket: Bucket
) -> None:
    """The first upload found other bytes there, and left them; the second one is to replace them."""
    content = os.urandom(3000)
    async with machine("a", uploads=False) as a:
        row = await a.put(content)
        under_way = waiting(a, row.oid)
        await a.report_corrupt(row.oid)
        await a.put(content)
        assert waiting(a, row.oid).replace
        await remote_of(a)._uploaded(under_way)
        assert waiting(a, row.oid).replace


@asynccontextmanager
async def half_deleted(
    machine: Machine, proxy: Proxy, content: bytes, *, everywhere: bool
) -> AsyncIterator[Store]:
    """A store that was to delete an object when S3 went away: the row says so, the bytes are still in the bucket."""
    async with machine("a") as a:
        row = await a.put(content)
        await uploaded(a)
        await a.index.update(
            lambda tx: deletion.mark_deleting(tx, row.oid, deletion.Manner(everywhere), force=True)
        )
        proxy.down()
        yield a


async def test_an_object_whose_deletion_was_cut_off_can_be_committed_anew_while_s3_is_away(
    machine: Machine, proxy: Proxy, bucket: Bucket
) -> None:
    content = os.urandom(3000)
    async with half_deleted(machine, proxy, content, everywhere=True) as a:
        with trio.fail_after(PATIENCE):
            row = await a.put(content)
        assert await content_of(a, row.oid) == content
        proxy.up()
        await uploaded(a)
    assert bucket.names() == {row.oid}


async def test_a_deletion_that_was_cut_off_does_not_keep_a_store_from_opening_and_ends_when_s3_is_back(
    machine: Machine, proxy: Proxy, bucket: Bucket
) -> None:
    async with half_deleted(machine, proxy, os.urandom(3000), everywhere=True):
        pass
    with trio.fail_after(PATIENCE):
        async with machine("a", deadline=4 * PATIENCE) as a:
            proxy.up()
            await until(lambda: not a.index.view(deletion.unfinished))
    assert bucket.names() == set()


async def test_what_only_this_machine_was_to_forget_stays_in_the_bucket_after_a_kill(
    machine: Machine, proxy: Proxy, bucket: Bucket
) -> None:
    content = os.urandom(3000)
    async with half_deleted(machine, proxy, content, everywhere=False):
        proxy.up()
    async with machine("a") as a:
        await until(lambda: not a.index.view(deletion.unfinished))
        assert await content_of(a, Oid.of(content)) == content
    assert bucket.names() == {Oid.of(content)}


# What is damaged, or gone, before it was uploaded.


async def test_a_failure_is_forgotten_with_its_object(machine: Machine) -> None:
    async with machine("a", uploads=False) as a:
        row = await a.put(os.urandom(3000))
        damage(a, row.oid, 5)
    async with machine("a") as a:
        await until(lambda: remote_of(a).status().failing)
        await a.delete(row.oid)
        await until(lambda: not remote_of(a).status().failing)
        assert remote_of(a).status().error == ""


@pytest.mark.parametrize("how", ["damaged", "gone"])
async def test_what_was_damaged_before_its_upload_is_mended_by_the_same_file(
    machine: Machine, bucket: Bucket, how: str
) -> None:
    content = os.urandom(3000)
    async with machine("a", uploads=False) as a:
        row = await a.put(content)
        damage(a, row.oid, 5)
        if how == "gone":
            (a.layout.objects / row.oid.path()).unlink()
    async with machine("a") as a:
        await until(lambda: remote_of(a).status().failing)
        assert "write the same file again" in remote_of(a).status().error
        with pytest.raises((Corrupt, NotFound)):
            await content_of(a, row.oid)
        await a.put(content)
        await uploaded(a)
        assert await content_of(a, row.oid) == content
    assert bucket.get(object_name(row.oid)) == content


@pytest.mark.parametrize("how", ["damaged", "gone"])
async def test_what_was_damaged_before_its_upload_is_healed_where_another_machine_has_uploaded_it(
    machine: Machine, bucket: Bucket, how: str
) -> None:
    content = os.urandom(2 * MIB)
    async with machine("a", uploads=False) as a, machine("b") as b:
        row = await a.put(content)
        damage(a, row.oid, 5)
        if how == "gone":
            (a.layout.objects / row.oid.path()).unlink()
        await b.put(content)
        await uploaded(b)
    async with machine("a") as a:
        await uploaded(a)
        assert await content_of(a, row.oid) == content


# Room.


async def test_an_open_object_that_finds_no_room_in_the_cache_holds_up_no_other_upload(
    machine: Machine, bucket: Bucket
) -> None:
    async with machine("a", size=MIB // 2, parallel=1, uploads=False) as a:
        oids = [(await a.put(os.urandom(MIB))).oid for _ in range(2)]
        for oid in oids:
            remote_of(a).cache.hold(oid)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remote_of(a).run)
            await until(lambda: bucket.names() == set(oids))
            for oid in oids:
                remote_of(a).cache.unhold(oid)
            await uploaded(a)
            nursery.cancel_scope.cancel()


async def test_a_small_object_that_makes_others_leave_the_cache_is_fetched_once(
    machine: Machine, proxy: Proxy
) -> None:
    contents = [os.urandom(300_000) for _ in range(12)]
    async with machine("a", mode="s3-only") as a:
        oids = [(await a.put(content)).oid for content in contents]
    async with machine("b", size=3 * MIB // 2) as b:
        before = proxy.counters()["bytes down"]
        for oid, content in zip(oids, contents, strict=True):
            assert await content_of(b, oid) == content
            await until(lambda oid=oid: remote_of(b).cache.has(oid))  # type: ignore[misc]
        assert proxy.counters()["bytes down"] - before <= 1.05 * sum(map(len, contents))


async def test_a_reader_who_goes_away_while_room_is_made_leaves_no_file_open(machine: Machine) -> None:
    """Another one waits for what it had begun, and goes on with that."""
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(os.urandom(300_000))).oid
    async with machine("b") as b:
        first = trio.CancelScope()

        async def go_away() -> None:
            with first:
                await content_of(b, oid)

        async with trio.open_nursery() as nursery, remote_of(b).space._room:  # somebody is making room
            nursery.start_soon(go_away)
            nursery.start_soon(content_of, b, oid)
            await until(lambda: oid in remote_of(b).fetches._fetches)
            first.cancel()
            await trio.sleep(0.5)  # the other one is at it
        await until(lambda: remote_of(b).cache.has(oid))
        await until(lambda: not fetched_files_open(b))


async def test_one_bit_flipped_in_what_was_fetched_of_an_object_is_fetched_again(machine: Machine) -> None:
    content = os.urandom(40 * MIB)
    async with machine("a", mode="s3-only", deadline=PATIENCE) as a:
        oid = (await a.put(content)).oid
    async with machine("b", deadline=PATIENCE) as b:
        async with await b.open(oid) as reader:
            assert await reader.read(0, 100) == content[:100]
        await until(lambda: remote_of(b).fetches._fetches[oid].is_idle)
        (file,) = fetched_files_open(b)
        with open(file, "r+b") as damaged:
            damaged.write(bytes([content[0] ^ 1]))
        async with await b.open(oid) as reader:
            assert await reader.read(0, 100) == content[:100]


# Another bucket, another mode.


async def test_another_server_with_a_bucket_of_that_name_gets_what_is_local(
    bucket: Bucket, moto_server: Server, tmp_path: Path
) -> None:
    """Or it would be taken to be there, and evicted."""
    url = replace(bucket.options.url, bucket=moto_server.bucket)
    options = replace(bucket.options, url=url)
    elsewhere = replace(options, endpoint=moto_server.endpoint)
    async with open_store(tmp_path / "a", create=True, remote=(options, CacheOptions())) as a:
        row = await a.put(b"an object")
        await remote_of(a).drain()
    async with open_store(tmp_path / "a", remote=(elsewhere, CacheOptions())) as a:
        assert waiting(a, row.oid).size == row.size
        await remote_of(a).drain()
        assert await (await remote_of(a).tier()).size(row.oid) == row.size


async def test_s3_only_keeps_nothing_of_what_was_local_before(machine: Machine) -> None:
    async with machine("a") as a:
        oids = [(await a.put(os.urandom(3000))).oid for _ in range(3)]
        await uploaded(a)
    async with machine("a", uploads=False) as a:
        oids.append((await a.put(os.urandom(3000))).oid)
        assert local_files(a) == set(oids)
    async with machine("a", mode="s3-only") as a:
        await until(lambda: not local_files(a))
        assert a.index.view(residents.total) == 0
        for oid in oids:
            assert Oid.of(await content_of(a, oid)) == oid
