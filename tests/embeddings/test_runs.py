"""Large reads, which go from the pack's file to where they belong: nothing is handed out that was not verified."""

import os
from pathlib import Path

import numpy as np
import pytest

from lfsfs import Store
from lfsfs.embeddings import rows
from lfsfs.embeddings.part import Part
from lfsfs.errors import Corrupt
from lfsfs.store import packs
from lfsfs.store.index import Tx

from .conftest import made

COUNT, SIZE = 8_000, 384 * 4  # 12 MB, one pack


def pack_of(store: Store) -> Path:
    (pack,) = store.index.view(packs.every)
    return store.layout.path / "objects" / pack.oid[:2] / pack.oid[2:4] / pack.oid


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many vectors were read as a run, each time."""
    seen: list[int] = []
    find = Part.runs

    def noted(part: Part) -> list[tuple[int, int]] | None:
        found = find(part)
        seen.extend(last - first for first, last in found or ())
        return found

    monkeypatch.setattr(Part, "runs", noted)
    return seen


async def test_a_collection_is_read_in_one_run_and_a_part_of_it_too(store: Store, runs: list[int]) -> None:
    await store.embeddings.write_embeddings_batch(made(COUNT, dimensions=384))
    hashes, matrix = await store.embeddings.matrix()
    expected = dict(zip(*made(COUNT, dimensions=384), strict=True))
    assert np.array_equal(matrix, [expected[text] for text in hashes])
    some = hashes[100:-1000]
    assert np.array_equal((await store.embeddings.matrix(some))[1], matrix[100:-1000])
    assert runs == [COUNT, COUNT - 1100]


async def test_a_changed_byte_costs_one_vector_and_is_never_handed_out(store: Store, runs: list[int]) -> None:
    await store.embeddings.write_embeddings_batch(made(COUNT, dimensions=384))
    hashes, matrix = await store.embeddings.matrix()
    file = pack_of(store)
    file.chmod(0o600)
    at = file.stat().st_size - 1000 * SIZE - 5  # the 1001st from the end
    content = file.read_bytes()
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(Corrupt, match=hashes[-1001]):
        await store.embeddings.matrix()
    found = await store.embeddings.read_embeddings_batch(hashes)
    assert list(found.corrupt) == [hashes[-1001]] and not found.missing
    assert all(
        np.array_equal(found[text], matrix[number]) for number, text in enumerate(hashes) if text in found
    )
    assert len(runs) >= 3


async def test_a_file_cut_short_costs_what_was_behind(store: Store, runs: list[int]) -> None:
    await store.embeddings.write_embeddings_batch(made(COUNT, dimensions=384))
    hashes, matrix = await store.embeddings.matrix()
    file = pack_of(store)
    os.truncate(file, file.stat().st_size - 1000 * SIZE - 5)
    found = await store.embeddings.read_embeddings_batch(hashes)
    assert list(found.corrupt) == hashes[-1001:]
    assert np.array_equal([found[text] for text in hashes[:-1001]], matrix[:-1001])


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("shift", [3, SIZE, 5 * SIZE])
async def test_a_row_that_names_another_place_is_told_and_no_other_is_lost(
    store: Store, shift: int, scattered: bool
) -> None:
    await store.embeddings.write_embeddings_batch(made(COUNT, dimensions=384))
    hashes, matrix = await store.embeddings.matrix()

    def spoil(tx: Tx) -> None:
        collection = rows.need(tx, "default")
        row = rows.get(tx, collection, bytes.fromhex(hashes[5_000]))
        assert row is not None
        spoiled = row._replace(offset=row.offset + shift)
        tx.put("vectors", collection.prefix + bytes.fromhex(hashes[5_000]), spoiled.encode())

    await store.index.update(spoil)
    order = np.random.default_rng(0).permutation(COUNT) if scattered else np.arange(COUNT)
    found = await store.embeddings.read_embeddings_batch([hashes[at] for at in order])
    assert hashes[5_000] in found.corrupt and len(found.corrupt) == 1 and not found.missing
    assert all(
        np.array_equal(vector, matrix[hashes.index(text)]) for text, vector in list(found.items())[::50]
    )
    assert all(
        np.array_equal(found[hashes[at]], matrix[at]) for at in range(4_900, 5_100) if hashes[at] in found
    )


async def test_what_changes_is_seen_in_the_next_matrix(store: Store) -> None:
    await store.embeddings.write_embeddings_batch(made(COUNT, dimensions=384))
    hashes, matrix = await store.embeddings.matrix()
    hashes.reverse()  # the caller's own
    again, _ = await store.embeddings.matrix()
    assert again == hashes[::-1]
    await store.embeddings.delete(again[: COUNT // 2])
    await store.embeddings.vacuum()
    left, found = await store.embeddings.matrix()
    assert left == again[COUNT // 2 :] and np.array_equal(found, matrix[COUNT // 2 :])
    await store.embeddings.write_embedding(left[3], np.ones(384, np.float32), replace=True)
    assert ((await store.embeddings.matrix())[1][3] == 1).all()
