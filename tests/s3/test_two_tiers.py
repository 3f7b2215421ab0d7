"""A store with S3 behind the local disk, as its own process sees it: what is where, what waits, what is never served."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from lfsfs import LfsfsError, Oid, open_store
from lfsfs.config import CacheOptions
from lfsfs.errors import Corrupt, InUse, NoSpace, NotFound, Unavailable
from lfsfs.store import digests, journal, names, references, residents
from lfsfs.store.layout import open_layout

from .proxy import Proxy
from .stores import (
    DEADLINE,
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

SIZES = (0, 1, 4096, MIB - 1, MIB, MIB + 1, 5 * MIB + 7)


# Write-back.


@pytest.mark.promise("6.3")
async def test_what_one_machine_commits_another_reads(machine: Machine, bucket: Bucket) -> None:
    contents = [os.urandom(size) for size in SIZES]
    async with machine("a") as a, machine("b") as b:
        rows = [await a.put(content) for content in contents]
        await uploaded(a)
        assert bucket.names() == {row.oid for row in rows}
        for row, content in zip(rows, contents, strict=True):
            found = await b.stat(row.oid)
            assert (found.size, found.state) == (row.size, "whole")
            assert await content_of(b, row.oid) == content
            assert await content_of(b, row.oid) == content


@pytest.mark.promise("7.2")
async def test_a_commit_waits_for_the_local_disk_only(machine: Machine, bucket: Bucket, proxy: Proxy) -> None:
    async with machine("a") as a:
        proxy.down()
        content = os.urandom(3 * MIB)
        with trio.fail_after(PATIENCE):  # one that waited for S3 would wait for as long as that is away
            row = await a.put(content)
        assert await content_of(a, row.oid) == content
        assert a.index.view(journal.backlog).objects == 1
        proxy.up()
        await uploaded(a)
    assert bucket.get(object_name(row.oid)) == content


@pytest.mark.promise("7.2")
async def test_the_journal_survives_the_process(machine: Machine, bucket: Bucket) -> None:
    async with machine("a", uploads=False) as a:
        oids = {(await a.put(os.urandom(1000 + number))).oid for number in range(20)}
    assert bucket.names() == set()
    async with machine("a") as a:
        await uploaded(a)
    assert bucket.names() == oids


async def test_the_journal_has_an_object_once_however_often_it_is_committed(machine: Machine) -> None:
    async with machine("a", uploads=False) as a:
        for _ in range(3):
            await a.put(b"the same")
        assert a.index.view(journal.backlog).objects == 1


async def test_a_store_that_was_local_only_brings_its_objects_along(
    machine: Machine, bucket: Bucket, tmp_path: Path
) -> None:
    async with open_store(tmp_path / "a", create=True) as local:
        oids = {(await local.put(os.urandom(100 + number))).oid for number in range(5)}
    async with machine("a") as a:
        await uploaded(a)
    assert bucket.names() == oids


@pytest.mark.promise("9.6")
async def test_what_is_damaged_locally_before_its_upload_never_reaches_the_bucket(
    machine: Machine, bucket: Bucket
) -> None:
    content = os.urandom(2 * MIB)
    async with machine("a", uploads=False) as a:
        row = await a.put(content)
        damage(a, row.oid, MIB + 5)
    async with machine("a") as a:
        with trio.fail_after(10):
            while a.remote is None or a.remote.uploads is None or not a.remote.uploads.failures:
                await trio.sleep(0.02)
        assert "damaged" in a.remote.status().error
        with pytest.raises(Corrupt):
            await content_of(a, row.oid)
        assert bucket.names() == set()


# Write-through and s3-only.


@pytest.mark.promise("7.4")
@pytest.mark.parametrize("mode", ["write-through", "s3-only"])
async def test_a_commit_returns_when_the_bucket_has_it(machine: Machine, bucket: Bucket, mode: str) -> None:
    async with machine("a", mode=mode) as a:
        for size in SIZES:
            content = os.urandom(size)
            row = await a.put(content)
            assert bucket.get(object_name(row.oid)) == content
            assert await content_of(a, row.oid) == content
        assert bool(local_files(a)) == (mode == "write-through")


@pytest.mark.promise("7.4")
@pytest.mark.parametrize("mode", ["write-through", "s3-only"])
async def test_a_commit_fails_by_the_deadline_while_the_bucket_is_away(
    machine: Machine, proxy: Proxy, mode: str
) -> None:
    async with machine("a", mode=mode) as a:
        proxy.down()
        content = os.urandom(1000)
        with trio.fail_after(3 * DEADLINE), pytest.raises(Unavailable):
            await a.put(content)
        assert not local_files(a)
        assert a.lookup(Oid.of(content)) is None
        proxy.up()
        await a.put(content)


# Reads.


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


# Damage.


@pytest.mark.promise("9.4")
@pytest.mark.parametrize("at", [0, MIB + 5, 3 * MIB - 1])
async def test_one_bit_flipped_in_the_bucket_is_never_served(
    machine: Machine, bucket: Bucket, at: int
) -> None:
    content = os.urandom(3 * MIB)
    async with machine("a") as a:
        oid = (await a.put(content)).oid
        await uploaded(a)
        bucket.flip(object_name(oid), at)
        async with machine("b") as b, await b.open(oid) as reader:
            for number in range(3):
                if number == at // MIB:
                    with pytest.raises(Corrupt, match=oid):
                        await reader.read(number * MIB, MIB)
                else:
                    assert await reader.read(number * MIB, MIB) == content[number * MIB :][:MIB]
        assert await content_of(a, oid) == content


@pytest.mark.promise("9.5")
@pytest.mark.parametrize("at", [0, 2 * MIB, 3 * MIB - 1])
async def test_one_bit_flipped_in_the_cache_is_healed_from_the_bucket(machine: Machine, at: int) -> None:
    content = os.urandom(3 * MIB)
    async with machine("a") as a:
        oid = (await a.put(content)).oid
        await uploaded(a)
        damage(a, oid, at)
        assert await content_of(a, oid) == content
        with trio.fail_after(5):
            while not local_files(a) or (a.layout.objects / oid.path()).read_bytes() != content:
                await trio.sleep(0.02)


@pytest.mark.promise("9.5")
async def test_a_local_file_that_is_gone_comes_back_from_the_bucket(machine: Machine) -> None:
    content = os.urandom(MIB + 3)
    async with machine("a") as a:
        oid = (await a.put(content)).oid
        await uploaded(a)
        (a.layout.objects / oid.path()).unlink()
        assert await content_of(a, oid) == content


# Outages.


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


# Room.


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


# Deletion.


async def test_what_is_deleted_is_gone_everywhere(machine: Machine, bucket: Bucket) -> None:
    async with machine("a") as a:
        row = await a.put(os.urandom(3 * MIB))
        await uploaded(a)
        await a.delete(row.oid)
        assert not local_files(a)
        assert bucket.names() == bucket.names("digests") == set()
        with pytest.raises(NotFound):
            await a.stat(row.oid)


async def test_what_waits_for_its_upload_can_be_deleted_while_the_bucket_is_away(
    machine: Machine, bucket: Bucket, proxy: Proxy
) -> None:
    async with machine("a") as a:
        proxy.down()
        row = await a.put(os.urandom(1000))
        await a.delete(row.oid)
        assert a.index.view(journal.backlog).objects == 0
        proxy.up()
        await trio.sleep(1)
        assert bucket.names() == set()


# A lost index.


@pytest.mark.promise("11.2")
async def test_an_empty_machine_and_the_bucket_give_back_the_objects(machine: Machine) -> None:
    contents = {Oid.of(content): content for content in (os.urandom(size) for size in SIZES)}
    async with machine("a") as a:
        for content in contents.values():
            await a.put(content)
        await uploaded(a)
    async with machine("new") as b:
        assert await b.rebuild_from_remote() == len(contents)
        usage = await b.usage()
        assert (usage.objects, usage.bytes) == (len(contents), sum(SIZES))
        for oid, content in contents.items():
            assert await content_of(b, oid) == content
        assert await b.rebuild_from_remote() == 0


@pytest.mark.promise("11.2")
async def test_a_rebuild_uploads_nothing_again_and_mends_what_is_damaged_locally(
    machine: Machine, proxy: Proxy, tmp_path: Path
) -> None:
    contents = [os.urandom(2 * MIB + number) for number in range(4)]
    async with machine("a") as a:
        oids = [(await a.put(content)).oid for content in contents]
        await uploaded(a)
        damage(a, oids[0], MIB)
    (tmp_path / "a" / "index").rename(tmp_path / "lost")
    before = proxy.counters()["bytes up"]
    async with machine("a", uploads=False) as a:
        await a.rebuild_from_remote()
        assert a.index.view(journal.backlog).objects == 0
        for oid, content in zip(oids, contents, strict=True):
            assert await content_of(a, oid) == content
    assert proxy.counters()["bytes up"] == before


async def test_a_rebuild_while_an_object_is_uploaded_does_not_take_it_from_the_bucket(
    machine: Machine, bucket: Bucket
) -> None:
    async with machine("a", uploads=False) as a:
        content = os.urandom(3 * MIB)
        row = await a.put(content)
        waiting = a.index.view(lambda tx: journal.get(tx, row.oid))
        assert waiting is not None
        assert a.remote is not None
        bucket.put_object(content)  # the upload is through, and has not said so yet
        await a.rebuild_from_remote()
        await a.remote._uploaded(waiting)
        assert bucket.names() == {str(row.oid)}


# Errors that a person has to mend are said, and tried again.


async def test_uploads_that_are_refused_are_told_and_go_on_when_they_are_allowed(
    machine: Machine, bucket: Bucket, proxy: Proxy
) -> None:
    async with machine("a") as a:
        proxy.fault(method="PUT", times=3, status=403)
        await a.put(b"refused at first")
        assert a.remote is not None
        with trio.fail_after(20):
            while not a.remote.status().error:
                await trio.sleep(0.01)
        assert a.remote.status().pending_objects == 1
        await a.index.update(journal.ask_for_retry)
        await uploaded(a)
    assert len(bucket.names()) == 1


async def test_wrong_credentials_are_an_error_at_the_first_use(
    machine: Machine, bucket: Bucket, tmp_path: Path
) -> None:
    wrong = replace(bucket.options, secret_access_key="wrong")
    async with open_store(
        tmp_path / "a", create=True, remote=(wrong, CacheOptions(deadline=4 * PATIENCE))
    ) as store:
        with (
            trio.fail_after(PATIENCE),
            pytest.raises(LfsfsError, match=r"403|secret|signature|credentials") as failure,
        ):
            await store.stat(Oid.of(b"any"))
        assert not isinstance(failure.value, Unavailable)


# Many machines.


@pytest.mark.promise("6.4")
async def test_what_another_machine_refers_to_is_not_deleted(machine: Machine, bucket: Bucket) -> None:
    async with machine("a") as a, machine("b") as b:
        row = await a.put(os.urandom(3000))
        await uploaded(a)
        await b.add_repository("game")
        await b.stat(row.oid)
        root = b.repository("game")
        await b.index.update(lambda tx: references.add(tx, root.id, row.oid))
        assert b.remote is not None
        await b.remote.records.publish()
        with pytest.raises(InUse, match="still referred to by"):
            await a.delete(row.oid)
        await b.index.update(lambda tx: references.drop(tx, root.id, row.oid))
        await b.remote.records.publish()
        await a.delete(row.oid)
        assert bucket.names() == set()


@pytest.mark.promise("6.4")
async def test_a_damaged_record_of_another_machine_stops_a_deletion(machine: Machine, bucket: Bucket) -> None:
    async with machine("a") as a, machine("b", uploads=False) as b:
        row = await a.put(b"needed")
        await uploaded(a)
        assert b.remote is not None
        await b.remote.records.publish()
        key = f"records/{b.layout.id}/references/{row.oid[:2]}"
        bucket.put(key, b"nonsense" * 10)
        with pytest.raises(Corrupt):
            await a.delete(row.oid)
        assert bucket.names() == {row.oid}


@pytest.mark.promise("11.3")
async def test_a_machine_whose_disk_was_lost_comes_back_with_its_names_and_repositories(
    machine: Machine, tmp_path: Path
) -> None:
    async with machine("a") as a:
        await a.add_repository("game")
        rows = [await a.put(os.urandom(500 + number), repository="game") for number in range(40)]
        await a.index.update(lambda tx: names.make_root(tx, 7, 8))
        for number, row in enumerate(rows[:10]):
            inode = replace(names.new_inode(100 + number, "file", 0o640, 1, 2), oid=row.oid, size=row.size)
            await a.index.update(lambda tx, inode=inode: names.enter(tx, 1, b"name %d" % inode.number, inode))
        await a.index.update(lambda tx: residents.pin(tx, [rows[3].oid]))
        await uploaded(a)
        assert a.remote is not None
        await a.remote.records.publish()
        assert a.remote.is_drained()
        identity = a.layout.id
        before = {row.oid: await a.why(row.oid) for row in rows}
        tree = a.index.view(lambda tx: sorted(names.children(tx, names.ROOT)))
        usage = await a.usage()
    (tmp_path / "a").rename(tmp_path / "lost")
    open_layout(tmp_path / "a", create=True, identity=identity)
    async with machine("a") as a:
        assert a.remote is not None
        await a.remote.drain()
        assert await a.usage() == usage
        assert {row.oid: await a.why(row.oid) for row in rows} == before
        assert a.index.view(lambda tx: sorted(names.children(tx, names.ROOT))) == tree
        assert a.index.view(residents.pins) == [rows[3].oid]
        found = a.index.view(lambda tx: names.resolve(tx, b"name 104"))
        assert (found.oid, found.mode, found.uid, found.gid) == (rows[4].oid, 0o640, 1, 2)
        assert await a.index.update(lambda tx: names.reserve(tx, 1)) > 109


@pytest.mark.slow
async def test_records_that_were_not_written_for_want_of_an_answer_are_soon_when_there_is_one(
    machine: Machine, proxy: Proxy
) -> None:
    """What failed took as long as it waited for its answers: ten times that went by before it was tried again."""
    async with machine("a", uploads=False, deadline=5.0) as a:
        assert a.remote is not None
        await a.add_repository("game")
        await a.put(b"referred to", repository="game")
        proxy.pace(latency=30)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.remote.records.run)
            with trio.fail_after(30):
                while not a.remote.records.failure:
                    await trio.sleep(0.1)
            proxy.pace()
            with trio.fail_after(25):
                while not a.remote.records.is_published():
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()


async def test_records_are_written_anew_only_where_something_changed(machine: Machine, proxy: Proxy) -> None:
    async with machine("a", uploads=False) as a:
        await a.add_repository("game")
        for number in range(30):
            await a.put(b"%d" % number, repository="game")
        assert a.remote is not None
        await a.remote.records.publish()
        before = proxy.counters()["PUT"]
        await a.remote.records.publish()
        assert proxy.counters()["PUT"] == before
        await a.put(b"one more", repository="game")
        await a.remote.records.publish()
        assert proxy.counters()["PUT"] == before + 1


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


# What is put right.


@pytest.mark.promise("9.5")
async def test_an_object_damaged_in_the_bucket_is_replaced_by_a_machine_that_has_it_whole(
    machine: Machine, bucket: Bucket
) -> None:
    content = os.urandom(3 * MIB)
    async with machine("a") as a, machine("b") as b:
        oid = (await a.put(content)).oid
        await uploaded(a)
        bucket.flip(object_name(oid), MIB + 5)
        with pytest.raises(Corrupt):
            await content_of(b, oid)
        assert b.remote is not None and b.remote.status().damaged == 1
        with trio.fail_after(PATIENCE):
            while bucket.names("damaged") != {oid}:
                await trio.sleep(0.1)
        await a.index.update(
            journal.ask_for_retry
        )  # as `lfsfs sync` does; it would look by itself within a minute
        with trio.fail_after(PATIENCE):
            while bucket.names("damaged"):
                await trio.sleep(0.1)
        assert bucket.get(object_name(oid)) == content
        await b.index.update(journal.ask_for_retry)
        with trio.fail_after(PATIENCE):
            while b.remote.status().damaged:
                await trio.sleep(0.1)
        assert await content_of(b, oid) == content


async def test_a_local_copy_that_is_damaged_too_replaces_nothing(machine: Machine, bucket: Bucket) -> None:
    content = os.urandom(2 * MIB)
    async with machine("a", uploads=False) as a:
        assert a.remote is not None
        oid = (await a.put(content)).oid
        await a.remote.drain()
        damage(a, oid, 5)
        bucket.flip(object_name(oid), 7)
        damaged = bucket.get(object_name(oid))
        bucket.put(f"damaged/{oid}", b"")
        await a.remote.drain()
        assert bucket.get(object_name(oid)) == damaged
        assert bucket.names("damaged") == {oid}


async def test_a_machine_whose_own_records_are_damaged_says_so_and_writes_them_anew(
    machine: Machine, bucket: Bucket, tmp_path: Path
) -> None:
    async with machine("a", uploads=False) as a:
        assert a.remote is not None
        oid = (await a.put(b"referred to", repository=(await a.add_repository("films")).name)).oid
        pinned = (await a.put(b"pinned")).oid
        await a.index.update(lambda tx: residents.pin(tx, [pinned]))
        await a.remote.drain()
        own = f"machines/{a.layout.id}.json"
        shard = f"records/{a.layout.id}/references/{pinned[:2]}"
        bucket.put(own, b"{")
        bucket.flip(shard, 30)
    shutil.rmtree(tmp_path / "a" / "index")
    async with machine("a") as a:
        assert a.remote is not None
        with trio.fail_after(PATIENCE):
            while not a.remote.status().notice:
                await trio.sleep(0.05)
        assert own in a.remote.status().notice and shard in a.remote.status().notice
        with trio.fail_after(PATIENCE):
            while bucket.get(own) == b"{" or not a.remote.records.is_published():
                await trio.sleep(0.05)
        assert a.remote.status().error == ""
        holders = {root.name for root in await a.repositories()}
        assert any("repos/recovered-" in reason for reason in await a.why(oid)), holders


async def test_a_digest_note_of_any_length_is_not_read_to_its_end(
    machine: Machine, bucket: Bucket, proxy: Proxy
) -> None:
    content = os.urandom(2 * MIB)
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(content)).oid
    bucket.put(digests.note_key(oid), bytes(64 * MIB))
    async with machine("b") as b:
        before = proxy.counters()["bytes down"]
        assert await content_of(b, oid) == content
        assert proxy.counters()["bytes down"] - before < 8 * MIB
