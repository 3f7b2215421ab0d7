"""A process that collects, undeletes or vacuums until a fault kills it; says on its standard output that it is done.

`run(SCENARIO, STORE)`: one of the functions before it. It is run with LFSFS_FAULT=kill:N (lfsfs/durable.py).
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from lfsfs import Oid, open_store
from lfsfs.store.gc import collect
from lfsfs.store.vacuum import vacuum

KEPT, DEAD = b"kept" * 1000, [b"dead" * 30_000, b"dead too"]


async def gc(path: Path) -> None:
    async with open_store(path) as store:
        await collect(store, [], grace=0, act=True)


async def undelete(path: Path) -> None:
    async with open_store(path) as store:
        await store.trash.restore(Oid.of(DEAD[0]))


async def empty(path: Path) -> None:
    async with open_store(path) as store:
        await vacuum(store, [], keep=0)


SCENARIOS: dict[str, Callable[[Path], Awaitable[None]]] = {
    scenario.__name__: scenario for scenario in (gc, undelete, empty)
}


def run(scenario: str, store: str) -> None:
    trio.run(SCENARIOS[scenario], Path(store))
    print("done", flush=True)
