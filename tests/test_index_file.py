"""The index file: refused where it lacks pages, whole where its last ones were never written, opened where older."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
import trio

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


async def test_free_pages_go_back_to_the_file_system_and_nobody_loses_anything(tmp_path: Path) -> None:
    index = Index(tmp_path / "index")
    data = tmp_path / "index" / "data.mdb"

    def write(tx: Tx, value: bytes) -> None:
        for at in range(12_000):
            tx.put("meta", b"%06d" % at, value)

    def read(tx: Tx) -> set[bytes]:
        return {value for key, value in tx.scan("meta") if key.isdigit()}

    async def write_all(value: bytes) -> None:
        await index.update(lambda tx: write(tx, value))

    await write_all(bytes(1500))
    await write_all(b"\1" * 1500)  # all of it anew: the first pages are free
    looking, done = threading.Event(), threading.Event()

    def look(tx: Tx) -> set[bytes]:
        looking.set()
        done.wait(60)
        return read(tx)

    async with trio.open_nursery() as nursery:
        found: list[set[bytes]] = []
        nursery.start_soon(lambda: _into(found, index, look))
        await trio.to_thread.run_sync(looking.wait)
        await write_all(b"\2" * 1500)  # into the free pages; those that the view looks at are free now
        before = data.stat()
        await index.trim()
        assert data.stat().st_blocks > 0.9 * before.st_blocks, "a view looks at them"
        done.set()
    assert found == [{b"\1" * 1500}]
    await index.trim()
    assert data.stat().st_blocks < 0.6 * before.st_blocks and data.stat().st_size >= before.st_size
    assert index.view(read) == {b"\2" * 1500}
    await write_all(b"\3" * 1500)
    index.close()
    index = Index(tmp_path / "index")
    assert index.view(read) == {b"\3" * 1500}
    index.close()


async def _into(found: list[set[bytes]], index: Index, look: Callable[[Tx], set[bytes]]) -> None:
    found.append(await trio.to_thread.run_sync(index.view, look))


WRITER = """
import sys, trio
from pathlib import Path
from lfsfs.store.index import Index

async def main() -> None:
    index = Index(Path(sys.argv[1]))
    for _ in range(150):
        await index.update(lambda tx: tx.put("meta", b"last", tx.number.to_bytes(8, "big")))
    index.close()

trio.run(main)
"""


def test_a_transaction_that_is_told_of_is_seen_by_the_next_look(tmp_path: Path) -> None:
    """Who watches for changes looks once for each number: what came before it must be there. Its bytes are on disk a
    moment before other processes see them.
    """
    path = tmp_path / "index"
    index = Index(path)
    try:
        seen = before = index.last_transaction()
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path])
        while writer.poll() is None:
            told = index.last_transaction()
            value = index.view(lambda tx: tx.get("meta", b"last"))
            seen = int.from_bytes(value, "big") if value is not None else before
            assert seen >= told
        assert writer.returncode == 0
        assert seen >= before + 150
    finally:
        index.close()
