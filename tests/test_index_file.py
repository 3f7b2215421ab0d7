"""The index file: refused where it lacks pages, whole where its last ones were never written, opened where older."""

import os
from pathlib import Path

import lmdb
import pytest

from lfsfs import open_store
from lfsfs.errors import StoreFormat
from lfsfs.store.free_pages import free_pages
from lfsfs.store.index import TABLES, Index, Tx

ROWS = 400


def fill(tx: Tx) -> None:
    tx.put_many("meta", [(b"%06d" % number, bytes(1500)) for number in range(ROWS)])


async def shortened(path: Path) -> int:
    """An index with free pages at the end of its file, which is then cut off before them; how many those were."""
    index = Index(path)
    await index.update(fill)
    await index.update(lambda tx: [tx.delete("meta", b"%06d" % at) for at in range(ROWS // 4, ROWS)])
    for number in range(8):  # what is in use moves to the pages that became free
        await index.update(lambda tx, number=number: tx.put("meta", b"%06d" % number, bytes(1500)))  # type: ignore[misc]
    index.close()
    with lmdb.open(str(path), max_dbs=len(TABLES)) as env:
        size = env.stat()["psize"]
        info = env.info()
    with (path / "data.mdb").open("r+b") as file:
        free = free_pages(lambda at, n: os.pread(file.fileno(), n, at), info["last_txnid"], size)
        last = info["last_pgno"]
        while last in free:
            last -= 1
        file.truncate((last + 1) * size)
    return int(info["last_pgno"]) - last


async def test_an_index_whose_last_pages_are_free_and_not_in_the_file_is_whole(tmp_path: Path) -> None:
    assert await shortened(tmp_path / "index") > 0
    index = Index(tmp_path / "index")
    assert index.view(lambda tx: tx.count("meta")) == ROWS // 4
    await index.update(fill)
    assert index.view(lambda tx: len(list(tx.scan("meta")))) == ROWS
    index.close()


async def test_an_index_that_lacks_a_page_that_is_in_use_is_refused(tmp_path: Path) -> None:
    await shortened(tmp_path / "index")
    data = tmp_path / "index" / "data.mdb"
    os.truncate(data, data.stat().st_size - 4096)
    with pytest.raises(StoreFormat, match="truncated"):
        Index(tmp_path / "index")


async def test_an_older_index_that_lacks_tables_opens_for_reading_and_for_writing(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as store:
        row = await store.put(b"old")
    for read_only in (True, False):
        with (
            lmdb.open(str(tmp_path / "store" / "index"), max_dbs=len(TABLES)) as env,
            env.begin(write=True) as txn,
        ):
            for name in ("vectors", "packs"):
                txn.drop(env.open_db(name.encode(), txn=txn))
        async with open_store(tmp_path / "store", read_only=read_only) as store:
            assert await store.exists(row.oid)
            assert (await store.embeddings.matrix())[0] == []
