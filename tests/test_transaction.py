"""A transaction keeps what is written to it for a while: to whoever reads in it, nothing shows of that."""

from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from lfsfs.errors import Exists, LfsfsError
from lfsfs.store.index import Index, Tx
from lfsfs.store.transaction import KEY_LIMIT_BYTES

TABLE, OTHER = "meta", "events"
keys = st.binary(min_size=1, max_size=3)
values = st.binary(max_size=3)
changes = st.one_of(
    st.tuples(st.just("put"), keys, values),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("get"), keys),
    st.tuples(st.just("scan"), keys, st.binary(max_size=1)),
    st.tuples(st.just("back"), keys, st.binary(max_size=1)),
    st.tuples(st.just("seek"), keys),
    st.tuples(st.just("count")),
    st.tuples(st.just("many"), st.lists(keys, max_size=4)),
    st.tuples(st.just("put_many"), st.dictionaries(keys, values, max_size=4)),
)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index", durable=False)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    opened = Index(tmp_path_factory.mktemp("shared") / "index", durable=False)
    yield opened
    opened.close()


def apply(tx: Tx, model: dict[bytes, bytes], change: tuple) -> None:  # type: ignore[type-arg]
    """Does it to both, and compares what each answers."""
    match change:
        case ("put", key, value):
            tx.put(TABLE, key, value)
            model[key] = value
        case ("delete", key):
            assert tx.delete(TABLE, key) == (model.pop(key, None) is not None)
        case ("get", key):
            assert tx.get(TABLE, key) == model.get(key)
        case ("scan", start, prefix):
            expected = [(k, v) for k, v in sorted(model.items()) if k.startswith(prefix) and k >= start]
            assert list(tx.scan(TABLE, start=start, prefix=prefix)) == expected
        case ("back", before, prefix):
            below = [(k, v) for k, v in sorted(model.items(), reverse=True) if k < before]
            expected = []
            for key, value in below:  # it stops at the first key of another prefix
                if not key.startswith(prefix):
                    break
                expected.append((key, value))
            assert list(tx.scan_back(TABLE, before, prefix)) == expected
        case ("seek", start):
            assert tx.seek(TABLE, start) == min((k for k in model if k >= start), default=None)
        case ("count",):
            assert tx.count(TABLE) == len(model)
        case ("many", wanted):
            assert tx.get_many(TABLE, wanted) == {k: model[k] for k in wanted if k in model}
            assert tx.values(TABLE, wanted) == [model.get(k) for k in wanted]
        case ("put_many", rows):
            tx.put_many(TABLE, sorted(rows.items()))
            model.update(rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(changes, max_size=12), max_size=4))
async def test_reads_in_a_transaction_see_its_writes(
    shared: Index,
    transactions: list[list[tuple]],  # type: ignore[type-arg]
) -> None:
    model: dict[bytes, bytes] = {}

    def begin(tx: Tx) -> None:
        for key, _ in list(tx.scan(TABLE)):
            tx.delete(TABLE, key)

    await shared.update(begin)
    for transaction in transactions:
        before = dict(model)

        def run(tx: Tx, transaction: list = transaction, before: dict = before) -> dict:  # type: ignore[type-arg]
            seen = dict(before)  # it may run twice
            for change in transaction:
                apply(tx, seen, change)
            return seen

        model = await shared.update(run)
        assert shared.view(lambda tx: dict(tx.scan(TABLE))) == model


async def test_a_failed_update_leaves_nothing_also_among_others(index: Index) -> None:
    """The others of its transaction are committed, with what they have read of each other."""

    def count(tx: Tx) -> int:
        number = int(tx.get(TABLE, b"count") or b"0") + 1
        tx.put(TABLE, b"count", str(number).encode())
        return number

    def fail(tx: Tx) -> None:
        count(tx)
        tx.put(OTHER, b"trace", b"")
        raise Exists("on purpose")

    failures = 0

    async def failing() -> None:
        nonlocal failures
        with pytest.raises(Exists):
            await index.update(fail)
        failures += 1

    async with trio.open_nursery() as nursery:
        for turn in range(40):
            nursery.start_soon(
                failing if turn % 5 == 4 else index.update, *(() if turn % 5 == 4 else (count,))
            )
    assert failures == 8
    assert index.view(lambda tx: tx.get(TABLE, b"count")) == b"32"
    assert index.view(lambda tx: tx.get(OTHER, b"trace")) is None


async def test_a_key_that_no_row_can_have_fails_where_it_is_written(index: Index) -> None:
    for key in (b"", b"k" * (KEY_LIMIT_BYTES + 1)):

        def write(tx: Tx, key: bytes = key) -> None:
            with pytest.raises(lmdb.BadValsizeError):
                tx.put(TABLE, key, b"")

        await index.update(write)


async def test_a_large_transaction_takes_little_memory_and_loses_nothing(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfsfs.store.transaction.KEPT_ROWS", 50)

    def write(tx: Tx) -> None:
        for number in range(1_000):
            key = number.to_bytes(4, "big")
            assert tx.get(TABLE, key) is None
            tx.put(TABLE, key, b"v")
            assert tx.get(TABLE, key) == b"v"
            if number % 3 == 0:
                assert tx.delete(TABLE, key)

    await index.update(write)
    assert index.view(lambda tx: tx.count(TABLE)) == 1_000 - 334


def test_an_index_that_is_closed_says_so(tmp_path: Path) -> None:
    closed = Index(tmp_path / "index")
    closed.close()

    async def update() -> None:
        with trio.fail_after(5), pytest.raises(LfsfsError, match="closed"):
            await closed.update(lambda tx: None)

    trio.run(update)
