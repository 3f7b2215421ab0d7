"""A process that works on the embeddings of a store until a fault kills it; says on its standard output what it did.

`run(SCENARIO, STORE)`: one of the functions before it. It is run with LFSFS_FAULT=kill:N (lfsfs/durable.py).
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import trio

from lfsfs import Store, open_store
from lfsfs.embeddings import rewriting, writing

COUNT = 300


def batch(seed: int) -> tuple[list[str], np.ndarray[Any, Any]]:
    matrix = np.random.default_rng(seed).standard_normal((COUNT, 16)).astype("<f4")
    return [hashlib.sha256(b"%d" % number).hexdigest() for number in range(COUNT)], matrix


@contextmanager
def small_packs() -> Iterator[None]:
    """Many packs of few vectors, so that there are many steps to be killed at."""
    before = writing.DIRECT_BYTES, writing.PACK_BYTES, rewriting.PACK_BYTES
    writing.DIRECT_BYTES = 4 << 10
    writing.PACK_BYTES = rewriting.PACK_BYTES = 8 << 10
    try:
        yield
    finally:
        writing.DIRECT_BYTES, writing.PACK_BYTES, rewriting.PACK_BYTES = before


async def prepared(path: Path) -> None:
    """A store with the first batch in packs, and a vector beside them in the index."""
    async with open_store(path, create=True) as store:
        await store.embeddings.write_embeddings_batch(batch(1))
        await store.embeddings.collection("other").write_embedding(batch(1)[0][0], np.ones(3))


async def write(store: Store) -> None:
    await store.embeddings.collection("new").write_embeddings_batch(batch(2))


async def replace(store: Store) -> None:
    await store.embeddings.write_embeddings_batch(batch(2), replace=True)


async def small(store: Store) -> None:
    hashes, matrix = batch(2)
    await store.embeddings.collection("new").write_embeddings_batch((hashes[:20], matrix[:20]))


async def vacuum(store: Store) -> None:
    await store.embeddings.delete(batch(1)[0][100:])
    print("deleted", flush=True)
    await store.embeddings.vacuum()


SCENARIOS: dict[str, Callable[[Store], Awaitable[None]]] = {
    scenario.__name__: scenario for scenario in (write, replace, small, vacuum)
}


async def main(scenario: str, path: Path) -> None:
    async with open_store(path) as store:
        await SCENARIOS[scenario](store)
        print("done", flush=True)


def run(scenario: str, store: str) -> None:
    with small_packs():
        trio.run(main, scenario, Path(store))
