"""Files of a view that are read in order are made together; each is still what its row says."""

import random

import trio

from lfsfs import Store
from lfsfs.embeddings import codec
from lfsfs.mount.view import Ahead

from .conftest import made


async def test_in_any_order_each_file_is_that_of_its_vector(store: Store) -> None:
    hashes, matrix = made(300)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    files = {text: codec.render(row) for text, row in zip(hashes, matrix, strict=True)}
    ahead = Ahead(store.embeddings)
    in_order = store.embeddings.page(limit=300)
    for stat in [*in_order, *random.Random(1).sample(in_order, 50), *in_order[::3]]:
        assert await ahead.content(stat) == files[stat.content_hash]


async def test_what_is_replaced_or_deleted_while_it_was_made_ahead_is_not_served(store: Store) -> None:
    hashes, matrix = made(40)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    ahead = Ahead(store.embeddings)
    listed = store.embeddings.page(limit=40)
    for stat in listed[:4]:
        await ahead.content(stat)
    later = listed[5].content_hash
    await store.embeddings.write_embedding(later, matrix[0] * 3, replace=True)
    now = store.embeddings.stat(later)
    assert now is not None
    assert await ahead.content(now) == codec.render(matrix[0] * 3)


async def test_what_changes_while_it_is_made_has_never_the_bytes_of_before(store: Store) -> None:
    hashes, matrix = made(64)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    ahead, order = Ahead(store.embeddings), sorted(hashes)
    written = dict(zip(hashes, matrix, strict=True))

    async def replace() -> None:
        for turn in range(1, 6):
            for text in order[::-1]:
                written[text] = matrix[turn] * turn
                await store.embeddings.write_embedding(text, written[text], replace=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(replace)
        for _ in range(5):
            for stat in store.embeddings.page(limit=64):
                await ahead.content(stat)
    for stat in store.embeddings.page(limit=64):
        assert await ahead.content(stat) == codec.render(written[stat.content_hash])
