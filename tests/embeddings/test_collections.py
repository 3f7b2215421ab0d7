"""The API: what is written is read back to the last bit, a batch whole or not at all, nothing swallowed."""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from lfsfs import Store, open_store
from lfsfs.embeddings import codec, rows
from lfsfs.embeddings.forms import form_of
from lfsfs.errors import Corrupt, Exists, InUse, InvalidEmbedding, InvalidName, InvalidOid, NotFound
from lfsfs.oid import Oid
from lfsfs.store import packs

from .conftest import hash_of, made

pytestmark = pytest.mark.usefixtures("small_packs")
Matrix = np.ndarray[Any, Any]


async def holds(store: Store, hashes: list[str], matrix: Matrix, name: str = "default") -> bool:
    collection = store.embeddings.collection(name)
    found = await collection.read_embeddings_batch(hashes)
    assert not found.missing and not found.corrupt
    assert all(found[text].tobytes() == row.tobytes() for text, row in zip(hashes, matrix, strict=True))
    assert all(found[text].dtype == matrix.dtype for text in hashes)
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    listed, all_of_it = await collection.matrix()
    assert listed == [hashes[at] for at in order] == [text async for text in collection.iter()]
    assert all_of_it.tobytes() == matrix[order].tobytes()
    assert collection.count() == len(hashes)
    return True


def pack_oids(store: Store) -> list[Oid]:
    return [pack.oid for pack in store.index.view(packs.every)]


@pytest.mark.parametrize("count", [1, 40, 1000], ids=["one", "loose", "packed"])
async def test_what_is_written_is_read_back_by_hash_by_path_and_as_a_matrix(
    store: Store, tmp_path: Path, count: int
) -> None:
    hashes, matrix = made(count)
    paths = await store.embeddings.write_embeddings_batch((hashes, matrix))
    assert paths == [f"embeddings/default/{text}.npz" for text in hashes]
    assert await holds(store, hashes, matrix)
    assert (await store.embeddings.read_embedding(paths[0])).tobytes() == matrix[0].tobytes()
    chosen = hashes[::-1][:10]
    listed, some = await store.embeddings.matrix(chosen)
    assert listed == chosen
    assert some.tobytes() == matrix[::-1][:10].tobytes()
    assert len(pack_oids(store)) == (0 if count < 100 else 8)
    stats = await store.embeddings.stats()
    assert (stats.count, stats.raw, stats.stored, stats.saved) == (count, matrix.nbytes, matrix.nbytes, 0)
    assert stats.forms == {("float32", (16,)): count}
    assert stats.mean is not None
    np.testing.assert_allclose(stats.mean, matrix.mean(axis=0), atol=1e-6)


async def test_they_are_there_after_the_store_is_closed(tmp_path: Path) -> None:
    one, two = made(1000, 1), made(50, 2)
    async with open_store(tmp_path, create=True) as store:
        for batch in (one, two):
            await store.embeddings.write_embeddings_batch(batch)
    async with open_store(tmp_path, read_only=True) as store:
        assert await holds(store, one[0] + two[0], np.concatenate([one[1], two[1]]))


@pytest.mark.parametrize("dtype", ["?", "i1", "<u2", ">i4", "<f2", ">f8", "<c8", "S3", "<U2", "<M8[s]", "V5"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)], ids=str)
async def test_any_dtype_and_shape_comes_back(store: Store, dtype: str, shape: tuple[int, ...]) -> None:
    vector = np.zeros(shape, dtype)
    await store.embeddings.write_embedding(hash_of(1), vector)
    await store.embeddings.pack()
    found = await store.embeddings.read_embedding(hash_of(1))
    assert (found.dtype, found.shape, found.tobytes()) == (vector.dtype, vector.shape, vector.tobytes())


async def test_vectors_of_many_forms_lie_in_one_collection(store: Store) -> None:
    vectors: dict[str, Any] = {
        hash_of(number): np.arange(number, dtype=dtype)
        for number, dtype in enumerate(["f4", ">f4", "i8", "f4"] * 50)
    }
    vectors[hash_of("0-d")] = np.float16(2.5)
    vectors[hash_of("list")] = [1.0, 2.0]
    for _ in range(2):
        await store.embeddings.write_embeddings_batch(vectors)
        found = await store.embeddings.read_embeddings_batch(vectors)
        for text, vector in vectors.items():
            assert found[text].tobytes() == np.asarray(vector).tobytes()
            assert (found[text].dtype, found[text].shape) == (np.asarray(vector).dtype, np.shape(vector))
        await store.embeddings.pack()
    with pytest.raises(InvalidEmbedding, match="no matrix"):
        await store.embeddings.matrix()


async def test_an_identical_write_changes_nothing_and_a_different_one_is_refused(store: Store) -> None:
    hashes, matrix = made(300)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    generation, before = store.embeddings.generation(), pack_oids(store)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    assert (store.embeddings.generation(), pack_oids(store)) == (generation, before)
    for changed in (matrix + 1, matrix.astype("f8"), matrix.reshape(-1, 4, 4), matrix.astype(">f4")):
        with pytest.raises(Exists, match="299 more"):
            await store.embeddings.write_embeddings_batch((hashes, changed))
    assert await holds(store, hashes, matrix)
    await store.embeddings.write_embeddings_batch((hashes, matrix + 1), replace=True)
    assert store.embeddings.generation() > generation
    assert await holds(store, hashes, matrix + 1)


async def test_a_batch_with_one_bad_vector_stores_none(store: Store) -> None:
    good = {hash_of(number): np.ones(4) for number in range(5)}
    for bad, error in [
        ({**good, hash_of("bad"): np.array([None])}, InvalidEmbedding), ({**good, "xyz": np.ones(4)}, InvalidOid),
        ({**good, hash_of("bad").upper(): np.ones(4)}, InvalidOid), ({**good, "ab" * 65: np.ones(4)}, InvalidOid),
        (([*good, "00" * 32], np.ones((5, 4))), InvalidEmbedding),
        (([hash_of(1), hash_of(1)], np.arange(2.0)), InvalidEmbedding),
        (([hash_of(1)], 3.0), InvalidEmbedding),
    ]:  # fmt: skip
        with pytest.raises(error):
            await store.embeddings.write_embeddings_batch(bad)  # type: ignore[arg-type]
    assert store.embeddings.count() == 0
    assert not store.embeddings.exists()


async def test_equal_vectors_are_stored_once(store: Store) -> None:
    row = np.arange(64, dtype="f4")
    hashes = [hash_of(number) for number in range(400)]
    await store.embeddings.write_embeddings_batch((hashes, np.tile(row, (400, 1))))
    await store.embeddings.collection("other").write_embedding(hashes[0], row)
    for _ in range(2):
        stats = await store.embeddings.stats()
        assert (stats.raw, stats.stored, stats.saved) == (400 * 256, 256, 399 * 256)
        assert await holds(store, hashes, np.tile(row, (400, 1)))
        assert await holds(store, hashes[:1], row[None], "other")
        await store.embeddings.vacuum()


async def test_what_is_missing_is_told(store: Store) -> None:
    hashes, matrix = made(5)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    found = await store.embeddings.read_embeddings_batch([*hashes, hash_of("absent")])
    assert (len(found), found.missing, found.corrupt) == (5, [hash_of("absent")], {})
    with pytest.raises(NotFound):
        found[hash_of("absent")]
    with pytest.raises(NotFound):
        await store.embeddings.read_embedding(hash_of("absent"))
    with pytest.raises(NotFound):
        await store.embeddings.matrix([hash_of("absent")])
    assert await store.embeddings.contains([hashes[0], hash_of("absent")]) == [True, False]
    assert await store.embeddings.contains(hashes[0]) is True
    assert (await store.embeddings.collection("none").matrix())[0] == []
    assert (await store.embeddings.collection("none").stats()).count == 0


async def test_deleting_and_orphans(store: Store) -> None:
    hashes, matrix = made(300)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    assert await store.embeddings.delete([hashes[0], hash_of("absent")]) == 1
    assert await store.embeddings.delete(hashes[0]) == 0
    assert sorted(await store.embeddings.cleanup_orphans(hashes[10:])) == sorted(hashes[1:10])
    assert store.embeddings.count() == 299
    await store.embeddings.cleanup_orphans(hashes[10:], dry_run=False)
    assert await holds(store, hashes[10:], matrix[10:])
    assert await store.embeddings.remove("default") == 290
    assert store.embeddings.collections() == []
    with pytest.raises(NotFound):
        await store.embeddings.remove("default")


async def test_collections_do_not_know_of_one_another(store: Store) -> None:
    (hashes, matrix), other = made(40, 1), made(40, 2)[1]
    await store.embeddings.collection("b").write_embeddings_batch((hashes, matrix))
    await store.embeddings.collection("a").write_embeddings_batch((hashes, other))
    assert store.embeddings.collections() == ["a", "b"]
    assert await holds(store, hashes, matrix, "b")
    assert await holds(store, hashes, other, "a")
    for name in ("", ".a", "_matrix", "a/b", "a\nb", "x" * 256):
        with pytest.raises(InvalidName):
            store.embeddings.collection(name)


async def test_a_vector_shown_as_a_file_has_the_size_and_bytes_that_were_announced(store: Store) -> None:
    hashes, matrix = made(30)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    pages = [store.embeddings.page(limit=20), store.embeddings.page(sorted(hashes)[19], limit=20)]
    assert [[stat.content_hash for stat in page] for page in pages] == [
        sorted(hashes)[:20],
        sorted(hashes)[20:],
    ]
    for stat in pages[0]:
        file = await store.embeddings.render(stat.content_hash)
        assert len(file) == stat.npz_size
        assert stat == store.embeddings.stat(stat.content_hash)
        assert stat.form == form_of(matrix.dtype, (16,))
    assert store.embeddings.stat(hash_of("absent")) is store.embeddings.stat("no hash") is None
    vector = np.arange(6.0).reshape(2, 3)
    await store.embeddings.write_npz(hash_of("npz"), io.BytesIO(codec.render(vector)))
    assert (await store.embeddings.read_embedding(hash_of("npz")) == vector).all()
    with pytest.raises(InvalidEmbedding):
        await store.embeddings.write_npz(hash_of("bad"), io.BytesIO(b"PK"))


async def test_content_hashes_may_have_any_usual_length(store: Store) -> None:
    vectors = {"ab" * size: np.full(3, size) for size in (4, 8, 16, 20, 32, 48, 64)}
    await store.embeddings.write_embeddings_batch(vectors)
    await store.embeddings.pack()
    assert [text async for text in store.embeddings.iter()] == sorted(vectors)
    assert {
        text: int(vector[0])
        for text, vector in (await store.embeddings.read_embeddings_batch(vectors)).items()
    } == {"ab" * size: size for size in (4, 8, 16, 20, 32, 48, 64)}


async def test_compressed_packs_are_smaller_and_give_the_same_bits(store: Store) -> None:
    hashes, matrix = made(500, dimensions=64)
    matrix = matrix.astype("f2").astype("f4")  # as if computed at half precision
    await store.embeddings.create("small", "zstd")
    await store.embeddings.collection("small").write_embeddings_batch((hashes, matrix))
    await store.embeddings.collection("small").write_embedding(hash_of("zeros"), np.zeros(1000))
    await store.embeddings.pack()
    assert await holds_among(store, "small", hashes, matrix)
    assert not (await store.embeddings.collection("small").read_embedding(hash_of("zeros"))).any()
    stats = await store.embeddings.collection("small").stats()
    assert stats.stored < 0.95 * matrix.nbytes
    with pytest.raises(InvalidEmbedding):
        await store.embeddings.collection("small").matrix()


async def holds_among(store: Store, name: str, hashes: list[str], matrix: Matrix) -> bool:
    found = await store.embeddings.collection(name).read_embeddings_batch(hashes)
    return [found[text].tobytes() for text in hashes] == [row.tobytes() for row in matrix]


# Packs.


async def test_what_is_written_singly_is_packed_when_asked_and_stays_what_it_is(store: Store) -> None:
    hashes, matrix = made(30)
    for text, row in zip(hashes, matrix, strict=True):
        await store.embeddings.write_embedding(text, row)
    assert pack_oids(store) == []
    done = await store.embeddings.pack()
    assert (done.written, done.vectors) == (1, 30)
    assert (await store.embeddings.stats()).loose == store.index.view(rows.loose_bytes) == 0
    assert await holds(store, hashes, matrix)
    assert (await store.embeddings.pack()).written == 0


async def test_packs_are_objects_that_are_kept_alive(store: Store) -> None:
    await store.embeddings.write_embeddings_batch(made(300))
    for oid in pack_oids(store):
        assert await store.check(oid)
        assert await store.why(oid) == ["embeddings: it is a pack of vectors"]
        assert (await store.stat(oid)).content_type == packs.CONTENT_TYPE
        with pytest.raises(InUse):
            await store.delete(oid)


async def test_vacuum_gives_back_what_was_deleted_and_replaced(store: Store) -> None:
    hashes, matrix = made(1000)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    await store.embeddings.delete(hashes[100:])
    await store.embeddings.write_embeddings_batch((hashes[:50], matrix[:50] * 2), replace=True)
    expected = np.concatenate([matrix[:50] * 2, matrix[50:100]])
    before = (await store.usage()).bytes
    assert before > matrix.nbytes
    await store.embeddings.vacuum()
    assert await holds(store, hashes[:100], expected)
    assert (await store.usage()).bytes < before / 5
    assert {row.oid for row in store.index.view(packs.every)} == set(pack_oids(store))
    on_disk = {path.name for path in (store.layout.path / "objects").rglob("*") if path.is_file()}
    assert on_disk == set(pack_oids(store))


async def test_many_small_packs_become_one(store: Store) -> None:
    hashes, matrix = made(40)
    for at in range(0, 40, 4):
        await store.embeddings.write_embeddings_batch((hashes[at : at + 4], matrix[at : at + 4]))
        await store.embeddings.pack()
    assert len(pack_oids(store)) < 8
    assert await holds(store, hashes, matrix)


async def test_reading_goes_on_while_packs_are_rewritten(store: Store) -> None:
    hashes, matrix = made(1000)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    stop = False

    async def rewrite() -> None:
        nonlocal stop
        for at in range(300, 1000, 100):
            await store.embeddings.delete(hashes[at : at + 100])
            await store.embeddings.vacuum()
        stop = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rewrite)
        while not stop:
            assert await holds_among(store, "default", hashes[:300], matrix[:300])
            await store.embeddings.matrix(hashes[:300])
    assert await holds(store, hashes[:300], matrix[:300])


async def test_writers_of_the_same_and_of_other_vectors_do_not_disturb_one_another(store: Store) -> None:
    hashes, matrix = made(600)

    async def write(start: int, size: int) -> None:
        for at in range(start, 600, size):
            await store.embeddings.write_embeddings_batch((hashes[at : at + size], matrix[at : at + size]))

    async with trio.open_nursery() as nursery:
        for start, size in [(0, 200), (0, 7), (300, 300), (50, 90)]:
            nursery.start_soon(write, start, size)
        nursery.start_soon(store.embeddings.pack)
    await store.embeddings.vacuum()
    assert await holds(store, hashes, matrix)


# Loss and damage.


async def lose_index(path: Path) -> None:
    await trio.to_thread.run_sync(shutil.rmtree, path / "index")


async def test_rows_are_made_again_from_the_packs_alone(tmp_path: Path) -> None:
    hashes, matrix = made(1000)
    shape = np.arange(6, dtype=">i2").reshape(2, 3)
    async with open_store(tmp_path, create=True) as store:
        await store.embeddings.create("other", "zstd")
        await store.embeddings.write_embeddings_batch((hashes, matrix))
        await store.embeddings.collection("other").write_embedding(hashes[0], shape)
        await store.embeddings.collection("other").write_embedding(
            hashes[1], matrix[1]
        )  # lies in a pack already
        await store.embeddings.write_embeddings_batch((hashes[:10], matrix[:10] + 1), replace=True)
        await store.embeddings.delete(hashes[900:])
        await store.embeddings.write_embeddings_batch((hashes[950:], matrix[950:] - 1))
        await store.embeddings.pack()
        before = store.embeddings.page(limit=2000)
    expected = np.concatenate([matrix[:10] + 1, matrix[10:900], matrix[950:] - 1])
    for _ in range(2):
        await lose_index(tmp_path)
        async with open_store(tmp_path) as store:
            assert await holds(store, hashes[:900] + hashes[950:], expected)
            assert [(s.content_hash, s.form, s.created) for s in store.embeddings.page(limit=2000)] == [
                (s.content_hash, s.form, s.created) for s in before
            ]
            assert (
                await store.embeddings.collection("other").read_embedding(hashes[0])
            ).tobytes() == shape.tobytes()
            assert await holds_among(store, "other", hashes[1:2], matrix[1:2])
            assert await store.why(pack_oids(store)[0])
            await store.embeddings.vacuum()
            assert await holds(store, hashes[:900] + hashes[950:], expected)


async def test_a_damaged_vector_is_named_and_no_other_is_lost(store: Store) -> None:
    hashes, matrix = made(400)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    stat = store.embeddings.stat(hashes[7])
    assert stat is not None
    damage(store, stat.row.pack, stat.row.offset)
    for chosen in (hashes, hashes[5:9]):
        found = await store.embeddings.read_embeddings_batch(chosen)
        assert list(found.corrupt) == [hashes[7]]
        assert len(found) == len(chosen) - 1
        assert "damaged" in str(found.corrupt[hashes[7]])
        with pytest.raises(Corrupt, match=hashes[7]):
            found[hashes[7]]
    with pytest.raises(Corrupt, match=hashes[7]):
        await store.embeddings.matrix()
    await store.embeddings.write_embedding(hashes[7], matrix[7])
    assert await holds(store, hashes, matrix), "writing it again mends it"


def damage(store: Store, number: int, offset: int) -> None:
    pack = store.index.view(lambda tx: packs.get(tx, number))
    assert pack is not None
    path = store.layout.objects / pack.oid[:2] / pack.oid[2:4] / pack.oid
    path.chmod(0o644)
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 255]), offset)


async def test_a_pack_that_is_gone_costs_its_own_vectors_only(store: Store) -> None:
    hashes, matrix = made(1000)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    oid = pack_oids(store)[0]
    (store.layout.objects / oid[:2] / oid[2:4] / oid).unlink()
    found = await store.embeddings.read_embeddings_batch(hashes)
    assert 0 < len(found.corrupt) < 200
    assert len(found) + len(found.corrupt) == 1000
    assert oid in str(next(iter(found.corrupt.values())))


async def test_a_damaged_pack_is_left_out_of_a_rebuild_and_the_others_are_taken_in(tmp_path: Path) -> None:
    hashes, matrix = made(1000)
    async with open_store(tmp_path, create=True) as store:
        await store.embeddings.write_embeddings_batch((hashes, matrix))
        damage(store, 1, 200)  # its directory
        lost = [s.content_hash for s in store.embeddings.page(limit=1000) if s.row.pack == 1]
    await lose_index(tmp_path)
    async with open_store(tmp_path) as store:
        found = await store.embeddings.read_embeddings_batch(hashes)
        assert found.missing == [text for text in hashes if text in set(lost)]
        assert 0 < len(lost) < 200


async def test_a_damaged_row_is_named_and_no_other_is_lost(store: Store) -> None:
    hashes, matrix = made(400)
    await store.embeddings.write_embeddings_batch((hashes, matrix))

    def spoil(tx: Any) -> None:
        collection = rows.need(tx, "default")
        row = rows.get(tx, collection, bytes.fromhex(hashes[3]))
        assert row is not None
        tx.put("vectors", collection.prefix + bytes.fromhex(hashes[3]), row._replace(offset=3).encode())
        row = rows.get(tx, collection, bytes.fromhex(hashes[4]))
        assert row is not None
        tx.put("vectors", collection.prefix + bytes.fromhex(hashes[4]), row._replace(pack=99).encode())

    await store.index.update(spoil)
    found = await store.embeddings.read_embeddings_batch(hashes)
    assert sorted(found.corrupt) == sorted(hashes[3:5])
    assert len(found) == 398
