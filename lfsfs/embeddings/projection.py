"""Projection: a collection on a plane, in the two directions in which a sample of its vectors differs most (PCA)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import trio

from lfsfs.embeddings.collection import Collection
from lfsfs.embeddings.forms import Array
from lfsfs.errors import InvalidEmbedding

SAMPLE = 2_000
"""Vectors at most."""
SAMPLE_BYTES = 64 << 20
"""Of those vectors together, at most."""
PLACES = 100
"""Where in a large collection the sample is taken from."""
HASH_BITS = 256
ROUNDS, SPARE = 8, 8
"""Of the subspace iteration: how often, and with how many directions more than the two (Halko et al. 2011, 4.4)."""


@dataclass(frozen=True, slots=True)
class Projection:
    """`points`: a row (x, y) for each of `hashes`, in units of the vectors, about their mean.

    `form`: dtype and shape of those; `share`: how much of the variance x and y show, each of 0 to 1. `count`: vectors
    that the collection has; `others`: of the sample, those that are not on the plane: of another form, not numbers, or
    not to be read.
    """

    hashes: list[str]
    points: Array
    form: str
    share: tuple[float, float]
    count: int
    others: int


async def project(collection: Collection, limiter: trio.CapacityLimiter) -> Projection:
    """Reads a sample, and lays it on the plane in a thread of `limiter`. InvalidEmbedding where it has no numbers."""
    count = collection.count()
    hashes = sampled(collection, count)
    found = await collection.read_embeddings_batch(hashes)
    vectors = {text: found[text] for text in hashes if text in found}
    forms: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for text, vector in vectors.items():
        if vector.dtype.kind in "biuf" and vector.size:
            forms.setdefault((str(vector.dtype), vector.shape), []).append(text)
    if not forms:
        raise InvalidEmbedding(f"{collection.name} has no vectors of numbers")
    (dtype, shape), chosen = max(forms.items(), key=lambda form: len(form[1]))
    matrix = np.stack([vectors[text].reshape(-1) for text in chosen])
    sound, points, share = await trio.to_thread.run_sync(plane, matrix, limiter=limiter)
    kept = [text for text, is_sound in zip(chosen, sound, strict=True) if is_sound]
    return Projection(kept, points, f"{dtype} {shape}", share, count, len(hashes) - len(kept))


def sampled(collection: Collection, count: int) -> list[str]:
    """Content hashes: all of a small collection, else from many places of it. Hashes are spread evenly by themselves."""
    first = collection.page(None, 1)
    most = min(SAMPLE, max(1, SAMPLE_BYTES // max(1, first[0].form.nbytes))) if first else 0
    if count <= most:
        return [stat.content_hash for stat in collection.page(None, most)] if most else []
    at_once = max(1, most // PLACES)
    found: dict[str, None] = {}
    for place in range(min(PLACES, most)):
        after = f"{(place << HASH_BITS) // PLACES:064x}"
        found.update(dict.fromkeys(stat.content_hash for stat in collection.page(after, at_once)))
    return list(found)


def plane(matrix: Array) -> tuple[Array, Array, tuple[float, float]]:
    """Which rows are finite numbers; their points; the shares of the variance. The same rows give the same points."""
    rows = matrix.astype(np.float64)
    sound: Array = np.asarray(np.isfinite(rows).all(axis=1))
    rows = rows[sound]
    largest = float(np.abs(rows).max(initial=0.0)) or 1.0
    rows = rows / largest
    rows -= rows.mean(axis=0) if len(rows) else 0.0
    total = float(np.square(rows).sum())
    if not total:
        return sound, np.zeros((len(rows), 2)), (0.0, 0.0)
    start = np.random.default_rng(0).standard_normal((rows.shape[1], min(2 + SPARE, *rows.shape)))
    basis: np.ndarray[Any, Any] = np.linalg.qr(start)[0]
    for _ in range(ROUNDS):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    left, strengths, _ = np.linalg.svd(rows @ basis, full_matrices=False)
    axes = left[:, :2] * strengths[:2]
    points = np.zeros((len(rows), 2))
    points[:, : axes.shape[1]] = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    shares = [float(strength) ** 2 / total for strength in strengths[:2]] + [0.0]
    return sound, points * largest, (shares[0], shares[1])
