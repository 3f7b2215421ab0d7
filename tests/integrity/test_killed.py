"""verify, fsck --repair and index rebuild killed at every fsync, rename, unlink and index commit, one after another.

Whoever looks next finds all that is damaged, and every object that is whole is whole, and no object is lost; a second
run comes to the same end as one that was left alone.
"""

import shutil
from pathlib import Path

import pytest
import trio
from forking import killed_at

from lfsfs import ListQuery, Oid, Store, open_store
from lfsfs.integrity import survey
from lfsfs.integrity.fsck import check
from lfsfs.integrity.verification import Scope, Verification
from lfsfs.store import catalog, references

from . import victim
from .damage import file_of, flip

WHOLE, BROKEN, LOST, STRAY = (b"whole" * 2000, b"broken" * 50_000, b"lost" * 100, b"stray" * 700)
BOUND = 60


async def damaged(path: Path) -> None:
    """An object is whole, one damaged, one gone, one has no row; a counter is wrong, and an entry leads nowhere."""
    async with open_store(path, create=True) as store:
        root = await store.add_repository("game")
        for content in (WHOLE, BROKEN, LOST, STRAY):
            await store.put(content, repository="game")

        def harm(tx: catalog.Tx) -> None:
            row = catalog.get(tx, Oid.of(STRAY))
            assert row is not None
            references.drop(tx, root.id, row.oid)
            catalog.delete(tx, row.oid)
            catalog.add(tx, b"bytes", 5)
            tx.put("by_size", bytes(8) + Oid.of(WHOLE).to_bytes(), b"")

        await store.index.update(harm)
        assert store.write_ahead is None or not await store.write_ahead.replay()
    flip(file_of(path, Oid.of(BROKEN)), 1000)
    file_of(path, Oid.of(LOST)).unlink()


async def seen(store: Store) -> dict[str, str]:
    return {row.oid: row.state for row in (await store.list(ListQuery())).objects}


async def looked_at(path: Path, scenario: str, *, ended: bool) -> None:
    async with open_store(path) as store:
        before = await seen(store)
        assert before[Oid.of(WHOLE)] == "whole"
        assert b"".join([piece async for piece in store.download(Oid.of(WHOLE))]) == WHOLE
        if scenario != "rebuild":
            assert Oid.of(WHOLE) in store.references.oids(store.repository("game").id, "")
        elif ended:
            assert before == {Oid.of(WHOLE): "whole", Oid.of(BROKEN): "corrupt", Oid.of(STRAY): "whole"}
        report = await Verification(store, Scope()).run()
        assert Oid.of(BROKEN) in report.corrupt
        assert set(report.corrupt) <= {Oid.of(BROKEN), Oid.of(LOST)}
        assert file_of(path, Oid.of(STRAY)).read_bytes() == STRAY


async def sound(path: Path) -> None:
    """What a run of fsck leaves that nobody has killed."""
    async with open_store(path) as store:
        await check(store, repair=True)
        assert (await check(store, repair=False)).left == []
        found = await seen(store)
        assert found[Oid.of(WHOLE)] == found[Oid.of(STRAY)] == "whole"
        assert found[Oid.of(BROKEN)] == "corrupt"
        await store.put(BROKEN)
        assert b"".join([piece async for piece in store.download(Oid.of(BROKEN))]) == BROKEN


@pytest.mark.slow
@pytest.mark.parametrize("scenario", victim.SCENARIOS)
def test_killed_at_every_step_it_costs_nothing_and_the_next_run_ends_it(
    tmp_path: Path, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "SETTLE_SECONDS", 0.01)  # as in the victim
    trio.run(damaged, tmp_path / "made")
    for point in range(1, BOUND):
        path = tmp_path / str(point)
        shutil.copytree(tmp_path / "made", path)
        status, said, _ = killed_at(point, "integrity.victim:run", scenario, path)
        trio.run(lambda path=path, ended=status == 0: looked_at(path, scenario, ended=ended))  # type: ignore[misc]
        trio.run(sound, path)
        shutil.rmtree(path)
        if status == 0:
            assert "done " in said
            break
    else:
        pytest.fail(f"{scenario} has more than {BOUND} steps")
    assert point > 2, "the kills did not reach the work"
