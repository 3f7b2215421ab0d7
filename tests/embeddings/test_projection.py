"""A collection on a plane: what is alike lies together, whatever else is in it."""

from pathlib import Path

import numpy as np
import pytest
import trio

from lfsfs.embeddings.collection import Collection
from lfsfs.embeddings.projection import SAMPLE, plane, project
from lfsfs.errors import InvalidEmbedding
from lfsfs.store.opening import open_store


def clusters(count: int = 60, width: int = 48) -> np.ndarray:  # type: ignore[type-arg]
    """Three heaps, far from each other; the row's number modulo 3 is the heap's."""
    random = np.random.default_rng(5)
    middles = 20 * random.standard_normal((3, width))
    return np.asarray([middles[row % 3] + random.standard_normal(width) for row in range(count)], np.float32)


def test_heaps_stay_heaps_and_the_same_rows_give_the_same_points() -> None:
    matrix = clusters()
    sound, points, share = plane(matrix)
    assert sound.all()
    assert 0.9 < sum(share) <= 1.0 + 1e-9 and share[0] >= share[1]
    heaps = [points[heap::3] for heap in range(3)]
    spread = max(float(np.linalg.norm(heap - heap.mean(axis=0), axis=1).max()) for heap in heaps)
    apart = min(
        float(np.linalg.norm(heaps[a].mean(axis=0) - heaps[b].mean(axis=0)))
        for a, b in ((0, 1), (0, 2), (1, 2))
    )
    assert apart > 3 * spread
    assert np.array_equal(points, plane(matrix)[1])


def test_it_is_the_plane_that_a_full_decomposition_finds() -> None:
    matrix = clusters(200, 30)
    centred = matrix.astype(float) - matrix.astype(float).mean(axis=0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(
        np.abs(plane(matrix)[1]), np.abs(left[:, :2] * strengths[:2]), atol=1e-6 * strengths[0]
    )


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((1, 4)), np.ones((5, 3)), np.arange(6.0).reshape(6, 1), np.full((3, 2), 1e300), np.zeros((0, 4)),
        np.asarray([[1e38, -1e38], [0, 0], [1, 1]], np.float32), np.asarray([[-128, 127], [0, 0]], np.int8),
    ],
    ids=["one", "equal", "one number", "huge", "none", "nearly infinite", "int8"],
)  # fmt: skip
def test_what_has_no_plane_has_points_all_the_same(matrix: np.ndarray) -> None:  # type: ignore[type-arg]
    sound, points, _ = plane(matrix)
    assert points.shape == (len(matrix), 2) and sound.all()
    assert np.isfinite(points).all()


def test_what_is_no_number_is_left_out() -> None:
    matrix = clusters(9)
    matrix[4, 0], matrix[5, 1] = np.nan, np.inf
    sound, points, _ = plane(matrix)
    assert sound.tolist() == [True] * 4 + [False] * 2 + [True] * 3
    assert len(points) == 7


async def test_a_large_collection_is_sampled_and_other_forms_are_counted(tmp_path: Path) -> None:
    limiter = trio.CapacityLimiter(1)
    async with open_store(tmp_path / "store", create=True) as store:
        empty = store.embeddings.collection("empty")
        with pytest.raises(InvalidEmbedding, match="no vectors of numbers"):
            await project(empty, limiter)
        small = await _filled(store.embeddings.collection("small"), 30)
        await small.write_embedding("e" * 64, np.zeros(7, np.float32))
        found = await project(small, limiter)
        assert (len(found.hashes), found.others, found.count) == (30, 1, 31)
        assert found.form == "float32 (8,)"
        large = await _filled(store.embeddings.collection("large"), 3 * SAMPLE)
        found = await project(large, limiter)
        assert found.count == 3 * SAMPLE
        assert 0.8 * SAMPLE <= len(found.hashes) <= SAMPLE
        assert len({text[0] for text in found.hashes}) == 16, "from everywhere"


async def _filled(collection: Collection, count: int) -> Collection:
    random = np.random.default_rng(1)
    hashes = [random.bytes(32).hex() for _ in range(count)]
    await collection.write_embeddings_batch((hashes, clusters(count, 8)))
    return collection
