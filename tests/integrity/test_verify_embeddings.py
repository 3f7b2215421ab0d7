"""lfsfs verify and vectors: packs are objects, and each row is read as a reader would."""

import os
from pathlib import Path
from typing import Any

import pytest
from embeddings.conftest import made, small_packs, store

from lfsfs import Store
from lfsfs.embeddings import rows
from lfsfs.embeddings.codec import render
from lfsfs.errors import Corrupt
from lfsfs.integrity.report import Report
from lfsfs.integrity.verification import Scope, Verification
from lfsfs.store import packs

from .damage import file_of

__all__ = ["small_packs", "store"]  # fixtures
pytestmark = pytest.mark.usefixtures("small_packs")


async def verified(store: Store, **scope: Any) -> Report:
    return await Verification(store, Scope(**scope)).run()


def spoil_pack(store: Store, number: int, offset: int) -> str:
    """Damages one byte of a pack; its oid."""
    pack = store.index.view(lambda tx: packs.get(tx, number))
    assert pack is not None
    file = file_of(store.layout.path, pack.oid)
    file.chmod(0o600)
    with file.open("r+b") as opened:
        byte = os.pread(opened.fileno(), 1, offset)
        os.pwrite(opened.fileno(), bytes([byte[0] ^ 255]), offset)
    return pack.oid


async def test_packs_and_loose_vectors_that_are_whole_are_told_to_be(store: Store) -> None:
    hashes, matrix = made(500)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    await store.embeddings.write_embedding("ab" * 32, matrix[0] * 2)
    report = await verified(store)
    assert report.is_sound
    assert report.vectors == 501
    assert report.checked == len(store.index.view(packs.every))


async def test_a_damaged_vector_is_named_and_so_is_its_pack(store: Store) -> None:
    hashes, matrix = made(500)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    stat = store.embeddings.stat(hashes[7])
    assert stat is not None
    oid = spoil_pack(store, stat.row.pack, stat.row.offset)
    report = await verified(store)
    assert list(report.corrupt) == [oid]
    assert list(report.damaged_vectors) == [f"default/{hashes[7]}"]
    assert report.vectors == 500
    await store.embeddings.write_embedding(hashes[7], matrix[7])
    assert (await verified(store)).damaged_vectors == {}, "writing it again mends it"


async def test_a_row_that_leads_to_another_vector_is_named(store: Store) -> None:
    hashes, matrix = made(500)
    await store.embeddings.write_embeddings_batch((hashes, matrix))

    def spoil(tx: Any) -> None:
        collection = rows.need(tx, "default")
        first, second = (rows.get(tx, collection, bytes.fromhex(text)) for text in hashes[:2])
        assert first is not None
        assert second is not None
        wrong = first._replace(pack=second.pack, offset=second.offset)
        tx.put("vectors", collection.prefix + bytes.fromhex(hashes[0]), wrong.encode())
        lost = second._replace(form=77)
        tx.put("vectors", collection.prefix + bytes.fromhex(hashes[1]), lost.encode())

    await store.index.update(spoil)
    report = await verified(store)
    assert sorted(report.damaged_vectors) == sorted(f"default/{text}" for text in hashes[:2])
    assert report.corrupt == {}
    assert not report.is_sound


async def test_an_object_that_is_made_of_a_damaged_vector_is_named_until_it_is_uploaded_again(
    store: Store, tmp_path: Path
) -> None:
    hashes, matrix = made(500)
    await store.embeddings.write_embeddings_batch((hashes, matrix))
    file = tmp_path / "one.npz"
    file.write_bytes(render(matrix[3]))
    row = await store.put(file)
    assert store.index.view(lambda tx: tx.get("objects", row.oid.to_bytes())) is None, "made of its vector"
    assert (await verified(store)).vectors == 501
    stat = store.embeddings.stat(hashes[3])
    assert stat is not None
    pack = spoil_pack(store, stat.row.pack, stat.row.offset)
    report = await verified(store)
    assert sorted(report.corrupt) == sorted([pack, row.oid])
    assert list((await verified(store, oids=(row.oid,))).corrupt) == [row.oid]
    with pytest.raises(Corrupt):
        await store.open(row.oid)
    await store.put(file)
    assert b"".join([piece async for piece in store.download(row.oid)]) == file.read_bytes()
