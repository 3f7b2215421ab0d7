"""gc, undelete and vacuum killed at every fsync, rename, unlink and index commit, one after another.

Whatever was there is afterwards in the store or in the trash, whole, never in neither; only vacuum takes it from there.
"""

import shutil
from pathlib import Path

import pytest
import trio
from forking import killed_at

from lfsfs import ListQuery, Oid, open_store
from lfsfs.store import catalog
from lfsfs.store.gc import collect
from lfsfs.store.vacuum import vacuum

from .victim import DEAD, KEPT

BOUND = 150


async def made(path: Path, scenario: str) -> None:
    """A store with one object that is referred to and two that are not; but for gc, those are in the trash."""
    async with open_store(path, create=True) as store:
        await store.add_repository("game")
        await store.put(KEPT, repository="game")
        for content in DEAD:
            await store.put(content)
        if scenario != "gc":
            await collect(store, [], grace=0, act=True)


def killed(scenario: str, store: Path, point: int) -> bool:
    """Whether it came to its end."""
    _, said, _ = killed_at(point, "collecting.victim:run", scenario, store)
    return said == "done\n"


async def looked_at(path: Path) -> tuple[set[bytes], set[bytes]]:
    """Which of the dead are objects, and which are in the trash, after the next open. All that is there is whole."""
    contents = {Oid.of(content): content for content in (KEPT, *DEAD)}
    async with open_store(path) as store:
        rows = {row.oid for row in (await store.list(ListQuery())).objects}
        trashed = {row.oid for row in store.trash.since(0)}
        assert Oid.of(KEPT) in rows
        assert not rows & trashed, "an object, or in the trash: not both"
        assert (await store.usage()).objects == len(rows)
        assert store.index.view(lambda tx: catalog.counter(tx, b"deletions")) % 2 == 0
        assert not store.index.view(lambda tx: list(tx.scan("meta", prefix=b"deleting\0")))
        for oid in rows:
            assert await store.check(oid)
        for oid in trashed:
            file = next(file for file in store.layout.trash.rglob("*") if file.name == oid)
            assert file.read_bytes() == contents[oid]
        return {contents[oid] for oid in rows} - {KEPT}, {contents[oid] for oid in trashed}


async def finished(path: Path, scenario: str) -> None:
    """A second run comes to its end, whatever the first one left."""
    async with open_store(path) as store:
        if scenario == "gc":
            await collect(store, [], grace=0, act=True)
        for content in DEAD:
            if scenario != "empty" and Oid.of(content) in {row.oid for row in store.trash.since(0)}:
                await store.trash.restore(Oid.of(content))
        await vacuum(store, [], keep=0)
        there = {file.name for file in store.layout.objects.rglob("*") if file.is_file()}
        kept = (KEPT,) if scenario == "empty" else (KEPT, *DEAD)
        assert there == {Oid.of(content) for content in kept}
        left = [file.name for file in store.layout.trash.rglob("*") if file.is_file()]
        assert set(left) <= {row.oid for row in store.trash.since(0)} | {Oid.of(content) for content in DEAD}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.promise("13.9")
@pytest.mark.parametrize("scenario", ["gc", "undelete", "empty"])
def test_killed_at_every_step_everything_is_in_the_store_or_in_the_trash(
    tmp_path: Path, scenario: str
) -> None:
    trio.run(made, tmp_path / "made", scenario)
    dead = set(DEAD)
    for point in range(1, BOUND):
        path = tmp_path / str(point)
        shutil.copytree(tmp_path / "made", path)
        survived = killed(scenario, path, point)
        objects, trashed = trio.run(looked_at, path)
        if scenario != "empty":
            assert objects | trashed == dead, f"lost at point {point}"
        if survived:
            ends = {"gc": (set(), dead), "undelete": ({DEAD[0]}, {DEAD[1]}), "empty": (set(), set())}
            assert (objects, trashed) == ends[scenario]
            break
        trio.run(finished, path, scenario)
        shutil.rmtree(path)
    else:
        pytest.fail(f"{scenario} has more than {BOUND} steps")
    assert point > 8, "the kills did not reach the work"
