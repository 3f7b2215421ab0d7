"""The public Store: what is put comes back, lists page by page in every order, and what is cancelled leaves nothing."""

import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_promises import oid_of

from lfsfs import LfsfsError, ListQuery, Oid, Store, open_store
from lfsfs.errors import HashMismatch, InUse, InvalidConfig, NotFound, Refused, StoreFormat
from lfsfs.store import references
from lfsfs.store.references import References

MIB = 1 << 20


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "store", create=True) as store:
        yield store


async def all_pages(store: Store, query: ListQuery) -> list[Oid]:
    found: list[Oid] = []
    cursor = None
    while True:
        page = await store.list(
            ListQuery(
                **{name: getattr(query, name) for name in query.__slots__ if name != "cursor"}, cursor=cursor
            )
        )
        found += [row.oid for row in page.objects]
        cursor = page.cursor
        if cursor is None:
            return found


async def test_what_is_put_is_there_with_its_size_and_type(store: Store, tmp_path: Path) -> None:
    database = tmp_path / "database"
    connection = sqlite3.connect(database)
    connection.execute("create table t (x)")
    connection.commit()
    connection.close()
    row = await store.put(database)
    assert (row.oid, row.size) == (oid_of(database.read_bytes()), database.stat().st_size)
    assert "sqlite" in row.content_type
    assert await store.stat(row.oid) == row
    await store.get(row.oid, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == database.read_bytes()


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
async def test_any_range_of_an_object_reads_back(store: Store, size: int) -> None:
    content = os.urandom(size)
    row = await store.put(content)
    assert b"".join([piece async for piece in store.download(row.oid, chunk=100_000)]) == content
    async with await store.open(row.oid) as reader:
        for offset in (0, 1, MIB - 1, MIB, size - 1, size, size + 1):
            for length in (0, 1, 4096, 2 * MIB):
                if offset >= 0:
                    assert await reader.read(offset, length) == content[offset : offset + length]


async def test_bytes_that_are_not_what_was_announced_are_refused(store: Store) -> None:
    with pytest.raises(HashMismatch):
        await store.put(b"this", oid=Oid.of(b"that"))
    async with store.create_upload(size=3) as upload:
        with pytest.raises(HashMismatch):
            await upload.write(b"four")
    assert (await store.usage()).objects == 0


async def test_progress_is_told(store: Store, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    row = await store.put(os.urandom(3 * MIB), progress=lambda *so_far: told.append(so_far))
    assert told[-1] == (3 * MIB, 3 * MIB)
    told.clear()
    await store.get(row.oid, tmp_path / "copy", progress=lambda *so_far: told.append(so_far))
    assert told[-1] == (3 * MIB, 3 * MIB)


async def test_many_are_put_and_got_with_a_result_or_an_error_each(store: Store, tmp_path: Path) -> None:
    contents = [os.urandom(1000) for _ in range(50)]
    items: list[Path | bytes] = [*contents, tmp_path / "not there"]
    rows = await store.put_many(items)
    assert [getattr(row, "oid", None) for row in rows[:-1]] == [oid_of(content) for content in contents]
    assert isinstance(rows[-1], NotFound)
    wanted = [(Oid.of(content), tmp_path / str(number)) for number, content in enumerate(contents)]
    got = await store.get_many([*wanted, (Oid.of(b"absent"), tmp_path / "absent")])
    assert isinstance(got[-1], LfsfsError)
    assert [path.read_bytes() for _, path in wanted] == contents
    assert not (tmp_path / "absent").exists()


async def test_deleting_what_is_referred_to_is_refused_unless_forced(store: Store) -> None:
    await store.add_repository("r")
    row = await store.put(b"kept", repository="r")
    with pytest.raises(InUse):
        await store.delete(row.oid)
    assert await store.why(row.oid) == ["repos/r refers to it"]
    await store.delete(row.oid, force=True)
    assert not await store.exists(row.oid)
    with pytest.raises(NotFound):
        await store.delete(row.oid)
    assert await store.put(b"kept", repository="r") is not None


async def test_a_repository_that_was_removed_keeps_nothing_alive(store: Store) -> None:
    number = (await store.add_repository("r")).id
    row = await store.put(b"looked up")
    await store.remove_repository("r")
    store.references.add_soon(number, row.oid)  # a lookup that was under way
    await store.delete(row.oid)


async def test_a_listing_never_misses_a_reference_that_is_just_being_written_down(tmp_path: Path) -> None:
    interval = sys.getswitchinterval()
    async with open_store(tmp_path, create=True, durability="fast") as store:
        number = (await store.add_repository("r")).id
        rows = [await store.put(b"%d" % n) for n in range(60)]
        sys.setswitchinterval(1e-5)
        try:
            for row in rows:
                store.references.add_soon(number, row.oid)
                async with trio.open_nursery() as nursery:
                    stop = threading.Event()
                    nursery.start_soon(
                        trio.to_thread.run_sync, _look_until, stop, store.references, number, row.oid
                    )
                    await store.index.flush()
                    stop.set()
        finally:
            sys.setswitchinterval(interval)


def _look_until(stop: threading.Event, found: References, number: int, oid: Oid) -> None:
    while not stop.is_set():
        assert oid in found.oids(number, "")
        assert oid[:2] in found.directories(number, "")


async def test_a_repository_counts_what_it_refers_to_also_in_an_older_index(tmp_path: Path) -> None:
    async with open_store(tmp_path, create=True) as store:
        number = (await store.add_repository("r")).id
        rows = [await store.put(content, repository="r") for content in (b"1", b"2", b"3", b"3")]
        store.references.drop_soon(number, rows[0].oid)
        store.references.add_soon(number, rows[1].oid)
        await store.index.flush()
        assert store.index.view(lambda tx: references.count(tx, number)) == 2
        key = b"references\0" + number.to_bytes(4, "big")
        await store.index.update(lambda tx: tx.delete("meta", key))
    async with open_store(tmp_path, read_only=True) as store:
        assert store.index.view(lambda tx: references.count(tx, number)) == 2
    async with open_store(tmp_path) as store:
        await store.put(b"4", repository="r")
        assert store.index.view(lambda tx: tx.get("meta", key)) is not None
        assert store.index.view(lambda tx: references.count(tx, number)) == 3


async def test_an_oid_is_found_by_a_prefix_that_is_long_enough_and_its_own(store: Store) -> None:
    row = await store.put(b"found")
    assert await store.find(row.oid[:4]) == await store.find(row.oid[:9]) == row.oid
    for wrong in ("abc", "zzzz", "0" * 64):
        with pytest.raises(NotFound):
            await store.find(wrong)
    by_digit: dict[str, int] = {}
    for number in range(600):
        digits = (await store.put(b"%d" % number)).oid[:4]
        by_digit[digits] = by_digit.get(digits, 0) + 1
    twice = [digits for digits, count in by_digit.items() if count > 1]
    for digits in twice:
        with pytest.raises(Refused):
            await store.find(digits)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.builds(
        ListQuery,
        prefix=st.sampled_from(["", "a", "3", "3f", "3fb"]),
        min_size=st.none() | st.integers(0, 300),
        max_size=st.none() | st.integers(0, 300),
        content_type=st.none() | st.sampled_from(["text/plain", "text/", "application/octet-stream"]),
        repository=st.none() | st.just("r"),
        sort=st.sampled_from(["oid", "created", "accessed", "size"]),
        descending=st.booleans(),
        limit=st.sampled_from([1, 7, 1000]),
    )
)
def test_a_listing_is_what_sorting_and_filtering_by_hand_gives(
    tmp_path_factory: pytest.TempPathFactory, query: ListQuery
) -> None:
    trio.run(_compare, _prepared(tmp_path_factory), query)


_made: list[Path] = []


def _prepared(factory: pytest.TempPathFactory) -> Path:
    if not _made:
        path = factory.mktemp("listed") / "store"
        trio.run(_fill, path)
        _made.append(path)
    return _made[0]


async def _fill(path: Path) -> None:
    async with open_store(path, create=True, durability="fast") as store:
        await store.add_repository("r")
        for number in range(120):
            content = (
                b"text %d " % number * (number % 40 + 1)
                if number % 2
                else bytes([0, number]) * (number % 150 + 1)
            )
            await store.put(content, repository="r" if number % 3 == 0 else None)


async def _compare(path: Path, query: ListQuery) -> None:
    async with open_store(path) as store:
        rows = (await store.list(ListQuery())).objects
        inside = {row.oid for row in (await store.list(ListQuery(repository="r"))).objects}
        key = {
            "oid": lambda row: row.oid,
            "created": lambda row: (row.created, row.oid),
            "accessed": lambda row: (row.accessed, row.oid),
            "size": lambda row: (row.size, row.oid),
        }[query.sort]
        expected = [
            row.oid
            for row in sorted(rows, key=key, reverse=query.descending)
            if row.oid.startswith(query.prefix)
            and (query.min_size is None or row.size >= query.min_size)
            and (query.max_size is None or row.size <= query.max_size)
            and (query.content_type is None or row.content_type.startswith(query.content_type))
            and (query.repository is None or row.oid in inside)
        ]
        assert await all_pages(store, query) == expected


async def test_a_query_that_makes_no_sense_is_refused(store: Store) -> None:
    for wrong in (ListQuery(limit=0), ListQuery(prefix="XY"), ListQuery(cursor="?")):
        with pytest.raises(InvalidConfig):
            await store.list(wrong)
    with pytest.raises(NotFound):
        await store.list(ListQuery(repository="none"))


async def test_what_cannot_be_put_is_told_in_words(store: Store, tmp_path: Path) -> None:
    absent, directory = await store.put_many([tmp_path / "absent", tmp_path])
    assert isinstance(absent, NotFound)
    assert str(absent) == f"{tmp_path}/absent: No such file or directory"
    assert str(directory) == f"{tmp_path}: Is a directory"


async def test_search_finds_by_oid_and_by_type(store: Store) -> None:
    row = await store.put(b"some plain text\n")
    assert [match.stat.oid for match in await store.search(row.oid[:6])] == [row.oid]
    assert [match.stat.oid for match in await store.search("text/pl")] == [row.oid]
    assert await store.search("nothing like it") == []


async def test_what_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("dear")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "lfsfs.json").write_text(
        '{"format": 99, "id": "00000000-0000-0000-0000-000000000000"}'
    )
    for name, words in {"file": "not a directory", "full": "letter", "newer": "newer"}.items():
        with pytest.raises(StoreFormat, match=words):
            async with open_store(tmp_path / name, create=True):
                pass
    with pytest.raises(NotFound):
        async with open_store(tmp_path / "absent"):
            pass
