"""What a process does that loses its power, and what must be there afterwards. `python scenarios.py SCENARIO STORE`.

It says `begun` when all before it is of no interest, and then each promise that it has been given.
"""

import hashlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import trio

from lfsfs import ListQuery, Oid, Store, open_store
from lfsfs.embeddings import rewriting, writing
from lfsfs.store.gc import collect
from lfsfs.store.vacuum import vacuum

CONTENTS = (b"small " * 500, b"large " * 60_000, b"another " * 9_000)
DEAD = (b"dead " * 30_000, b"dead too")
HASHES = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(120)]
VECTORS = np.random.default_rng(4).standard_normal((120, 16)).astype("<f4")


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def create(path: Path) -> None:
    """Makes the store."""
    say("begun")
    async with open_store(path, create=True) as store:
        say("open")
        say(f"put {(await store.put(CONTENTS[0])).oid}")


async def fast(path: Path) -> None:
    """As `create`, without durability: the disk that forgets must show it."""
    say("begun")
    async with open_store(path, create=True, durability="fast") as store:
        say(f"put {(await store.put(CONTENTS[1])).oid}")
        await trio.sleep(0.1)


async def write(path: Path) -> None:
    async with open_store(path, create=True) as store:
        await store.put(b"the first one")
        say("begun")
        await store.add_repository("game")
        for content in CONTENTS:
            row = await store.put(content, repository="game")
            say(f"put {row.oid}")
        await trio.sleep(0.2)


async def gc(path: Path) -> None:
    async with open_store(path, create=True) as store:
        await _fill(store)
        say("begun")
        await collect(store, [], grace=0, act=True)
        say("collected")
        await store.trash.restore(Oid.of(DEAD[0]))
        say("restored")


async def empty(path: Path) -> None:
    async with open_store(path, create=True) as store:
        await _fill(store)
        await collect(store, [], grace=0, act=True)
        say("begun")
        await vacuum(store, [], keep=0)
        say("emptied")


async def rewrite(path: Path) -> None:
    """Packs are written, and rewritten when half of their vectors are gone."""
    writing.DIRECT_BYTES = 2 << 10
    writing.PACK_BYTES = rewriting.PACK_BYTES = 4 << 10
    async with open_store(path, create=True) as store:
        await store.put(CONTENTS[0])
        say("begun")
        await store.embeddings.write_embeddings_batch((HASHES, VECTORS))
        say("vectors")
        await store.embeddings.delete(HASHES[40:])
        say("deleted")
        await store.embeddings.vacuum()
        say("rewritten")


async def _fill(store: Store) -> None:
    await store.add_repository("game")
    for content in CONTENTS:
        await store.put(content, repository="game")
    for content in DEAD:
        await store.put(content)


SCENARIOS: dict[str, Callable[[Path], Awaitable[None]]] = {
    scenario.__name__: scenario for scenario in (create, fast, write, gc, empty, rewrite)
}


# Afterwards.


async def check(scenario: str, path: Path, said: list[str]) -> None:
    """What was promised holds, nothing partial is visible, and the store takes work as ever."""
    async with open_store(path, create=True) as store:
        rows = {row.oid for row in (await store.list(ListQuery())).objects}
        for oid in rows:
            assert await store.check(oid), f"{oid} is listed and not whole"
        await CHECKS[scenario](store, rows, said)
        row = await store.put(b"one more")
        assert b"".join([piece async for piece in store.download(row.oid)]) == b"one more"


async def _created(store: Store, rows: set[Oid], said: list[str]) -> None:
    assert {Oid(text.split()[1]) for text in said if text.startswith("put ")} <= rows


async def _written(store: Store, rows: set[Oid], said: list[str]) -> None:
    assert Oid.of(b"the first one") in rows
    promised = {Oid(text.split()[1]) for text in said if text.startswith("put ")}
    assert promised <= rows
    if promised:
        assert promised <= set(store.references.oids(store.repository("game").id, ""))


async def _collected(store: Store, rows: set[Oid], said: list[str]) -> None:
    assert {Oid.of(content) for content in CONTENTS} <= rows
    trashed = {row.oid for row in store.trash.since(0)}
    for content in DEAD:
        oid = Oid.of(content)
        assert (oid in rows) != (oid in trashed), "in the store, or in the trash"
        if oid in trashed:
            files = [file for file in store.layout.trash.rglob("*") if file.name == oid]
            assert [file.read_bytes() for file in files] == [content]
    if "restored" in said:
        assert Oid.of(DEAD[0]) in rows
    elif "collected" in said:
        assert Oid.of(DEAD[1]) in trashed


async def _emptied(store: Store, rows: set[Oid], said: list[str]) -> None:
    assert rows == {Oid.of(content) for content in CONTENTS}
    trashed = [row.oid for row in store.trash.since(0)]
    assert not trashed or "emptied" not in said
    left = [file.name for file in store.layout.trash.rglob("*") if file.is_file()]
    assert set(left) <= {Oid.of(content) for content in DEAD}, "they go when their day is over"


async def _rewritten(store: Store, rows: set[Oid], said: list[str]) -> None:
    assert Oid.of(CONTENTS[0]) in rows
    found = await store.embeddings.collection("default").read_embeddings_batch(HASHES)
    assert not found.corrupt
    for number, text in enumerate(HASHES):
        assert text not in found or found[text].tobytes() == VECTORS[number].tobytes()
    present = len(found)
    if "deleted" in said:
        assert present == 40
    elif "vectors" in said:
        assert present in (40, 120)
    else:
        assert present in (0, 120)


CHECKS: dict[str, Callable[[Store, set[Oid], list[str]], Awaitable[None]]] = {
    "create": _created,
    "fast": _created,
    "write": _written,
    "gc": _collected,
    "empty": _emptied,
    "rewrite": _rewritten,
}

if __name__ == "__main__":
    trio.run(SCENARIOS[sys.argv[1]], Path(sys.argv[2]))
