"""Rows that are read from the pages of the index's file are those that LMDB's own cursor has, or none at all."""

import random
from pathlib import Path

import numpy as np
import pytest

from lfsfs import open_store
from lfsfs.embeddings import leaves
from lfsfs.store.index import Index, Tx

TABLE = "vectors"
Rows = list[tuple[bytes, bytes]]


def by_cursor(tx: Tx, prefix: bytes) -> Rows:
    return [(key[len(prefix) :], value) for key, value in tx.scan(TABLE, prefix=prefix)]


def by_pages(tx: Tx, prefix: bytes, key_size: int = 24, value_size: int = 32) -> Rows:
    tree = tx.tree(TABLE)
    assert tree is not None
    keys, values = leaves.columns(tree, prefix, key_size, value_size)
    return [(key.tobytes(), value.tobytes()) for key, value in zip(keys, values, strict=True)]


async def changed(index: Index, put: Rows, gone: list[bytes]) -> None:
    def change(tx: Tx) -> None:
        for key, value in put:
            tx.put(TABLE, key, value)
        for key in gone:
            tx.delete(TABLE, key)

    await index.update(change)


def rows(random: random.Random, prefix: bytes, count: int) -> Rows:
    return [(prefix + random.randbytes(20), random.randbytes(32)) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 40, 60, 5_000, 30_000])
async def test_rows_of_one_size(tmp_path: Path, count: int) -> None:
    """Whatever lies beside them, and in whatever order they came and went."""
    chance, index = random.Random(count), Index(tmp_path / "index")
    prefixes = [b"\0\0\0\1", b"\0\0\0\2", b"\0\0\1\0", b"\xff\xff\xff\xff"]
    others = [
        (b"\0\0\0\0" + chance.randbytes(chance.randrange(2, 60)), chance.randbytes(9)) for _ in range(99)
    ]
    put = [row for prefix in prefixes for row in rows(chance, prefix, count)] + others
    chance.shuffle(put)
    await changed(index, put, [])
    await changed(index, rows(chance, prefixes[1], count // 5), [key for key, _ in put[::7]])
    for prefix in prefixes:
        index.view(lambda tx, prefix=prefix: same(tx, prefix))  # type: ignore[misc]
    index.close()


def same(tx: Tx, prefix: bytes) -> None:
    assert by_pages(tx, prefix) == by_cursor(tx, prefix)


async def test_what_is_written_meanwhile_does_not_show(tmp_path: Path) -> None:
    chance, index = random.Random(5), Index(tmp_path / "index")
    prefix = b"\0\0\0\1"
    await changed(index, rows(chance, prefix, 4_000), [])
    with index._env.begin() as txn:
        tx = Tx(txn, index._tables, index._file)
        before = by_cursor(tx, prefix)
        for _ in range(5):
            await changed(index, rows(chance, prefix, 2_000), [prefix + key for key, _ in before[::3]])
            assert by_pages(tx, prefix) == before
    index.view(lambda tx: same(tx, prefix))
    index.close()


async def test_rows_of_several_sizes_are_not_told(tmp_path: Path) -> None:
    chance, index = random.Random(6), Index(tmp_path / "index")
    prefix = b"\0\0\0\1"
    await changed(index, [*rows(chance, prefix, 500), (prefix + chance.randbytes(30), bytes(32))], [])
    for key_size, value_size in ((24, 32), (34, 32), (24, 31), (4, 32)):
        with pytest.raises(leaves.Strange):
            index.view(lambda tx, key=key_size, value=value_size: by_pages(tx, prefix, key, value))  # type: ignore[misc]
    index.close()


async def test_a_transaction_that_writes_has_no_pages(tmp_path: Path) -> None:
    index = Index(tmp_path / "index")
    await changed(index, [(b"\0\0\0\1" + bytes(20), bytes(32))], [])
    assert await index.update(lambda tx: tx.tree(TABLE)) is None
    index.close()


async def test_a_collection_with_content_hashes_of_several_lengths(tmp_path: Path) -> None:
    vectors = np.arange(3_000 * 4, dtype=np.float32).reshape(-1, 4)
    hashes = [(b"%08d" % number + bytes(number % 3)).hex() for number in range(len(vectors))]
    async with open_store(tmp_path / "store", create=True, durability="fast") as store:
        await store.embeddings.write_embeddings_batch((hashes, vectors))
        found, matrix = await store.embeddings.matrix()
    order = sorted(range(len(hashes)), key=lambda number: bytes.fromhex(hashes[number]))
    assert found == [hashes[number] for number in order]
    assert np.array_equal(matrix, vectors[order])
