"""A store with S3 whose local disk is encrypted: what waits for its upload, what was fetched in part, what is kept."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from tiers.test_encryption import read_sealed

from lfsfs import Oid, Store
from lfsfs.errors import Corrupt, NoSpace
from lfsfs.integrity.fsck import check
from lfsfs.store import keys
from lfsfs.store.layout import open_layout
from lfsfs.tiers.encryption.frames import sealed_size

from .stores import MIB, Bucket, Machine, content_of, local_files, object_name, on_disk, uploaded

PENDING = 8 * MIB
SECRET = b"the secret recipe of the house. "


def encrypted(folder: Path) -> keys.StoreKeys:
    """The store in this folder, new, encrypts what it has on its disk."""
    file = folder.with_suffix(".key")
    file.write_text(hashlib.sha256(folder.name.encode()).hexdigest())
    open_layout(folder, create=True)
    return keys.create(folder, f"file:{file}")


def secrets(size: int) -> bytes:
    return (SECRET * (size // len(SECRET) + 1))[:size]


def telling(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and SECRET in file.read_bytes()]


def local_file(store: Store, oid: Oid) -> Path:
    return store.layout.objects / oid.path()


async def kept(store: Store, oid: Oid) -> None:
    """Returns when the object is on the local disk."""
    with trio.fail_after(20):
        while oid not in local_files(store):
            await trio.sleep(0.02)


@pytest.mark.promise("19.1")
@pytest.mark.parametrize("size", [1, 4096, MIB, MIB + 1, 9 * MIB + 7])
async def test_what_goes_to_the_bucket_and_what_comes_from_it_is_sealed_on_the_disk_and_right(
    machine: Machine, bucket: Bucket, tmp_path: Path, size: int
) -> None:
    content = secrets(size)
    encrypted(tmp_path / "a")
    ring = {each.id: each.key for each in encrypted(tmp_path / "b").ring.keys}
    async with machine("a") as a:
        oid = (await a.put(content)).oid
        await uploaded(a)
        assert await content_of(a, oid) == content
    assert bucket.get(object_name(oid)) == content, "the bucket is not encrypted: that is for it to say"
    async with machine("b") as b:
        assert await content_of(b, oid) == content
        await kept(b, oid)
        assert read_sealed(local_file(b, oid).read_bytes(), oid, ring) == content
        assert await content_of(b, oid) == content
    assert not telling(tmp_path / "a") and not telling(tmp_path / "b")


def beyond(store: Store) -> int:
    """The bytes by which what lies on the disk, none of which waits for its upload, exceeds the cache."""
    assert store.remote is not None
    taken = on_disk(store.layout.objects, store.layout.staging, store.layout.index)
    return taken - store.remote.space.cache_limit


@pytest.mark.promise("8.1")
async def test_what_is_kept_sealed_does_not_exceed_the_cache(machine: Machine, tmp_path: Path) -> None:
    encrypted(tmp_path / "a")
    async with machine("a", size=4 * MIB) as a:
        for _ in range(70):
            await a.put(os.urandom(64 << 10))
        await uploaded(a)
        assert len(local_files(a)) > 30
        assert beyond(a) <= 0


@pytest.mark.promise("8.1")
async def test_what_is_fetched_in_part_sealed_does_not_exceed_the_cache(
    machine: Machine, tmp_path: Path
) -> None:
    """Every second MiB, each of which begins and ends inside a block of the disk."""
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(os.urandom(40 * MIB))).oid
    encrypted(tmp_path / "b")
    async with machine("b", size=10 * MIB) as b:
        assert b.remote is not None
        async with await b.open(oid) as reader:
            for number in range(0, 40, 2):
                await reader.read(number * MIB, 5)
                await trio.sleep(0.02)  # what else is on its way comes
                assert beyond(b) <= 0
                assert on_disk(b.layout.staging) <= b.remote.space.cached(), "all of it counts"
            assert on_disk(b.layout.staging) > 4 * MIB


@asynccontextmanager
async def peak_of(store: Store) -> AsyncIterator[list[int]]:
    """The most bytes that objects and staged files took on the disk at once, meanwhile."""
    found = [0]

    async def watch() -> None:
        while True:
            found[0] = max(found[0], on_disk(store.layout.objects, store.layout.staging))
            await trio.sleep(0.0005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        yield found
        nursery.cancel_scope.cancel()


@pytest.mark.promise("8.1")
async def test_what_is_sealed_for_its_upload_never_exceeds_the_pending_size(
    machine: Machine, tmp_path: Path
) -> None:
    """A file and its sealed object lie side by side for a moment."""
    encrypted(tmp_path / "a")
    async with machine("a", size=4096, pending_size=PENDING) as a, peak_of(a) as peak:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(a.put, os.urandom(3 * MIB))
        await uploaded(a)
        assert 6 * MIB < peak[0] <= PENDING
        with pytest.raises(NoSpace, match="twice"):
            await a.put(os.urandom(5 * MIB))
        assert peak[0] <= PENDING
        assert a.remote is not None
        assert a.remote.space.pending() == 0, "nothing stays reserved"


@pytest.mark.promise("8.1")
async def test_what_waits_sealed_counts_as_it_lies_on_the_disk(machine: Machine, tmp_path: Path) -> None:
    encrypted(tmp_path / "a")
    async with machine("a", uploads=False, pending_size=PENDING) as a:
        for size in (4096, 8192, 64 << 10, 2 * MIB):
            await a.put(os.urandom(size))
        assert a.remote is not None
        assert a.remote.space.pending() == on_disk(a.layout.objects, a.layout.staging)
        assert (await check(a, repair=False)).faults == []


async def test_what_was_fetched_in_part_is_sealed_and_a_bit_that_flips_in_it_is_fetched_again(
    machine: Machine, tmp_path: Path
) -> None:
    content = secrets(40 * MIB)
    async with machine("a", mode="s3-only") as a:
        oid = (await a.put(content)).oid
    encrypted(tmp_path / "b")
    async with machine("b") as b:
        async with await b.open(oid) as reader:
            for offset, size in ((20 * MIB + 3, 5), (40 * MIB - 7, 100), (MIB - 2, 4), (30 * MIB, 0)):
                assert await reader.read(offset, size) == content[offset : offset + size]
            assert not telling(tmp_path / "b")
            [part] = [
                file for file in b.layout.staging.rglob("*") if file.is_file() and file.stat().st_size > MIB
            ]
            assert part.stat().st_size == sealed_size(len(content))
            with part.open("r+b") as file:
                file.seek(sealed_size(20 * MIB) + 40)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))
            assert await reader.read(20 * MIB + 3, 5) == content[20 * MIB + 3 :][:5]
        async with await b.open(oid) as reader:
            assert await reader.read(20 * MIB, MIB) == content[20 * MIB : 21 * MIB]


@pytest.mark.promise("19.5")
async def test_a_bit_that_flipped_in_the_cache_is_healed_from_the_bucket(
    machine: Machine, tmp_path: Path
) -> None:
    content = os.urandom(MIB + 9)
    encrypted(tmp_path / "a")
    async with machine("a") as a:
        oid = (await a.put(content)).oid
        await uploaded(a)
        file = local_file(a, oid)
        file.chmod(0o600)
        sealed = file.read_bytes()
        for at in (3, 20, 60, 5000, len(sealed) - 1):
            file.write_bytes(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
            assert await content_of(a, oid) == content
            await kept(a, oid)
            file.write_bytes(sealed)


async def test_what_is_damaged_before_its_upload_never_reaches_the_bucket(
    machine: Machine, bucket: Bucket, tmp_path: Path
) -> None:
    encrypted(tmp_path / "a")
    async with machine("a", uploads=False) as a:
        oid = (await a.put(os.urandom(70_000))).oid
        file = local_file(a, oid)
        file.chmod(0o600)
        sealed = file.read_bytes()
        file.write_bytes(sealed[:50_000] + bytes([sealed[50_000] ^ 1]) + sealed[50_001:])
    async with machine("a") as a:
        with trio.fail_after(20):
            while True:
                row = a.lookup(oid)
                if row is not None and getattr(row, "state", "") == "corrupt":
                    break
                await trio.sleep(0.02)
        with pytest.raises(Corrupt):
            await content_of(a, oid)
    assert oid not in bucket.names()
