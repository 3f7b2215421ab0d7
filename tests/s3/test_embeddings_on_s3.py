"""Embeddings with S3: a few PUTs for very many vectors, a ranged GET for one, all of them back when the disk is lost."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio
from embeddings.conftest import hash_of, made

from lfsfs import Store, open_store
from lfsfs.config import CacheOptions, S3Options
from lfsfs.embeddings import rewriting, writing
from lfsfs.store import journal, packs
from lfsfs.store.layout import open_layout

from .proxy import Proxy
from .servers import Server

KIB = 1 << 10


@pytest.fixture
def options(moto_server: Server) -> Iterator[tuple[Proxy, S3Options]]:
    with Proxy(moto_server.port) as proxy:
        yield proxy, moto_server.options(endpoint=proxy.endpoint)


@asynccontextmanager
async def machine(path: Path, options: S3Options, **cache: object) -> AsyncIterator[Store]:
    remote = (options, CacheOptions(**{"deadline": 5.0, **cache}))  # type: ignore[arg-type]
    async with (
        open_store(path, create=True, durability="fast", remote=remote) as store,
        trio.open_nursery() as nursery,
    ):
        assert store.remote is not None
        nursery.start_soon(store.remote.run)
        yield store
        nursery.cancel_scope.cancel()


async def drained(store: Store) -> None:
    assert store.remote is not None
    with trio.fail_after(30):
        while not store.remote.is_drained():
            await trio.sleep(0.02)
            await store.index.update(journal.ask_for_retry)


async def test_vectors_go_to_s3_in_packs_and_come_back_one_by_one(
    options: tuple[Proxy, S3Options], tmp_path: Path
) -> None:
    proxy, s3 = options
    hashes, matrix = made(30_000, dimensions=384)
    async with machine(tmp_path / "a", s3, size=1 << 20) as store:
        await store.embeddings.write_embeddings_batch((hashes, matrix))
        await store.embeddings.write_embedding(hash_of("single"), matrix[0] * 2)
        await store.embeddings.pack()
        await drained(store)
        known = store.index.view(packs.every)
        assert len(known) <= 3, "46 MB of vectors are two packs, and one for the single one"
        large = {str(pack.oid) for pack in known if pack.size > 1 << 20}
        with trio.fail_after(30):  # none fits into the cache
            while large & {path.name for path in store.layout.objects.rglob("*")}:
                await trio.sleep(0.02)
        before = proxy.counters()
        one = await store.embeddings.read_embedding(hashes[777])
        after = proxy.counters()
        assert one.tobytes() == matrix[777].tobytes()
        assert after["bytes down"] - before["bytes down"] < 4 << 20, "a vector is a range, not a pack"
        found = await store.embeddings.read_embeddings_batch(hashes[::100])
        assert [found[text].tobytes() for text in hashes[::100]] == [row.tobytes() for row in matrix[::100]]
        assert (await store.embeddings.matrix(hashes))[1].tobytes() == matrix.tobytes()


async def test_they_come_back_when_the_disk_is_lost(
    options: tuple[Proxy, S3Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (writing, rewriting):
        monkeypatch.setattr(module, "PACK_BYTES", 64 * KIB)
    monkeypatch.setattr(writing, "DIRECT_BYTES", 32 * KIB)
    _, s3 = options
    hashes, matrix = made(5_000)
    async with machine(tmp_path / "a", s3) as store:
        await store.embeddings.write_embeddings_batch((hashes, matrix))
        await store.embeddings.collection("other").write_embedding(hashes[0], np.ones(3))
        await store.embeddings.delete(hashes[4_000:])
        await store.embeddings.vacuum()
        await drained(store)
        identity = store.layout.id
        oids = {pack.oid for pack in store.index.view(packs.every)}
    await trio.to_thread.run_sync(shutil.rmtree, tmp_path / "a")
    open_layout(tmp_path / "a", create=True, identity=identity)
    async with machine(tmp_path / "a", s3) as store:
        assert store.remote is not None
        await store.remote.drain()
        listed, found = await store.embeddings.matrix()
        order = sorted(range(4_000), key=hashes.__getitem__)
        assert listed == [hashes[at] for at in order]
        assert found.tobytes() == matrix[order].tobytes()
        assert (await store.embeddings.collection("other").read_embedding(hashes[0])).tolist() == [1, 1, 1]
        assert {pack.oid for pack in store.index.view(packs.every)} == oids


async def test_a_damaged_local_pack_is_healed_from_s3(
    options: tuple[Proxy, S3Options], tmp_path: Path
) -> None:
    _, s3 = options
    hashes, matrix = made(2_000)
    async with machine(tmp_path / "a", s3) as store:
        await store.embeddings.write_embeddings_batch((hashes, matrix))
        await store.embeddings.pack()
        await drained(store)
        (pack,) = store.index.view(packs.every)
        path = store.layout.objects / pack.oid[:2] / pack.oid[2:4] / pack.oid
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(-5_000, 2)
            file.write(bytes(1_000))
        found = await store.embeddings.read_embeddings_batch(hashes)
        assert not found.corrupt
        assert [found[text].tobytes() for text in hashes] == [row.tobytes() for row in matrix]
