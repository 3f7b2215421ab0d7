"""lfsfs fsck on two tiers: what the index says of where an object is, and where it is."""

import os
from dataclasses import replace

import pytest
from integrity.damage import refer_to_nothing

from lfsfs import Oid, Store
from lfsfs.integrity.fsck import Findings, check
from lfsfs.store import catalog, journal, references, residents
from lfsfs.store.index import Tx

from .stores import Bucket, Machine, content_of, local_files, object_name, uploaded

ABSENT = Oid("ab" * 32)


async def found(store: Store, *, repair: bool = False) -> Findings:
    return await check(store, repair=repair)


async def put_and_uploaded(store: Store) -> tuple[Oid, bytes]:
    content = os.urandom(5000)
    row = await store.put(content)
    await uploaded(store)
    return row.oid, content


async def test_two_tiers_that_agree_have_no_fault(machine: Machine, bucket: Bucket) -> None:
    async with machine("a") as a:
        await put_and_uploaded(a)
        bucket.put_object(b"another machine's")
        findings = await found(a)
        assert (findings.faults, findings.unindexed, findings.objects) == ([], 1, 1)


@pytest.mark.promise("11.4")
@pytest.mark.parametrize("waits", [False, True], ids=["resident", "pending"])
async def test_a_file_that_is_gone_comes_back_from_the_bucket(machine: Machine, waits: bool) -> None:
    async with machine("a") as a:
        oid, content = await put_and_uploaded(a)
    async with machine("a", uploads=False) as a:
        if waits:
            await a.index.update(lambda tx: (residents.drop(tx, oid), journal.enter(tx, oid, 5000)))
        (a.layout.objects / oid.path()).unlink()
        assert [fault.kind for fault in (await found(a)).faults] == ["missing"]
        assert (await found(a, repair=True)).left == []
        assert await content_of(a, oid) == content
        assert (await found(a)).faults == []


@pytest.mark.parametrize("there", [False, True], ids=["only here", "in the bucket too"])
async def test_a_file_that_the_index_does_not_take_to_be_here_is_counted_or_uploaded(
    machine: Machine, bucket: Bucket, there: bool
) -> None:
    async with machine("a") as a:
        oid, content = await put_and_uploaded(a)
    async with machine("a", uploads=False) as a:
        await a.index.update(lambda tx: residents.drop(tx, oid))
        if not there:
            bucket.delete(object_name(oid))
        assert "place" in [fault.kind for fault in (await found(a)).faults]
        assert (await found(a, repair=True)).left == []
        assert local_files(a) == {oid}
        assert (await found(a)).faults == []
        assert await content_of(a, oid) == content
    async with machine("a") as a:
        await uploaded(a)
        assert bucket.get(object_name(oid)) == content


async def test_bytes_without_a_row_are_taken_in_and_uploaded(machine: Machine, bucket: Bucket) -> None:
    content = b"linked, and then the power went"
    oid = Oid.of(content)
    async with machine("a") as a:
        file = a.layout.objects / oid.path()
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        assert [fault.kind for fault in (await found(a)).faults] == ["orphan"]
        assert (await found(a, repair=True)).left == []
        await uploaded(a)
        assert bucket.get(object_name(oid)) == content


async def test_a_row_of_what_the_bucket_has_no_more_is_marked(machine: Machine, bucket: Bucket) -> None:
    async with machine("a") as a, machine("b", uploads=False) as b:
        oid, content = await put_and_uploaded(a)
        await b.stat(oid)
        await b.index.flush()
        bucket.delete(object_name(oid))
        assert [fault.kind for fault in (await found(b)).faults] == ["missing"]
        assert [fault.what for fault in (await found(b, repair=True)).left] == [oid]
        assert ((await found(b)).faults, (await found(b)).corrupt) == ([], 1)
        await b.put(content)
        assert await content_of(b, oid) == content


async def test_a_reference_to_what_only_the_bucket_knows_is_none_to_nothing(
    machine: Machine, bucket: Bucket
) -> None:
    oid = bucket.put_object(b"another machine's")
    async with machine("a") as a:
        await a.add_repository("game")
        root = a.repository("game")

        def refer(tx: Tx) -> None:
            refer_to_nothing(tx, root.id, oid)
            refer_to_nothing(tx, root.id, ABSENT)

        await a.index.update(refer)
        assert [fault.why for fault in (await found(a)).faults] == [f"object {ABSENT} is nowhere"]
        assert (await found(a, repair=True)).left == []
        assert a.index.view(lambda tx: references.all_oids(tx, root.id)) == [oid]


async def test_a_row_with_another_size_is_put_right(machine: Machine) -> None:
    async with machine("a") as a:
        oid, content = await put_and_uploaded(a)

        def spoil(tx: Tx) -> None:
            row = catalog.get(tx, oid)
            assert row is not None
            catalog.put(tx, replace(row, size=7))

        await a.index.update(spoil)
        assert {fault.kind for fault in (await found(a)).faults} == {"bytes"}
        assert (await found(a, repair=True)).left == []
        assert await content_of(a, oid) == content
