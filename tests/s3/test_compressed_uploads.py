"""Uploads that are compressed: what lies on the disk for them counts in --pending-size, and is never in their way."""

import base64
import random
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from lfsfs import Oid, Store
from lfsfs.store import journal
from lfsfs.tiers.compression.frames import Compressing, compress, size_of
from lfsfs.tiers.source import open_source

from .stores import MIB, Bucket, Machine, content_of, object_name, uploaded

PENDING = 8 * MIB
KIB = 1 << 10


def text(number: int, size: int = 2 * MIB) -> bytes:
    """What shrinks to three quarters."""
    return base64.b64encode(random.Random(number).randbytes(size))[:size]


def waiting(store: Store, folder: Path) -> int:
    """The bytes on disk that only this disk has: what waits for its upload, and all that is being made."""
    files = [file.stat().st_blocks * 512 for file in (folder / "staging").rglob("*") if file.is_file()]
    return sum(files) + store.index.view(journal.backlog).room


@pytest.mark.promise("8.1")
@pytest.mark.parametrize("number", [1, 3])
async def test_what_is_compressed_for_its_upload_never_exceeds_the_pending_size(
    machine: Machine, bucket: Bucket, tmp_path: Path, number: int
) -> None:
    bucket.options = replace(bucket.options, compression="zstd")
    peak = 0

    async def watch(store: Store) -> None:
        nonlocal peak
        while True:
            peak = max(peak, waiting(store, tmp_path / "a"))
            await trio.sleep(0.0005)

    contents = [text(each) for each in range(number)]
    async with machine("a", uploads=False, pending_size=PENDING) as a, trio.open_nursery() as nursery:
        oids = [(await a.put(content)).oid for content in contents]
        nursery.start_soon(watch, a)
        await trio.sleep(0.01)
        assert a.remote is not None
        nursery.start_soon(a.remote.run)
        await uploaded(a)
        nursery.cancel_scope.cancel()
    assert number * 2 * MIB <= peak <= PENDING
    assert a.remote.space._staged == 0, "nothing stays reserved"
    for oid, content in zip(oids, contents, strict=True):
        stored = bucket.get(object_name(oid))
        assert size_of(stored, oid) == len(content)
        assert len(stored) < len(content) * 4 // 5
    async with machine("b") as b:
        assert [await content_of(b, oid) for oid in oids] == contents


@pytest.mark.parametrize("size", [512, 256 * KIB, 256 * KIB + 1, 3 * MIB + 7])
async def test_what_is_compressed_without_a_file_is_the_same_as_in_one(tmp_path: Path, size: int) -> None:
    content = b"three quarters " * 10 + text(1, size) if size < MIB else text(1, size)
    oid, path = Oid.of(content), tmp_path / "object"
    path.write_bytes(content)
    with open_source(oid, path) as source:
        head = await trio.to_thread.run_sync(compress, oid, source, None)
        assert head and await trio.to_thread.run_sync(compress, oid, source, tmp_path / "form") == head
        form, streamed = (tmp_path / "form").read_bytes(), Compressing(oid, source, head)
        assert streamed.size == len(form)
        assert streamed.read_at(0, len(form)) == form
        rng = random.Random(size)
        for _ in range(200):
            start = rng.randrange(len(form))
            length = rng.randrange(1, 400 * KIB)
            assert streamed.read_at(start, length) == form[start : start + length]
