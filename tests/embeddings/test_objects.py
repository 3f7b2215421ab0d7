"""An object that is the npz file of a vector: made of the row, stored no second time, and never lost with the row."""

import io
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import trio

from lfsfs import Oid, Store, open_store
from lfsfs.embeddings import codec, objects, rewriting, writing
from lfsfs.errors import Corrupt, InUse, NotFound
from lfsfs.store import packs
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.query import ListQuery
from lfsfs.store.rendered import RenderedStat

from .conftest import made


@pytest.fixture
async def packed(store: Store) -> AsyncIterator[tuple[Store, list[bytes]]]:
    """A store with 50 vectors in a pack, a repository root, and the npz files of the vectors."""
    hashes, matrix = made(50)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    await store.embeddings.pack()
    await store.add_repository("clone")
    yield store, [codec.render(row) for row in matrix]


async def commit(store: Store, files: list[bytes]) -> list[ObjectStat]:
    return [await store.put(content, repository="clone") for content in files]


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "objects").rglob("*") if file.is_file())


async def content(store: Store, oid: Oid) -> bytes:
    return b"".join([piece async for piece in store.download(oid)])


@pytest.mark.promise("12.1")
async def test_the_npz_file_of_a_vector_is_an_object_that_is_stored_no_second_time(
    packed: tuple[Store, list[bytes]],
) -> None:
    store, files = packed
    before, usage = bytes_of(store.layout.path), await store.usage()
    committed = await commit(store, files)
    assert bytes_of(store.layout.path) == before
    assert (await store.usage()).bytes == usage.bytes
    for row, file in zip(committed, files, strict=True):
        assert (row.oid, row.size) == (Oid.of(file), len(file))
        assert await content(store, row.oid) == file
        assert await store.exists(row.oid)
        assert await store.check(row.oid)
        assert await store.find(row.oid[:10]) == row.oid
    listed = await store.list(ListQuery(repository="clone"))
    assert sorted(row.oid for row in listed.objects) == sorted(row.oid for row in committed)


async def test_a_vector_that_lies_in_the_index_yet_is_packed_first(store: Store) -> None:
    hashes, matrix = made(3)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    assert not store.index.view(packs.every)
    row = await store.put(codec.render(matrix[0]))
    assert isinstance(row, RenderedStat)
    assert len(store.index.view(packs.every)) == 1


async def test_any_other_npz_file_is_an_object_of_its_own(packed: tuple[Store, list[bytes]]) -> None:
    store, files = packed
    with np.load(io.BytesIO(files[0])) as loaded:
        vector = loaded["vector"]
    other = io.BytesIO()
    np.savez(other, vector=vector)
    unknown = codec.render(vector + 1)
    for file in (other.getvalue(), unknown, files[0] + b" ", files[0][:-1], files[0][:100]):
        row = await store.put(file)
        assert not isinstance(row, RenderedStat)
        assert store.layout.path.joinpath("objects", row.oid.path()).read_bytes() == file


@pytest.mark.promise("12.2")
async def test_what_is_deleted_or_replaced_in_the_collection_stays_while_an_object_is_made_of_it(
    packed: tuple[Store, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, files = packed
    monkeypatch.setattr(rewriting, "DEAD_SHARE", 0.01)
    monkeypatch.setattr(objects, "GRACE_SECONDS", 0.0)
    await commit(store, files[:10])
    hashes, matrix = made(50)
    await store.embeddings.delete(hashes[:5])
    await store.embeddings.write_embeddings_batch((hashes[5:8], matrix[5:8] + 1), replace=True)
    await store.embeddings.delete(hashes[10:])
    done = await store.embeddings.vacuum()
    assert done.removed == 1, "the pack was to be rewritten"
    for file in files[:10]:
        assert await content(store, Oid.of(file)) == file
    for file in files[10:]:
        assert not await store.exists(Oid.of(file))


class Clone:
    """Refers to everything that it is asked for."""

    async def strike(self, candidates: set[bytes]) -> None:
        candidates.clear()


async def test_an_object_that_nothing_refers_to_gives_its_vector_back_after_the_grace_time(
    packed: tuple[Store, list[bytes]],
) -> None:
    store, files = packed
    rows = await commit(store, files[:4])
    hashes, _ = made(50)
    await store.embeddings.delete(hashes[:2])
    root = store.repository("clone").id
    for row in (rows[0], rows[2]):
        store.references.drop_soon(root, row.oid)
    assert await objects.forget_unwanted(store, grace=60) == 0, "too young"
    assert await objects.forget_unwanted(store, [Clone()], grace=0) == 0, "a clone needs it"
    assert await objects.forget_unwanted(store, grace=0) == 1
    assert [await store.exists(row.oid) for row in rows] == [False, True, True, True]


async def test_deleting_the_object_leaves_the_vector_alone(packed: tuple[Store, list[bytes]]) -> None:
    store, files = packed
    (row,) = await commit(store, files[:1])
    with pytest.raises(InUse):
        await store.delete(row.oid)
    await store.delete(row.oid, force=True)
    with pytest.raises(NotFound):
        await store.stat(row.oid)
    hashes, matrix = made(50)
    assert (await store.embeddings.read_embedding(hashes[0])).tobytes() == matrix[0].tobytes()


@pytest.mark.promise("12.3")
async def test_a_damaged_vector_is_never_served_as_an_object_and_never_stands_for_a_whole_file(
    packed: tuple[Store, list[bytes]],
) -> None:
    store, files = packed
    (row,) = await commit(store, files[:1])
    (pack,) = store.index.view(packs.every)
    file = store.layout.path / "objects" / pack.oid.path()
    file.chmod(0o644)
    damaged = bytearray(file.read_bytes())
    damaged[-50 * 64 :] = bytes(50 * 64)  # all of the vectors
    file.write_bytes(damaged)
    with pytest.raises(Corrupt):
        await content(store, row.oid)
    assert not await store.check(row.oid)
    other = await store.put(files[1], repository="clone")
    assert not isinstance(other, RenderedStat)
    assert await content(store, other.oid) == files[1]


@pytest.mark.promise("12.4")
async def test_the_loss_of_the_index_loses_no_object(tmp_path: Path) -> None:
    hashes, matrix = made(60)
    files = [codec.render(row) for row in matrix]
    async with open_store(tmp_path, create=True, durability="fast") as store:
        await store.add_repository("clone")
        await store.embeddings.write_embeddings_batch((hashes, matrix))
        await commit(store, files)
        await store.embeddings.delete(hashes[:10])
        await store.embeddings.vacuum()
    shutil.rmtree(tmp_path / "index")
    async with open_store(tmp_path, durability="fast") as store:
        for file in files:
            assert await content(store, Oid.of(file)) == file
        assert await store.embeddings.contains(hashes[10:]) == [True] * 50
        assert store.knows_all_objects


async def test_commits_beside_a_rewriting_of_the_packs_lose_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "DIRECT_BYTES", 1 << 10)
    await store.add_repository("clone")
    kept = []

    async def commits() -> None:
        for seed in range(12):
            hashes, matrix = made(20, seed)
            await store.embeddings.write_embeddings_batch((hashes, matrix))
            kept.extend(codec.render(row) for row in matrix[:10])
            await commit(store, kept[-10:])
            await store.embeddings.delete(hashes)

    async with trio.open_nursery() as nursery:

        async def vacuums() -> None:
            while True:
                await store.embeddings.vacuum()
                await trio.sleep(0.01)

        nursery.start_soon(vacuums)
        await commits()
        nursery.cancel_scope.cancel()
    await store.embeddings.vacuum()
    for file in kept:
        assert await content(store, Oid.of(file)) == file
