"""A process that works on a store until a fault kills it; says on its standard output what it has done so far.

`run(SCENARIO, STORE)`: one of the functions before it. It is run with LFSFS_FAULT=kill:N (lfsfs/durable.py).
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from lfsfs import Oid, open_store
from lfsfs.store import environment
from lfsfs.store.index import Tx

SMALL_MAP_BYTES = 1 << 20
FIRST, SECOND = b"first" * 1000, b"second" * 1000


def said(what: str) -> None:
    print(what, flush=True)


async def create(path: Path) -> None:
    """Makes a store, and puts an object into it."""
    async with open_store(path, create=True) as store:
        said("created")
        said((await store.put(FIRST)).oid)


async def delete(path: Path) -> None:
    await _delete(path, force=False)


async def delete_by_force(path: Path) -> None:
    await _delete(path, force=True)


async def _delete(path: Path, *, force: bool) -> None:
    async with open_store(path) as store:
        await store.delete(Oid.of(FIRST), force=force)
        said("deleted")


async def grow(path: Path) -> None:
    """Fills the map of the index, so that it must grow, between one object and the next."""
    environment.MAP_SIZE_BYTES = SMALL_MAP_BYTES
    async with open_store(path, create=True) as store:
        said((await store.put(FIRST)).oid)
        await store.index.update(_fill)
        said("grown")
        said((await store.put(SECOND)).oid)


def _fill(tx: Tx) -> None:
    for number in range(64):
        tx.put("meta", b"filling %d" % number, bytes(64 << 10))


async def remove_repository(path: Path) -> None:
    async with open_store(path) as store:
        await store.remove_repository("r")
        said("removed")


SCENARIOS: dict[str, Callable[[Path], Awaitable[None]]] = {
    scenario.__name__: scenario for scenario in (create, delete, delete_by_force, grow, remove_repository)
}


def run(scenario: str, store: str) -> None:
    trio.run(SCENARIOS[scenario], Path(store))
