"""A disk that fills while a batch is written: none of it is stored, nothing else is lost, and it goes on afterwards."""

from pathlib import Path

import numpy as np
import pytest
from test_full_disk import DISK_BYTES, small_disk

from lfsfs import open_store
from lfsfs.errors import NoSpace

from .conftest import hash_of, made

__all__ = ["small_disk"]
pytestmark = pytest.mark.mount


async def test_a_batch_that_does_not_fit_stores_nothing(small_disk: Path) -> None:
    hashes, matrix = made(100)
    async with open_store(small_disk / "store", create=True) as store:
        await store.embeddings.write_embeddings_batch((hashes, matrix))
        await store.embeddings.pack()
        before = await store.usage()
        huge = np.random.default_rng(0).random((200, DISK_BYTES // 500), "f4")  # 107 MB
        with pytest.raises(NoSpace):
            await store.embeddings.write_embeddings_batch(([hash_of(n) for n in range(200)], huge))
        assert await store.usage() == before
        assert store.embeddings.count() == 100
        assert (await store.embeddings.matrix(hashes))[1].tobytes() == matrix.tobytes()
        await store.embeddings.write_embedding(hash_of("after"), np.ones(1_000_000))
        assert (await store.embeddings.read_embedding(hash_of("after"))).all()
