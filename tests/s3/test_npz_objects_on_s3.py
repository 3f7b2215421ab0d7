"""Objects that are the npz files of vectors, with S3: no PUT for them, readable by ranges, back when the disk is lost."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from embeddings.conftest import made

from lfsfs import Oid, Store
from lfsfs.config import S3Options
from lfsfs.embeddings import codec
from lfsfs.store.layout import open_layout
from lfsfs.store.rendered import RenderedStat

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
