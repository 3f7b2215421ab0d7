"""lfsfs fsck: whatever in the index, or between index and tiers, does not agree is told, and is put right."""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from gitlfs.mounted import Mount

from lfsfs import Oid, Store, open_store
from lfsfs.errors import Corrupt
from lfsfs.integrity.fsck import Findings, check
from lfsfs.integrity.mirrors import MIRRORED
from lfsfs.store import catalog, names, references, residents
from lfsfs.store.gc import collect
from lfsfs.store.index import TABLES, Tx

from .damage import file_of, put_many, refer_to_nothing

LFSFS = Path(sys.executable).with_name("lfsfs")
ABSENT = Oid("ab" * 32)
Dump = dict[str, dict[bytes, bytes]]
MIRRORS = [(mirrored.table, table) for mirrored in MIRRORED for table in mirrored.mirrors] + [
    ("entries", "by_name")
]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """One with something of everything."""
    async with open_store(tmp_path / "store", create=True, durability="fast") as store:
        oids = list(await put_many(store, [0, 10, 200_000]))
        for name in ("game", "/studio/game"):
            root = store.index.update
            repository = await root(lambda tx, name=name: references.add_repository(tx, name))
            await root(lambda tx, of=repository: [references.add(tx, of.id, oid) for oid in oids[1:]])
        await store.index.update(lambda tx: make_names(tx, oids[1]))
        await store.index.update(lambda tx: residents.pin(tx, oids[:1]))
        matrix = np.eye(8, dtype="<f4")
        await store.embeddings.write_embeddings_batch(([f"{n:02x}" * 32 for n in range(8)], matrix))
        await store.embeddings.pack()
        await store.embeddings.write_embedding("ff" * 32, matrix[0] * 3)
        yield store


def make_names(tx: Tx, oid: Oid) -> None:
    names.make_root(tx, 0, 0)
    numbers = iter(range(names.reserve(tx, 4), 1000))
    folder = names.new_inode(next(numbers), "directory", 0o755, 0, 0)
    names.enter(tx, names.ROOT, b"Films", folder)
    file = names.new_inode(next(numbers), "file", 0o644, 0, 0)
    names.enter(tx, folder.number, b"A.mov", file)
    names.put(tx, with_content(names.get(tx, file.number), oid))
    names.link(tx, file.number, names.ROOT, b"b.mov")
    names.enter(tx, names.ROOT, b"empty", names.new_inode(next(numbers), "file", 0o644, 0, 0))
    names.enter(tx, names.ROOT, b"link", names.new_inode(next(numbers), "symlink", 0o777, 0, 0, b"b.mov"))


def with_content(inode: names.Inode | None, oid: Oid) -> names.Inode:
    assert inode is not None
    return inode._replace(oid=oid, size=10)


def dump(store: Store) -> Dump:
    """All of the index but for what only tells of changes."""
    return store.index.view(
        lambda tx: {
            table: {key: value for key, value in tx.scan(table) if not key.startswith(b"unrecorded")}
            for table in TABLES
        }
    )


async def found(store: Store, *, repair: bool = False) -> Findings:
    return await check(store, repair=repair)


async def test_a_store_with_something_of_everything_has_no_fault(store: Store) -> None:
    assert (await found(store)).faults == []
    assert (await found(store, repair=True)).faults == []


@pytest.mark.promise("11.4")
@pytest.mark.parametrize(("table", "mirror"), MIRRORS, ids=[mirror for _, mirror in MIRRORS])
async def test_an_entry_that_is_lost_or_stray_is_found_and_put_right(
    store: Store, table: str, mirror: str
) -> None:
    if mirror == "by_used":
        await store.index.update(lambda tx: residents.add(tx, Oid(sorted(dump_oids(tx))[0]), 10, 5))
    before = dump(store)
    key = next(iter(before[mirror]))
    await store.index.update(lambda tx: tx.delete(mirror, key))
    assert {fault.kind for fault in (await found(store)).faults} == {"entry"}
    assert before[table] == dump(store)[table], "nothing is changed unless it is to be"
    assert (await found(store, repair=True)).left == []
    assert dump(store) == before
    stray = bytes([key[0] ^ 1]) + key[1:]
    await store.index.update(lambda tx: tx.put(mirror, stray, before[mirror][key]))
    assert len((await found(store)).faults) >= 1
    assert (await found(store, repair=True)).left == []
    assert dump(store) == before
    assert (await found(store)).faults == []


def dump_oids(tx: Tx) -> list[str]:
    return [Oid.from_bytes(key) for key, _ in tx.scan("objects")]


async def test_a_reference_and_a_name_that_are_half_there_come_back(store: Store) -> None:
    before = dump(store)
    reference, name = next(iter(before["references"])), sorted(before["entries"])[0]
    await store.index.update(lambda tx: (tx.delete("references", reference), tx.delete("entries", name)))
    await found(store, repair=True)
    assert dump(store)["references"].keys() == before["references"].keys()
    assert dump(store)["entries"] == before["entries"]


async def test_what_no_name_leads_to_gets_one(store: Store) -> None:
    before = dump(store)
    name, number = next((k, v) for k, v in before["entries"].items() if k.endswith(b"empty"))
    await store.index.update(lambda tx: [tx.delete("entries", name), tx.delete("parents", number + name)])
    await found(store, repair=True)
    root = store.index.view(lambda tx: [text for text, _ in names.children(tx, names.ROOT)])
    assert f"lost-{int.from_bytes(number, 'big')}".encode() in root
    assert (await found(store)).faults == []


@pytest.mark.parametrize(
    "counter",
    ["objects", "bytes", "write_ahead_bytes", "loose_bytes", "resident_bytes", "last_inode", "last_pack",
     "references", "vectors"],
)  # fmt: skip
async def test_a_counter_that_is_wrong_is_found_and_put_right(store: Store, counter: str) -> None:
    prefix = counter.encode()
    if counter in ("resident_bytes", "write_ahead_bytes"):
        await store.index.update(lambda tx: catalog.add(tx, prefix, 0))
    key = store.index.view(lambda tx: next(key for key, _ in tx.scan("meta", prefix=prefix)))
    before = dump(store)
    wrong = 0 if counter.startswith("last") else 77
    await store.index.update(lambda tx: tx.put("meta", key, catalog.u64(wrong)))
    assert [fault.kind for fault in (await found(store)).faults] == ["counter"]
    assert (await found(store, repair=True)).left == []
    assert dump(store)["meta"][key] == before["meta"][key]


@pytest.mark.parametrize("table", ["objects", "references", "residents", "packs", "inodes", "entries"])
async def test_a_row_that_cannot_be_read_is_found_and_stops_nothing(store: Store, table: str) -> None:
    key = b"\0" * 8 + b"\1name" if table == "entries" else b"\7" * 32
    await store.index.update(lambda tx: tx.put(table, key, b"?"))
    assert "row" in [fault.kind for fault in (await found(store)).faults]
    await found(store, repair=True)
    assert (await found(store)).faults == []


async def test_what_gc_has_written_down_of_nothing_goes_and_the_rest_stays(store: Store) -> None:
    dead, gone, kept = [(await store.put(content)).oid for content in (b"dead", b"gone" * 99, b"kept" * 99)]
    await collect(store, [], grace=3600, act=True)  # writes down that nothing refers to these three
    for oid in (gone, kept):
        await store.discard(oid)
    next(store.layout.trash.rglob(str(gone))).unlink()
    referred = store.references.oids(store.repository("game").id, "")[0]
    long_after = time.time_ns() + 10**18

    def harm(tx: Tx) -> None:
        tx.put("unreferenced", ABSENT.to_bytes(), bytes(8))
        tx.put("unreferenced", Oid(referred).to_bytes(), time.time_ns().to_bytes(8, "big"))
        tx.put("unreferenced", dead.to_bytes(), long_after.to_bytes(8, "big"))
        tx.put("trash", bytes(32), b"?")

    await store.index.update(harm)
    found = await check(store, repair=False)
    assert {fault.what.partition("/")[2] for fault in found.left} == {
        ABSENT.to_bytes().hex(), str(referred), str(dead), str(gone), "00" * 32,
    }  # fmt: skip
    assert (await check(store, repair=True)).left == []
    assert (await check(store, repair=False)).faults == []
    assert [row.oid for row in store.trash.since(0)] == [kept]
    assert (await store.trash.restore(kept)).size == 4 * 99


async def test_references_to_what_is_nowhere_go_and_names_are_told(store: Store) -> None:
    (inode,) = [key for key, value in dump(store)["entries"].items() if key.endswith(b"empty")]
    number = int.from_bytes(dump(store)["entries"][inode], "big")

    def spoil(tx: Tx) -> None:
        refer_to_nothing(tx, references.roots(tx)[0].id, ABSENT)
        tx.put("pins", ABSENT.to_bytes(), b"")
        names.put(tx, with_content(names.get(tx, number), ABSENT))
        tx.put("digests", ABSENT.to_bytes(), bytes(32))

    await store.index.update(spoil)
    kinds = ["entry", "name", "reference", "reference"]
    assert sorted(fault.kind for fault in (await found(store)).faults) == kinds
    repaired = await found(store, repair=True)
    assert [(fault.kind, fault.what) for fault in repaired.left] == [("name", "incoming/empty")]
    assert [fault.kind for fault in (await found(store)).faults] == ["name"]


@pytest.mark.parametrize("how", ["gone", "shorter"])
async def test_a_row_without_its_bytes_is_marked_and_heals_by_an_upload(store: Store, how: str) -> None:
    ((oid, content),) = (await put_many(store, [5000])).items()
    file = file_of(store.layout.path, oid)
    file.chmod(0o600)
    if how == "gone":
        file.unlink()
    else:
        os.truncate(file, 10)
    first = await found(store)
    assert [(fault.kind, fault.what) for fault in first.faults] == [
        ("missing" if how == "gone" else "bytes", oid)
    ]
    assert (await found(store, repair=True)).left != []
    marked = await found(store)
    assert (marked.faults, marked.corrupt) == ([], 1)
    with pytest.raises(Corrupt):
        await store.open(oid)
    await store.put(content)
    assert ((await found(store)).faults, (await found(store)).corrupt) == ([], 0)


async def test_digests_that_are_lost_are_made_again(store: Store) -> None:
    ((oid, content),) = (await put_many(store, [5000])).items()
    await store.index.update(lambda tx: catalog.forget_digests(tx, oid))
    assert [fault.kind for fault in (await found(store)).faults] == ["bytes"]
    assert (await found(store, repair=True)).left == []
    assert b"".join([piece async for piece in store.download(oid)]) == content


@pytest.mark.promise("11.4")
async def test_bytes_without_a_row_get_one_if_they_are_whole(store: Store) -> None:
    contents = [b"whole", b"damaged"]
    for content in contents:
        file = file_of(store.layout.path, Oid.of(content))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.replace(b"damaged", b"ruined!"))
    assert {fault.kind for fault in (await found(store)).faults} == {"orphan"}
    repaired = await found(store, repair=True)
    assert [fault.what for fault in repaired.left] == [Oid.of(b"damaged")]
    assert b"".join([piece async for piece in store.download(Oid.of(b"whole"))]) == b"whole"
    with pytest.raises(Corrupt):
        await store.open(Oid.of(b"damaged"))
    assert (await found(store)).faults == []


# By command.


def fsck(store: Path, *options: str, status: int = 0) -> Any:
    done = subprocess.run(
        [LFSFS, "fsck", "--store", store, "--json", *options], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr + done.stdout
    return json.loads(done.stdout) if done.stdout else done.stderr


@pytest.mark.promise("11.4")
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_an_index_that_is_lost_is_made_anew(tmp_path: Path, how: str) -> None:
    path = tmp_path / "store"

    async def make() -> dict[Oid, bytes]:
        async with open_store(path, create=True) as store:
            return await put_many(store, [10, 100_000])

    contents = trio.run(make)
    data = path / "index" / "data.mdb"
    if how == "gone":
        (path / "index").rename(tmp_path / "away")
    else:
        os.truncate(data, 40_000)
    said = fsck(path, status=1)
    assert [fault["kind"] for fault in said["faults"]] == ["index"]
    assert (path / "index").exists() == (how == "damaged"), "dry by default"
    assert fsck(path, "--repair")["sound"]
    assert len(list(path.glob("index.damaged-*"))) == (how == "damaged"), "what it told is kept"

    async def read() -> None:
        async with open_store(path) as store:
            for oid, content in contents.items():
                assert b"".join([piece async for piece in store.download(oid)]) == content

    trio.run(read)
    assert fsck(path)["faults"] == []
    assert fsck(tmp_path / "nowhere", status=3)


@pytest.mark.promise("11.4")
@pytest.mark.mount
@pytest.mark.timeout(120)
def test_beside_a_mount_it_looks_and_says_what_to_do_to_repair(tmp_path: Path) -> None:
    with Mount(tmp_path / "own") as mount:
        (mount.path / "incoming" / "film").write_bytes(os.urandom(100_000))
        assert fsck(mount.store)["sound"]
        said = fsck(mount.store, "--repair", status=4)
        assert f"lfsfs unmount {mount.path}" in said
        mount.stop()
        assert fsck(mount.store, "--repair")["sound"]
