"""A small store with a little of everything, and what somebody sees who uses all of it."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import trio

from lfsfs import ListQuery, Oid, Store, open_store
from lfsfs.config_file import read_file
from lfsfs.errors import LfsfsError
from lfsfs.integrity.fsck import check
from lfsfs.integrity.verification import Scope, Verification
from lfsfs.server.access.editing import add_user, read_users
from lfsfs.store import keys, names
from lfsfs.store.gc import collect
from lfsfs.store.index import Tx
from lfsfs.store.layout import open_layout

LARGE = b"".join(b"%07d\n" % number for number in range(140_000))  # two blocks
OBJECTS = (b"", b"text\n", b"some bytes " * 700, LARGE)
DEAD = b"in the trash " * 500
HASHES = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(40)]
VECTORS = np.random.default_rng(1).standard_normal((40, 8)).astype("<f4")
CONFIG = '[store]\ndurability = "sync"\n[mount]\numask = "027"\n[cache]\nsize = "1GiB"\n'


async def made(path: Path, *, encrypted: bool = False) -> None:
    """The store; closed, and nothing of it only in memory. What is `encrypted` has its master key beside it."""
    if encrypted:
        path.with_name("master.key").write_text("17" * 32)
        open_layout(path, create=True)
        await trio.to_thread.run_sync(keys.create, path, f"file:{path.with_name('master.key')}")
    async with open_store(path, create=True) as store:
        await store.add_repository("game")
        await store.index.update(lambda tx: names.make_root(tx, 0, 0))
        for number, content in enumerate(OBJECTS):
            row = await store.put(content, repository="game" if number % 2 else None)
            await store.index.update(lambda tx, oid=row.oid, n=number: _name(tx, b"%d.bin" % n, oid))  # type: ignore[misc]
        await store.put(DEAD)
        await store.discard(Oid.of(DEAD))
        await store.embeddings.write_embeddings_batch((HASHES, VECTORS))
        await store.embeddings.pack()
        await store.embeddings.collection("loose").write_embedding(HASHES[0], VECTORS[1])
        npz = await store.embeddings.collection("default").render(HASHES[2])
        await store.put(npz, repository="game")
    (path / "lfsfs.toml").write_text(CONFIG)
    add_user(path / "users.toml", "anna", "a long password")


def _name(tx: Tx, name: bytes, oid: Oid) -> None:
    inode = names.new_inode(names.reserve(tx, 1), "file", 0o640, 1, 2)
    names.enter(tx, names.ROOT, name, inode._replace(oid=oid))


async def _seen(store: Store, faults: list[str]) -> dict[str, Any]:
    """All there is to see; what is found damaged goes to the faults."""
    seen: dict[str, Any] = {}

    async def look(what: str, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            seen[what] = await call()
        except LfsfsError as error:
            faults.append(f"{what}: {error}")

    async def rows() -> Any:
        page = await store.list(ListQuery())
        return {row.oid: (row.size, row.mode, row.content_type, row.state) for row in page.objects}

    async def read(content: bytes) -> str:
        text = b"".join([piece async for piece in store.download(Oid.of(content))])
        assert text == content, "SERVED"
        return "whole"

    async def npz() -> Any:
        return len(await store.embeddings.collection("default").render(HASHES[2]))

    async def named() -> Any:
        def tree(tx: Tx) -> Any:
            found = names.children(tx, names.ROOT)
            return {name.decode("latin-1"): repr(names.get(tx, number)) for name, number in found}

        return store.index.view(tree)

    async def vectors(name: str, hashes: list[str], expected: Any) -> Any:
        found = await store.embeddings.collection(name).read_embeddings_batch(hashes)
        for at, text in enumerate(hashes):
            assert text not in found or found[text].tobytes() == expected[at].tobytes(), "SERVED"
        faults.extend(f"vector {text}" for text in (*found.missing, *found.corrupt))
        return len(found)

    await look("rows", rows)
    for number, content in enumerate(OBJECTS):
        await look(f"object {number}", lambda content=content: read(content))  # type: ignore[misc]
    await look("npz", npz)
    await look("names", named)
    await look("vectors", lambda: vectors("default", HASHES, VECTORS))
    await look("loose", lambda: vectors("loose", HASHES[:1], VECTORS[1:]))
    await look("repositories", lambda: _repositories(store))
    await look("trash", lambda: _trash(store))
    return seen


async def _repositories(store: Store) -> Any:
    return {found.name: store.references.oids(found.id, "") for found in await store.repositories()}


async def _trash(store: Store) -> Any:
    return [(row.oid, row.size) for row in store.trash.since(0)]


async def used(path: Path) -> dict[str, Any]:
    """What is seen of the store, and what is found wrong with it."""
    faults: list[str] = []
    seen: dict[str, Any] = {}
    try:
        read_file(path / "lfsfs.toml")
        seen["users"] = sorted(read_users(path / "users.toml").users)
    except LfsfsError as error:
        faults.append(f"configuration: {error}")
    async with open_store(path) as store:
        seen |= await _seen(store, faults)
        report = await Verification(store, Scope()).run()
        faults += [f"verify: {oid}" for oid in (*report.corrupt, *report.missing, *report.damaged_vectors)]
        faults += [f"fsck: {asdict(fault)}" for fault in (await check(store, repair=False)).faults]
        try:
            await collect(store, [], grace=0, act=False)
            await store.put(b"one more")
            await store.trash.restore(Oid.of(DEAD))
            assert b"".join([piece async for piece in store.download(Oid.of(DEAD))]) == DEAD, "SERVED"
        except LfsfsError as error:
            faults.append(f"work: {error}")
    return {"seen": seen, "faults": faults}


def use(path: str) -> int:
    """Prints what is seen and what is found wrong, as JSON."""
    try:
        found = trio.run(used, Path(path))
    except LfsfsError as error:
        print(json.dumps({"seen": {}, "faults": [f"open: {error}"]}))
        return 0
    except BaseExceptionGroup as group:
        known, other = group.split(LfsfsError)
        if other is not None:
            raise
        print(json.dumps({"seen": {}, "faults": [f"open: {known}"]}))
        return 0
    print(json.dumps(found))
    return 0
