"""lfsfs verify on two tiers: what is damaged in one heals from the other, either way."""

import os
from typing import Any

import pytest
import trio

from lfsfs import Oid, Store
from lfsfs.errors import Corrupt
from lfsfs.integrity.report import Report
from lfsfs.integrity.verification import Scope, Verification
from lfsfs.store import catalog

from .proxy import Proxy
from .stores import DEADLINE, MIB, Bucket, Machine, content_of, damage, local_files, object_name, uploaded


async def verified(store: Store, *, uploads: bool = False, **scope: Any) -> Report:
    """`uploads`: somebody else uploads what is to be sent again, and has by then."""
    report = await Verification(store, Scope(**scope), direct_upload=not uploads).run()
    if uploads:
        await uploaded(store)
    return report


async def put_and_uploaded(store: Store, *sizes: int) -> dict[Oid, bytes]:
    contents = [os.urandom(size) for size in sizes]
    oids = [(await store.put(content)).oid for content in contents]
    await uploaded(store)
    return dict(zip(oids, contents, strict=True))


async def state_of(store: Store, oid: Oid) -> str:
    row = store.index.view(lambda tx: catalog.get(tx, oid))
    assert row is not None
    return row.state


@pytest.mark.promise("9.7")
@pytest.mark.parametrize("how", ["bit", "gone"])
async def test_what_is_damaged_here_heals_from_the_bucket(
    machine: Machine, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with machine("a") as a:
        contents = await put_and_uploaded(a, 100, 3 * MIB)
        for oid in contents:
            if how == "bit":
                damage(a, oid, 50)
            else:
                (a.layout.objects / oid.path()).unlink()
        report = await verified(a)
        assert sorted(report.healed) == sorted(contents)
        assert report.is_sound
        assert "was healed from the remote tier" in caplog.text
        assert local_files(a) >= set(contents), "and they are here again"
        again = await verified(a)
        assert (again.healed, again.checked, again.unindexed) == ({}, 2, 0)
        for oid, content in contents.items():
            assert await content_of(a, oid) == content


@pytest.mark.promise("9.7")
@pytest.mark.parametrize("how", ["bit", "gone"])
async def test_what_is_damaged_in_the_bucket_heals_from_here(
    machine: Machine, bucket: Bucket, how: str
) -> None:
    async with machine("a") as a:
        (oid,) = contents = await put_and_uploaded(a, 2 * MIB)
    async with machine("a", uploads=False) as a:
        if how == "bit":
            bucket.flip(object_name(oid), MIB + 5)
        else:
            bucket.delete(object_name(oid))
        report = await verified(a, remote_bytes=True)
        assert list(report.healed) == [oid]
        assert bucket.get(object_name(oid)) == contents[oid]
        assert (await verified(a, remote_bytes=True)).healed == {}


async def test_what_a_listing_does_not_have_is_sent_again_or_missing(
    machine: Machine, bucket: Bucket
) -> None:
    async with machine("a") as a, machine("b", uploads=False) as b:
        (oid,) = contents = await put_and_uploaded(a, 5000)
        await b.stat(oid)  # by the bucket
        await b.index.flush()
        bucket.delete(object_name(oid))
        report = await verified(b)
        assert list(report.missing) == [oid]
        with pytest.raises(Corrupt):
            await b.open(oid)
        assert list((await verified(a, uploads=True)).healed) == [oid]
        assert bucket.get(object_name(oid)) == contents[oid]
        assert list((await verified(b)).healed) == [oid]
        assert await content_of(b, oid) == contents[oid]


async def test_what_is_damaged_everywhere_is_quarantined_until_it_is_written_again(
    machine: Machine, bucket: Bucket
) -> None:
    async with machine("a") as a:
        (oid,) = contents = await put_and_uploaded(a, 2 * MIB)
        damage(a, oid, 7)
        bucket.flip(object_name(oid), 9)
        assert list((await verified(a)).corrupt) == [oid]
        with pytest.raises(Corrupt):
            await a.open(oid)
        await a.put(contents[oid])
        await uploaded(a)
        assert bucket.get(object_name(oid)) == contents[oid]
        assert (await verified(a, remote_bytes=True)).is_sound


async def test_one_that_waits_for_its_upload_and_is_damaged_is_corrupt(machine: Machine) -> None:
    async with machine("a", uploads=False) as a:
        content = os.urandom(5000)
        row = await a.put(content)
        damage(a, row.oid, 0)
        assert list((await verified(a)).corrupt) == [row.oid]
        await a.put(content)
        assert (await verified(a)).is_sound
        assert await content_of(a, row.oid) == content


async def test_what_another_program_put_there_is_unindexed(machine: Machine, bucket: Bucket) -> None:
    async with machine("a") as a:
        await put_and_uploaded(a, 100)
        oid = bucket.put_object(b"of another program")
        report = await verified(a)
        assert (report.unindexed, report.unindexed_oids) == (1, [oid])
        assert report.is_sound


async def test_while_the_bucket_is_away_nothing_is_called_lost(machine: Machine, proxy: Proxy) -> None:
    async with machine("a") as a:
        oid, other = await put_and_uploaded(a, 100, 200)
        damage(a, oid, 0)
        proxy.down()
        report = await verified(a)
        assert list(report.unreachable) == [oid]
        assert (report.corrupt, report.missing, report.unindexed) == ({}, {}, None)
        assert not report.is_sound
        assert await state_of(a, oid) == "whole"
        proxy.up()
        with trio.fail_after(20):
            while not (await verified(a)).is_sound:
                await trio.sleep(0.2)
        assert await state_of(a, other) == "whole"


async def test_while_the_bucket_is_away_it_is_not_asked_for_each_object(
    machine: Machine, proxy: Proxy
) -> None:
    async with machine("a", mode="s3-only") as a:
        contents = [os.urandom(100) for _ in range(30)]
        oids = [(await a.put(content)).oid for content in contents]
        proxy.down()
        with trio.fail_after(5 * DEADLINE):
            report = await verified(a)
        assert sorted(report.unreachable) == sorted(oids)
        proxy.up()
