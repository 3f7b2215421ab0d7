"""Searching: the vectors of a collection that are most like one, exactly: all of them are compared, block by block."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import trio

from lfsfs import steps
from lfsfs.embeddings.collection import Collection
from lfsfs.embeddings.forms import Array
from lfsfs.errors import InvalidEmbedding

Measure = Literal["cosine", "dot"]


@dataclass(frozen=True, slots=True)
class Similar:
    """A vector, and how like the wanted one it is: the larger the more."""

    content_hash: str
    score: float


async def search(
    collection: Collection, like: Array, count: int, *, measure: Measure = "cosine"
) -> list[Similar]:
    """The `count` vectors that are most like `like`, the most alike first. Zeros, and what has a NaN, are like none.

    InvalidEmbedding where the collection's are of another shape, or no real numbers.
    """
    wanted = _numbers(like).reshape(-1)
    if measure == "cosine":
        wanted = _unit(wanted[None])[0]
    best: list[Similar] = []
    steps.begin("comparing", collection.count(), "vectors")
    async for hashes, block in collection.blocks():
        if block.shape[1:] != like.shape:
            raise InvalidEmbedding(
                f"{collection.name} has vectors of shape {block.shape[1:]}, not {like.shape}"
            )
        best += await trio.to_thread.run_sync(_best_of, hashes, block, wanted, count, measure)
        steps.add(len(block))
        best = sorted(best, key=lambda found: (-found.score, found.content_hash))[:count]
    return best


def _best_of(hashes: list[str], block: Array, wanted: Array, count: int, measure: Measure) -> list[Similar]:
    rows = _numbers(block).reshape(len(block), -1)
    scores = (_unit(rows) if measure == "cosine" else rows) @ wanted
    scores = np.where(np.isnan(scores), -np.inf, scores)
    chosen: np.ndarray[Any, Any] = np.argpartition(-scores, min(count, len(scores)) - 1)[:count]
    return [Similar(hashes[at], float(scores[at])) for at in chosen.tolist() if scores[at] > -np.inf]


def _numbers(array: Array) -> Array:
    if array.dtype.kind not in "biuf":
        raise InvalidEmbedding(f"vectors of dtype {array.dtype} cannot be compared")
    return array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32, copy=False)


def _unit(rows: Array) -> Array:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(rows / lengths)
