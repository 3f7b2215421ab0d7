"""What the page of the server counts: growth, sharing, what keeps an object alive, what people did lately."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Generator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from lfsfs import Oid, Store, open_store
from lfsfs.store import activity, catalog, growth, references, sharing
from lfsfs.store.activity import Activity
from lfsfs.store.growth import HOUR_NS, StoreGrowth, repository_growth
from lfsfs.store.index import Tx
from lfsfs.store.keepers import Keeper, keepers

T = TypeVar("T")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "store", create=True, durability="fast") as store:
        yield store


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "PAGE_ROWS", 7)
    monkeypatch.setattr(sharing, "PAGE_ROWS", 7)


def counted(count: Generator[None, None, T]) -> T:
    while True:
        try:
            next(count)
        except StopIteration as end:
            return end.value


async def date(store: Store, oid: Oid, hour: int) -> None:
    """As if the object had come in then."""

    def write(tx: Tx) -> None:
        row = catalog.get(tx, oid)
        assert row is not None
        catalog.put(tx, replace(row, created=hour * HOUR_NS + 5))

    await store.index.update(write)


async def test_growth_goes_on_where_it_ended_and_begins_anew_after_a_deletion(store: Store) -> None:
    rows = [await store.put(b"x" * size) for size in range(1, 25)]
    for number, row in enumerate(rows):
        await date(store, row.oid, 100 + number % 5)
    whole = StoreGrowth(store.index)
    series = counted(whole.count())
    expected: Counter[int] = Counter()
    for number, row in enumerate(rows):
        expected[100 + number % 5] += row.size
    assert series.bytes == expected
    assert series.totals() == (24, sum(range(1, 25)))

    late = await store.put(b"late")
    await date(store, late.oid, 200)
    assert len(list(whole.count())) == 1, "one page, not all of them again"
    assert counted(whole.count()).objects[200] == 1

    await store.delete(rows[0].oid)
    assert counted(whole.count()).totals() == (24, sum(range(2, 25)) + 4)


async def test_the_growth_of_a_repository_is_told_by_its_own_references(store: Store) -> None:
    for name in ("other", "r"):
        await store.add_repository(name)
    before = await store.put(b"old", repository="other")
    await date(store, before.oid, 1)
    for number in range(20):
        await store.put(b"%d" % number, repository="r")
    await store.put(b"old", repository="r")
    series = counted(repository_growth(store.index, store.repository("r").id))
    assert series.totals() == (21, 10 + 20 + 3)
    assert 1 not in series.bytes, "when the object came in is the business of the other repository"


async def test_what_is_shared_is_saved(store: Store) -> None:
    chance = random.Random(5)
    held: dict[str, set[int]] = {name: set() for name in "abc"}
    for name in held:
        await store.add_repository(name)
    for size in range(1, 60):
        for name in chance.sample("abc", chance.randint(1, 3)):
            held[name].add(size)
            await store.put(b"s" * size, repository=name)
    await store.put(b"nobody's")
    found = counted(sharing.count(store.index))
    numbers = {name: store.repository(name).id for name in "abc"}
    for name, sizes in held.items():
        assert found.bytes[numbers[name]] == sum(sizes)
    everything = sum(map(sum, held.values())) - sum(set().union(*held.values()))
    assert found.saved(numbers.values()) == everything
    assert found.saved([numbers["a"], numbers["b"]]) == sum(held["a"] & held["b"])
    assert found.saved([numbers["a"]]) == found.saved([]) == 0


async def test_too_many_sets_of_repositories_are_not_told_apart(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "GROUPS", 2)
    for name in "abc":
        await store.add_repository(name)
    for names in ("a", "b", "ab", "ac"):
        for name in names:
            await store.put(names.encode(), repository=name)
    found = counted(sharing.count(store.index))
    assert found.saved([1, 2]) is None
    assert found.bytes == {1: 5, 2: 3, 3: 2}


async def test_keepers_are_what_why_says(store: Store) -> None:
    await store.add_repository("game")
    row = await store.put(b"kept", repository="game")
    await store.index.update(lambda tx: references.add_repository(tx, "/studio/game"))
    served = store.repository("/studio/game")
    await store.index.update(lambda tx: references.add(tx, served.id, row.oid))
    found = store.index.view(lambda tx: keepers(tx, row.oid))
    assert [(keeper.kind, keeper.name) for keeper in found] == [
        ("repository", "/studio/game"), ("root", "game"),
    ]  # fmt: skip
    assert all(abs(keeper.since - row.created) < 60 * 10**9 for keeper in found)
    assert await store.why(row.oid) == ["/studio/game refers to it", "repos/game refers to it"]
    assert str(Keeper("name", "a/b")) == "incoming/a/b names it"


async def test_pushes_that_follow_one_another_are_one_entry_and_old_ones_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "KEPT", 5)

    async def happen(*done: Activity) -> None:
        await store.index.update(lambda tx: [activity.add(tx, one) for one in done])

    push = Activity("push", "/a", "ann", at=10, objects=1, bytes=100)
    await happen(push, replace(push, at=20, bytes=50), replace(push, user="bob", at=30))
    await happen(replace(push, at=40), replace(push, at=41 + activity.TOGETHER_NS))
    await happen(Activity("lock", "/b", "ann", at=1, path="x"))
    found = store.index.view(lambda tx: activity.newest(tx, "/a", 10))
    assert [(one.user, one.objects, one.bytes) for one in found] == [
        ("ann", 1, 100), ("ann", 1, 100), ("bob", 1, 100), ("ann", 2, 150),
    ]  # fmt: skip
    await happen(*(Activity("lock", "/a", "ann", at=99, path=str(number)) for number in range(9)))
    assert [one.path for one in store.index.view(lambda tx: activity.newest(tx, "/a", 10))] == list("87654")
    await store.index.update(lambda tx: references.remove_repository(tx, references.add_repository(tx, "/a")))
    assert store.index.view(lambda tx: activity.newest(tx, "/a", 10)) == []
    assert len(store.index.view(lambda tx: activity.newest(tx, "/b", 10))) == 1


async def test_what_is_recorded_is_there_with_the_next_commit(store: Store) -> None:
    activity.record(store.index, Activity("push", "/a", "ann", objects=1, bytes=2))
    await store.index.flush()
    (one,) = store.index.view(lambda tx: activity.newest(tx, "/a", 10))
    assert one.at > 0 and one.user == "ann"


async def test_search_ends_where_the_prefix_does(store: Store) -> None:
    """It read on to the end of the store, a million objects away."""
    rows = sorted([(await store.put(b"%d" % number)).oid for number in range(300)])
    for length in (1, 2, 3):
        wanted = rows[0][:length]
        found = [match.stat.oid for match in await store.search(wanted, limit=1000)]
        assert found == [oid for oid in rows if oid.startswith(wanted)]
