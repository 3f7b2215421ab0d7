"""A store with S3 behind the local disk: what is damaged in one of them is never served, and healed from the other."""

import os
import shutil
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from lfsfs import Oid
from lfsfs.errors import Corrupt
from lfsfs.store import digests, journal, residents

from .proxy import Proxy
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


# What is put right.


@pytest.mark.promise("9.5")
async def test_an_object_damaged_in_the_bucket_is_replaced_by_a_machine_that_has_it_whole(
    machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3 * MIB)

    async def deleted(oid: Oid) -> None:
        pytest.fail("there is a moment without the object")

    async with machine("a") as a, machine("b") as b:
        assert a.remote is not None
        monkeypatch.setattr(await a.remote.tier(), "delete", deleted)
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
