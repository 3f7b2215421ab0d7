"""Killed at every fsync, rename, unlink and index commit of a batch, a packing, a vacuum: all of it or nothing."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from forking import killed_at

from lfsfs import ListQuery, Store, open_store
from lfsfs.store import packs

from . import victim

ALL = tuple(range(1, 200))


def run_killed(scenario: str, path: Path, point: int) -> tuple[list[str], bool]:
    status, said, _ = killed_at(point, "embeddings.victim:run", scenario, path)
    return said.split(), status == 0


async def content(store: Store, name: str) -> dict[str, bytes]:
    collection = store.embeddings.collection(name)
    found = await collection.read_embeddings_batch([text async for text in collection.iter()])
    assert not found.missing and not found.corrupt
    return {text: vector.tobytes() for text, vector in found.items()}


def expected(seed: int, count: int = victim.COUNT) -> dict[str, bytes]:
    hashes, matrix = victim.batch(seed)
    return {text: row.tobytes() for text, row in zip(hashes[:count], matrix, strict=False)}


async def opened(path: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What a store has afterwards, as anybody would open it next; nothing that belongs to nobody lies about."""
    async with open_store(path) as store:
        other = await store.embeddings.collection("other").read_embedding(victim.batch(1)[0][0])
        assert other.tolist() == [1, 1, 1]
        found = await content(store, "default"), await content(store, "new")
        await store.embeddings.contains(victim.batch(1)[0][0])
        known = {pack.oid for pack in store.index.view(packs.every)}
        assert {pack.state for pack in store.index.view(packs.every)} <= {"live"}
        objects = {row.oid for row in (await store.list(_everything())).objects}
        assert objects == known, "the packs of a batch that was not completed are gone"
        for oid in known:
            assert await store.check(oid)
        await store.embeddings.vacuum()
        assert found == (await content(store, "default"), await content(store, "new"))
        await store.embeddings.collection("again").write_embeddings_batch(victim.batch(3))
        assert await content(store, "again") == expected(3)
    return found


def _everything() -> ListQuery:
    return ListQuery()


def kill_at_each(
    tmp_path: Path, scenario: str, points: Iterable[int], outcomes: list[tuple[dict[str, bytes], ...]]
) -> int:
    """Kills at each point; the last one reached. `outcomes`: what may be found; the last one if it was done."""
    with victim.small_packs():
        trio.run(victim.prepared, tmp_path / "prepared")
    point = 0
    for point in points:
        path = tmp_path / str(point)
        shutil.copytree(tmp_path / "prepared", path)
        said, survived = run_killed(scenario, path, point)
        found = trio.run(opened, path)
        assert found in outcomes
        if "done" in said:
            assert found == outcomes[-1]
        shutil.rmtree(path)
        if survived:
            break
    return point


OUTCOMES = {
    "write": [(expected(1), {}), (expected(1), expected(2))],
    "replace": [(expected(1), {}), (expected(2), {})],
    "small": [(expected(1), {}), (expected(1), expected(2, 20))],
    "vacuum": [(expected(1), {}), (expected(1, 100), {})],
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", OUTCOMES)
def test_killed_at_every_step_a_batch_is_there_whole_or_not_at_all(tmp_path: Path, scenario: str) -> None:
    reached = kill_at_each(tmp_path, scenario, ALL, OUTCOMES[scenario])
    assert 2 < reached < max(ALL)


@pytest.mark.parametrize("scenario", OUTCOMES)
def test_killed_in_the_middle_a_batch_is_there_whole_or_not_at_all(tmp_path: Path, scenario: str) -> None:
    kill_at_each(tmp_path, scenario, {"small": (2, 3)}.get(scenario, (9, 22)), OUTCOMES[scenario])
