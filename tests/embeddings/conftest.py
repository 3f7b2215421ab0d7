"""What the tests of embeddings share."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfsfs import Store, open_store
from lfsfs.embeddings import rewriting, writing

Batch = tuple[list[str], np.ndarray[Any, Any]]


def hash_of(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def made(count: int, seed: int = 0, dimensions: int = 16) -> Batch:
    """Content hashes and vectors."""
    matrix = np.random.default_rng(seed).standard_normal((count, dimensions)).astype("<f4")
    return [hash_of((seed, number)) for number in range(count)], matrix


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "store", create=True, durability="fast") as store:
        yield store


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 4 KiB goes into packs, of 8 KiB each."""
    monkeypatch.setattr(writing, "DIRECT_BYTES", 4 << 10)
    monkeypatch.setattr(writing, "PACK_BYTES", 8 << 10)
    monkeypatch.setattr(rewriting, "PACK_BYTES", 8 << 10)
