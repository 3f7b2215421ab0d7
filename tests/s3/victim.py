"""A process that works on a store with S3 until a fault kills it: at any fsync, rename, unlink, index commit or request
that changes the bucket.

`run(SCENARIO, STORE)`, with LFSFS_FAULT=kill:N (lfsfs/durable.py). Says on its standard output when it is done.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import trio
from forking import command

from lfsfs import Oid, Store, open_store
from lfsfs.cli import converting
from lfsfs.config import CacheOptions, S3Options, ScrubOptions
from lfsfs.integrity import idleness, scrub_record
from lfsfs.integrity.scrub import Scrub
from lfsfs.store import journal
from lfsfs.store.gc import OtherMachines, collect
from lfsfs.store.vacuum import vacuum
from lfsfs.tiers import bucket

COUNT = 60
WHOLE, HERE, THERE, NOWHERE = (b"whole" * 2000, b"here" * 3000, b"there" * 4000, b"nowhere" * 500)
"""Objects by where a bit of them has flipped."""
CACHE = CacheOptions(deadline=5.0)


def vectors() -> tuple[list[str], np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    matrix = np.random.default_rng(1).standard_normal((COUNT, 16)).astype("<f4")
    return [f"{number:064x}" for number in range(COUNT)], matrix


async def drained(store: Store) -> None:
    """Returns when nothing waits for the bucket. Somebody runs `store.remote.run`."""
    assert store.remote is not None
    with trio.fail_after(20):
        while not store.remote.is_drained():
            await store.index.update(journal.ask_for_retry)
            await trio.sleep(0.02)


async def prepared(path: Path, options: S3Options) -> None:
    """A store on a bucket: four objects, and vectors in a pack there."""
    async with (
        open_store(path, create=True, remote=(options, CACHE)) as store,
        trio.open_nursery() as nursery,
    ):
        assert store.remote is not None
        nursery.start_soon(store.remote.run)
        await store.add_repository("film")
        for content in (WHOLE, HERE, THERE, NOWHERE):
            await store.put(content, repository="film")
        await store.embeddings.write_embeddings_batch(vectors())
        await store.embeddings.pack()
        await drained(store)
        nursery.cancel_scope.cancel()


async def scrub(store: Store) -> None:
    """A whole pass; and what others have found damaged in the bucket is sent again."""
    assert store.remote is not None
    idleness.SAMPLE_SECONDS = 0.01
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.remote.run)
        nursery.start_soon(Scrub(store, ScrubOptions(rate=1 << 40, interval=3600.0, idle=0.0)).run)
        with trio.fail_after(20):
            while store.index.view(scrub_record.load).last is None:
                await trio.sleep(0.01)
        await store.remote.repairs.look()
        await drained(store)
        nursery.cancel_scope.cancel()


async def rewrite(store: Store) -> None:
    """Rewrites the pack without half of its vectors, and has the bucket do with the new one."""
    assert store.remote is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.remote.run)
        await store.embeddings.delete(vectors()[0][: COUNT // 2])
        await store.embeddings.vacuum()
        await drained(store)
        nursery.cancel_scope.cancel()


async def upload(store: Store) -> None:
    """What waits is uploaded, and what this machine refers to is recorded."""
    assert store.remote is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.remote.run)
        await drained(store)
        nursery.cancel_scope.cancel()


async def free(store: Store) -> None:
    """What nothing refers to goes to the trash, and leaves the bucket from there."""
    assert store.remote is not None
    await store.remote.drain()
    await collect(store, [OtherMachines(store.remote.records)], grace=0, act=True)
    await vacuum(store, [], keep=0)


SCENARIOS: dict[str, Callable[[Store], Awaitable[None]]] = {
    scenario.__name__: scenario for scenario in (scrub, rewrite, upload, free)
}


async def main(scenario: str, path: Path) -> None:
    async with open_store(path) as store:
        await SCENARIOS[scenario](store)
    print("done", flush=True)


def run(scenario: str, store: str) -> None:
    trio.run(main, scenario, Path(store))


def decrypt(store: str) -> int:
    """`lfsfs decrypt`, where no other machine has to learn of it."""
    bucket.LOOK_SECONDS = converting.SPARE_SECONDS = 0.0
    return command("decrypt", "--store", store)


def oids() -> dict[Oid, bytes]:
    return {Oid.of(content): content for content in (WHOLE, HERE, THERE, NOWHERE)}
