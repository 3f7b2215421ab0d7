"""gc, the trash and vacuum on a store without a mount: what goes, what stays, and when."""

import itertools
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lfsfs import ListQuery, Oid, Store, durable, open_store
from lfsfs.errors import Corrupt, InUse, NotFound, Refused, Unavailable
from lfsfs.steps import Steps, Unit, watched
from lfsfs.store import epochs, names, references, residents, unreferenced
from lfsfs.store.gc import Budget, bring_back, collect
from lfsfs.store.index import Index, Tx
from lfsfs.store.layout import Layout
from lfsfs.store.roots import RootUnreadable
from lfsfs.store.vacuum import vacuum

DAY = 86400.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "store", create=True, durability="fast") as opened:
        yield opened


class Needing:
    """Something beyond the index that refers to these objects; or cannot be read."""

    def __init__(self, *oids: Oid, broken: bool = False) -> None:
        self.oids = {oid.to_bytes() for oid in oids}
        self.broken = broken
        self.asked = 0

    async def strike(self, candidates: set[bytes]) -> None:
        self.asked += 1
        if self.broken:
            raise RootUnreadable("the clone /gone is not there")
        candidates.difference_update(self.oids)


def on_disk(store: Store) -> set[str]:
    return {file.name for file in store.layout.objects.rglob("*") if file.is_file()}


def in_trash(store: Store) -> set[str]:
    return {row.oid for row in store.trash.since(0)}


async def backdate(store: Store, oid: Oid, seconds: float) -> None:
    """As if an earlier run had found it out so long ago."""
    when = time.time_ns() - int(seconds * 1e9)
    await store.index.update(lambda tx: tx.put("unreferenced", oid.to_bytes(), when.to_bytes(8, "big")))


def name_it(tx: Tx, oid: Oid) -> None:
    names.make_root(tx, 0, 0)
    inode = names.new_inode(names.reserve(tx, 1), "file", 0o644, 0, 0)
    names.enter(tx, names.ROOT, b"named", inode._replace(oid=oid))


@pytest.mark.promise("13.1")
async def test_what_anything_refers_to_stays_and_the_rest_goes_to_the_trash(store: Store) -> None:
    root = await store.add_repository("game")
    served = await store.index.update(lambda tx: references.add_repository(tx, "/studio/game"))
    kept = [(await store.put(b"kept %d" % number)).oid for number in range(5)]
    dead = (await store.put(b"dead" * 1000)).oid
    await store.index.update(lambda tx: references.add(tx, root.id, kept[0]))
    await store.index.update(lambda tx: references.add(tx, served.id, kept[1]))
    await store.index.update(lambda tx: residents.pin(tx, [kept[2]]))
    await store.index.update(lambda tx: name_it(tx, kept[3]))
    await store.embeddings.write_embeddings_batch(([Oid.of(b"a")], np.ones((1, 4), np.float32)))
    await store.embeddings.pack()
    packs = {row.oid for row in (await store.list(ListQuery())).objects} - {*kept, dead}
    assert len(packs) == 1
    done = await collect(store, [Needing(kept[4])], grace=0, act=True)
    assert (done.unreferenced.objects, done.deleted.objects, done.deleted.bytes) == (1, 1, 4000)
    assert on_disk(store) == {*kept, *packs}
    assert in_trash(store) == {dead}
    assert await store.find_row(dead) is None
    for oid in kept:
        assert await store.check(oid)


async def test_a_run_says_how_far_it_is(store: Store) -> None:
    begun: list[tuple[str, int | None]] = []

    class Watched(Steps):
        def begin(self, what: str, of: int | None, unit: Unit) -> None:
            super().begin(what, of, unit)
            begun.append((what, of))

    for number in range(3):
        await store.put(b"dead %d" % number)
    await store.add_repository("game")
    with watched(Watched()) as steps:
        await collect(store, [], grace=0, act=True)
    assert begun == [("looking", 3), ("moving to the trash", 3)]
    assert (steps.done, steps.of) == (3, 3)


@pytest.mark.promise("13.2")
async def test_only_what_an_earlier_run_found_the_grace_time_ago_goes(store: Store) -> None:
    old, young = (await store.put(b"old")).oid, (await store.put(b"young")).oid
    first = await collect(store, [], grace=DAY, act=True)
    assert (first.unreferenced.objects, first.ripe.objects, first.deleted.objects) == (2, 0, 0)
    assert first.next > time.time_ns() + 0.9 * DAY * 1e9
    await backdate(store, old, DAY + 1)
    dry = await collect(store, [], grace=DAY, act=False)
    assert (dry.ripe.objects, dry.deleted.objects) == (1, 0)
    assert on_disk(store) == {old, young}
    assert (await collect(store, [], grace=DAY, act=True)).deleted.objects == 1
    assert on_disk(store) == {young}


@pytest.mark.promise("13.2")
async def test_a_reference_that_came_and_went_and_a_commit_begin_the_time_anew(store: Store) -> None:
    root = await store.add_repository("game")
    oids = [(await store.put(content)).oid for content in (b"referred to", b"committed")]
    await collect(store, [], act=True)
    for oid in oids:
        await backdate(store, oid, 100 * DAY)
    await store.index.update(lambda tx: references.add(tx, root.id, oids[0]))
    await store.index.update(lambda tx: references.drop(tx, root.id, oids[0]))
    await store.put(b"committed")
    done = await collect(store, [], grace=DAY, act=True)
    assert (done.unreferenced.objects, done.ripe.objects) == (2, 0)
    assert on_disk(store) == set(oids)


@pytest.mark.promise("13.3")
async def test_a_root_that_cannot_be_read_ends_the_run_and_nothing_is_deleted(store: Store) -> None:
    dead = (await store.put(b"dead")).oid
    with pytest.raises(RootUnreadable, match="/gone"):
        await collect(store, [Needing(), Needing(broken=True)], grace=0, act=True)
    assert on_disk(store) == {dead}
    assert store.index.view(lambda tx: unreferenced.since(tx, dead)) is None, (
        "nothing is noted of half a look"
    )


@pytest.mark.promise("13.3")
async def test_after_the_loss_of_an_index_gc_waits_until_somebody_says_that_it_may_be_trusted(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path / "store", create=True) as store:
        dead = (await store.put(b"dead")).oid
    shutil.rmtree(tmp_path / "store" / "index")
    async with open_store(tmp_path / "store") as store:
        with pytest.raises(RootUnreadable, match="--trust-index"):
            await collect(store, [], grace=0, act=True)
        assert on_disk(store) == {dead}


@pytest.mark.promise("13.4")
@pytest.mark.parametrize("budget", [Budget(objects=2), Budget(bytes=14), Budget(share=0.5)])
async def test_a_run_that_would_delete_more_than_its_budget_deletes_nothing(
    store: Store, budget: Budget
) -> None:
    for number in range(3):
        await store.put(b"dead %d" % number)
    with pytest.raises(Refused, match="budget"):
        await collect(store, [], grace=0, act=True, budget=budget)
    assert len(on_disk(store)) == 3
    assert (await collect(store, [], grace=0, act=True, budget=Budget(3, 18, 1.0))).deleted.objects == 3


async def test_one_gc_at_a_time(store: Store) -> None:
    class Held:
        async def strike(self, candidates: set[bytes]) -> None:
            with pytest.raises(InUse):
                await collect(store, [], act=False)

    await store.put(b"dead")
    await collect(store, [Held()], act=False)


# The race of a lookup, or a commit, against gc: docs/SEMANTICS.md, 13.


class Other:
    """other.py, as a process of its own. `ask` sends it a line; `said` waits for its answer."""

    def __init__(self, store: Path, *arguments: str) -> None:
        command = [sys.executable, Path(__file__).with_name("other.py"), store, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> "Other":
        assert self.said(30) == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def said(self, seconds: float) -> str:
        """Its next answer; empty where it takes longer."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return ""
        return self._process.stdout.readline().decode().strip()


@pytest.mark.slow
@pytest.mark.promise("13.5")
@pytest.mark.parametrize("act", ["look", "put"])
async def test_whoever_refers_to_an_object_at_any_step_of_gc_has_it_or_is_told_that_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """gc is held before and after each of its durable steps, one after another, while the other process acts."""
    answers: list[str] = []
    async with open_store(tmp_path / "store", create=True) as store:
        await store.add_repository("game")
        with Other(tmp_path / "store", "daemon") as other:
            for held_at in range(1, 100):
                content = f"wanted at {held_at}"
                oid = (await store.put(content.encode())).oid
                points = itertools.count(1)
                answer = ""

                @contextmanager
                def holding(
                    name: str,
                    points: Iterator[int] = points,
                    held_at: int = held_at,
                    line: str = f"{act} {oid if act == 'look' else content}",
                ) -> Iterator[None]:
                    nonlocal answer
                    for _ in range(2):
                        if next(points) == held_at:
                            other.ask(line)
                            answer = other.said(0.2) or "waits"  # for a lock that gc holds at this point
                        if _ == 0:
                            yield

                with monkeypatch.context() as patched:
                    patched.setattr(durable, "step", holding)
                    await collect(store, [], grace=0, act=True)
                if not answer:
                    break
                if answer == "waits":
                    answer = other.said(30)
                answers.append(answer)
                await store.index.flush()
                there = oid in on_disk(store)
                assert there == (answer == "there"), f"held at {held_at}: {answer}, and there: {there}"
                if there:
                    assert await store.why(oid) == ["repos/game refers to it"]
                    assert await store.check(oid)
                else:
                    assert (await store.trash.restore(oid)).oid == oid
                await store.discard(oid, force=True)
    assert len(answers) > 8, "gc was held at each of its steps"
    assert set(answers) == ({"there", "gone"} if act == "look" else {"there"})


@pytest.mark.promise("13.5")
async def test_a_reference_on_its_way_is_waited_for_and_a_daemon_that_does_not_answer_stops_gc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(tmp_path / "store", create=True) as store:
        await store.add_repository("game")
        oid = (await store.put(b"wanted")).oid
        with Other(tmp_path / "store", "daemon") as other:
            other.ask("stop")
            assert other.said(10)
            with monkeypatch.context() as patched:
                patched.setattr(epochs, "ANSWER_SECONDS", 0.3)
                with pytest.raises(Unavailable, match="does not answer"):
                    await collect(store, [], grace=0, act=True)
            assert on_disk(store) == {oid}
            await store.index.update(lambda tx: unreferenced.forget(tx, oid))
            other.ask("go")
            assert other.said(10)
            settled = epochs.settled

            async def looked_up_before(index: Index, layout: Layout) -> None:
                other.ask(f"soon {oid}")
                assert other.said(10) == "there"
                await settled(index, layout)

            monkeypatch.setattr(epochs, "settled", looked_up_before)
            done = await collect(store, [], grace=0, act=True)
        assert done.deleted.objects == 0
        assert on_disk(store) == {oid}
        assert await store.why(oid) == ["repos/game refers to it"]


async def test_what_a_clone_has_come_to_need_while_gc_ran_comes_back(store: Store) -> None:
    oid = (await store.put(b"wanted" * 1000)).oid

    class Later(Needing):
        async def strike(self, candidates: set[bytes]) -> None:
            if self.asked:
                self.oids = {oid.to_bytes()}
            await super().strike(candidates)

    done = await collect(store, [Later()], grace=0, act=True)
    assert (done.deleted.objects, done.restored) == (1, 1)
    assert await store.check(oid)
    assert in_trash(store) == set()


# Trash.


@pytest.mark.promise("13.6")
@pytest.mark.parametrize("size", [0, 100, 3_000_000])
async def test_what_was_deleted_comes_back_until_the_trash_is_emptied(store: Store, size: int) -> None:
    content = os.urandom(size)
    oid = (await store.put(content)).oid
    for _ in range(2):
        await store.discard(oid)
        assert await store.find_row(oid) is None
        assert in_trash(store) == {oid}
        assert (await vacuum(store, [], keep=DAY)).trashed == 0
        assert (await store.trash.restore(oid)).oid == oid
        assert b"".join([piece async for piece in store.download(oid)]) == content
        assert in_trash(store) == set()
        assert [file for file in store.layout.trash.rglob("*") if file.is_file()] == []
    await store.discard(oid)
    done = await vacuum(store, [], keep=0)
    assert done.trashed == 1
    assert done.bytes >= size
    with pytest.raises(NotFound):
        await store.trash.restore(oid)
    assert not any(store.layout.objects.iterdir()), "empty directories are removed"


@pytest.mark.promise("13.6")
async def test_a_commit_of_what_is_in_the_trash_makes_an_object_of_its_own(store: Store) -> None:
    oid = (await store.put(b"again")).oid
    await store.discard(oid)
    await store.put(b"again")
    assert in_trash(store) == set()
    await vacuum(store, [], keep=0)
    assert await store.check(oid)


async def test_what_rotted_in_the_trash_does_not_come_back(store: Store) -> None:
    oid = (await store.put(b"whole" * 1000)).oid
    await store.discard(oid)
    file = next(file for file in store.layout.trash.rglob("*") if file.name == oid)
    file.write_bytes(b"whale" + file.read_bytes()[5:])
    with pytest.raises(Corrupt, match="damaged"):
        await store.trash.restore(oid)
    assert await store.find_row(oid) is None


@pytest.mark.promise("13.6")
async def test_after_the_loss_of_the_index_the_trash_is_still_there(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as store:
        oid = (await store.put(b"trashed")).oid
        await store.discard(oid)
    shutil.rmtree(tmp_path / "store" / "index")
    async with open_store(tmp_path / "store") as store:
        assert await store.find_row(oid) is None
        await store.trash.restore(oid)
        assert await store.check(oid)


@pytest.mark.promise("13.7")
async def test_vacuum_restores_what_gc_took_and_a_clone_needs_now_and_stops_where_one_cannot_be_read(
    store: Store,
) -> None:
    oid = (await store.put(b"wanted")).oid
    await collect(store, [], grace=0, act=True)
    with pytest.raises(RootUnreadable):
        await vacuum(store, [Needing(broken=True)], keep=0)
    assert in_trash(store) == {oid}
    assert (await vacuum(store, [Needing(oid)], keep=0)).restored == 1
    assert await store.check(oid)


class EverythingNeeded:
    """A root that refers to whatever it is asked about."""

    async def strike(self, candidates: set[bytes]) -> None:
        candidates.clear()


async def test_what_gc_took_and_somebody_made_anew_at_once_is_no_failure(tmp_path: Path) -> None:
    """A clone that needs it finds it: of what is nowhere it is told."""
    async with open_store(tmp_path / "store", create=True) as store:
        there = (await store.put(b"made anew")).oid
        assert await bring_back(store, [EverythingNeeded()], {there}) == 0
        assert store.lookup(there) is not None
        with pytest.raises(NotFound, match="the trash has no object"):
            await bring_back(store, [EverythingNeeded()], {Oid.of(b"nowhere")})
