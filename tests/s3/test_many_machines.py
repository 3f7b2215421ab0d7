"""Machines that share a bucket: what each deletes, refers to, and gets back when its disk or its index is lost."""

import os
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from lfsfs import Oid
from lfsfs.errors import Corrupt, InUse, NotFound
from lfsfs.store import journal, names, references, residents
from lfsfs.store.layout import open_layout

from .proxy import Proxy
from .stores import (
    MIB,
    Bucket,
    Machine,
    content_of,
    damage,
    local_files,
    uploaded,
)

SIZES = (0, 1, 4096, MIB - 1, MIB, MIB + 1, 5 * MIB + 7)


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
            inode = names.new_inode(100 + number, "file", 0o640, 1, 2)._replace(oid=row.oid, size=row.size)
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
