"""Objects that are the npz files of vectors, with S3: no PUT for them, read by ranges, back when the disk is lost."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from embeddings.conftest import made

from lfsfs import Oid, Store
from lfsfs.config import S3Options
from lfsfs.embeddings import codec, elsewhere, objects
from lfsfs.store import packs, withdrawals
from lfsfs.store.layout import open_layout
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.vacuum import vacuum

from .proxy import Proxy
from .servers import Server
from .test_embeddings_on_s3 import drained, machine


@pytest.fixture
def options(moto_server: Server) -> Iterator[tuple[Proxy, S3Options]]:
    with Proxy(moto_server.port) as proxy:
        yield proxy, moto_server.options(endpoint=proxy.endpoint)


async def content(store: Store, oid: Oid) -> bytes:
    return b"".join([piece async for piece in store.download(oid)])


@pytest.mark.promise("12.7")
async def test_committing_the_npz_files_of_vectors_puts_no_object_into_the_bucket(
    options: tuple[Proxy, S3Options], tmp_path: Path
) -> None:
    proxy, s3 = options
    hashes, matrix = made(300)
    files = [codec.render(row) for row in matrix]
    async with machine(tmp_path / "a", s3, size=1 << 10) as store:
        await store.embeddings.write_embeddings_batch((hashes, matrix))
        await store.embeddings.pack()
        await store.add_repository("clone")
        await drained(store)
        assert store.remote is not None
        remote = await store.remote.tier()
        before = await remote.scan(None, 1_000)
        for file in files:
            row = await store.put(file, repository="clone")
            assert isinstance(row, RenderedStat)
        await drained(store)
        assert await remote.scan(None, 1_000) == before
        down = proxy.counters()["bytes down"]
        assert await content(store, Oid.of(files[7])) == files[7]
        assert proxy.counters()["bytes down"] - down < 1 << 20


@pytest.mark.promise("12.7")
async def test_they_come_back_with_their_references_when_the_disk_is_lost(
    options: tuple[Proxy, S3Options], tmp_path: Path
) -> None:
    _, s3 = options
    hashes, matrix = made(50)
    files = [codec.render(row) for row in matrix]
    async with machine(tmp_path / "a", s3) as store:
        await store.embeddings.write_embeddings_batch((hashes, matrix))
        await store.embeddings.pack()
        await store.add_repository("clone")
        for file in files[:20]:
            await store.put(file, repository="clone")
        await drained(store)
        identity = store.layout.id
    await trio.to_thread.run_sync(shutil.rmtree, tmp_path / "a")
    open_layout(tmp_path / "a", create=True, identity=identity)
    async with machine(tmp_path / "a", s3) as store:
        assert store.remote is not None
        await store.remote.drain()
        for file in files[:20]:
            assert await store.why(Oid.of(file)) == ["repos/clone refers to it"]
            assert await content(store, Oid.of(file)) == file


@pytest.mark.promise("12.8")
async def test_another_machine_makes_them_of_the_same_packs_and_keeps_these_alive(
    options: tuple[Proxy, S3Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdrawals, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(elsewhere, "KEPT_SECONDS", 0.2)
    proxy, s3 = options
    hashes, matrix = made(400)
    files = [codec.render(row) for row in matrix]
    oids = [Oid.of(file) for file in files]
    async with machine(tmp_path / "a", s3) as here, machine(tmp_path / "b", s3) as there:
        await there.add_repository("clone")
        assert not await there.exists(oids[0])
        await here.embeddings.write_embeddings_batch((hashes, matrix))
        await here.embeddings.pack()
        await here.add_repository("clone")
        for file in files[:300]:
            await here.put(file, repository="clone")
        await drained(here)
        await trio.sleep(2.5)  # how long absence is remembered
        before = proxy.counters()["requests"]
        for oid, file in zip(oids[:300], files, strict=False):
            assert await content(there, oid) == file
        assert proxy.counters()["requests"] - before < 30, "not a request for each"
        assert there.embeddings.collections() == [], "the vectors stay the other machine's"
        row = await there.put(files[5], repository="clone")
        assert isinstance(row, RenderedStat)
        await drained(there)

        # The other machine lets go of everything: the pack stays, as long as this one makes objects of it.
        await here.embeddings.delete(hashes)
        for oid in oids[:300]:
            await here.delete(oid, force=True)
        await here.embeddings.vacuum()
        await drained(here)
        assert await content(there, oids[5]) == files[5]
        await there.delete(oids[5], force=True)
        await objects.forget_unwanted(there, grace=0)
        await there.embeddings.vacuum()
        await drained(there)
        assert there.index.view(packs.every) == []
        assert there.remote is not None
        tier = await there.remote.tier()
        with trio.fail_after(30):  # it leaves the bucket as what gc took does, when both have said so
            while await tier.scan(None, 10):
                for store in (here, there):
                    await vacuum(store, [], keep=0)
                await trio.sleep(0.1)


async def test_a_machine_that_comes_back_does_not_take_the_packs_of_others_for_its_own(
    options: tuple[Proxy, S3Options], tmp_path: Path
) -> None:
    _, s3 = options
    hashes, matrix = made(20)
    file = codec.render(matrix[3])
    async with machine(tmp_path / "a", s3) as here:
        await here.embeddings.write_embeddings_batch((hashes, matrix))
        await here.embeddings.pack()
        await here.put(file)
        await here.add_repository("clone")
        await here.put(file, repository="clone")
        await drained(here)
    async with machine(tmp_path / "b", s3) as there:
        await there.add_repository("clone")
        await there.put(file, repository="clone") if await there.exists(Oid.of(file)) else None
        await drained(there)
        identity = there.layout.id
    await trio.to_thread.run_sync(shutil.rmtree, tmp_path / "b")
    open_layout(tmp_path / "b", create=True, identity=identity)
    async with machine(tmp_path / "b", s3) as there:
        assert there.remote is not None
        await there.remote.drain()
        assert await there.why(Oid.of(file)) == ["repos/clone refers to it"]
        assert await content(there, Oid.of(file)) == file
        assert there.embeddings.collections() == []
