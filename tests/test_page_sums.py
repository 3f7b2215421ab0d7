"""A bit of the index file that flips while nobody has it open is put right; what cannot be is damage, and said to be."""

import os
import random
import shutil
import signal
from pathlib import Path

import forking
import pytest
import trio

from lfsfs.errors import StoreFormat
from lfsfs.integrity import index_pages
from lfsfs.store import page_sums
from lfsfs.store.free_pages import free_pages
from lfsfs.store.index import Index, Tx
from lfsfs.store.page_sums import PAGE_BYTES, SUMS_FILE

ROWS = 400


def fill(tx: Tx) -> None:
    tx.put_many("meta", [(b"%06d" % number, b"%06d" % number * 20) for number in range(ROWS)])


def rows(index: Index) -> list[tuple[bytes, bytes]]:
    return index.view(lambda tx: list(tx.scan("meta")))


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """An index with rows, and pages that are free."""
    index = Index(tmp_path / "index")
    await index.update(fill)
    await index.update(lambda tx: [tx.delete("meta", b"%06d" % at) for at in range(200)])
    index.close()
    return tmp_path / "index"


def flip(path: Path, bit: int) -> None:
    with (path / "data.mdb").open("r+b") as file:
        byte = os.pread(file.fileno(), 1, bit // 8)[0] ^ 1 << bit % 8
        os.pwrite(file.fileno(), bytes([byte]), bit // 8)


def pages_in_use(path: Path) -> list[int]:
    with (path / "data.mdb").open("rb") as file:
        sums = page_sums._read(path / "data.mdb")
        assert sums is not None
        free = free_pages(lambda at, n: os.pread(file.fileno(), n, at), sums.transaction, PAGE_BYTES)
    return [number for number in range(sums.size // PAGE_BYTES) if number not in free]


@pytest.mark.promise("9.10")
@pytest.mark.parametrize("read_only", [False, True])
async def test_any_bit_of_the_index_that_flips_is_put_right(path: Path, read_only: bool) -> None:
    whole = (path / "data.mdb").read_bytes()
    expected = [(b"%06d" % number, b"%06d" % number * 20) for number in range(200, ROWS)]
    chosen = random.Random(6)
    head = [*range(0, 8 * 150, 5)]  # of the two pages that LMDB begins with, every fifth bit of what it reads
    bits = [page * PAGE_BYTES * 8 + chosen.choice(head) for page in pages_in_use(path)]
    bits += [*head[::20], *(PAGE_BYTES * 8 + bit for bit in head[::20])]
    for bit in bits:
        flip(path, bit)
        index = Index(path, read_only=read_only)
        assert [row for row in rows(index) if row[0].isdigit()] == expected
        index.close()
        assert (path / "data.mdb").read_bytes() == whole


async def test_two_bits_of_a_page_in_use_are_damage_and_said_to_be(path: Path) -> None:
    for page in pages_in_use(path)[2:]:
        before = (path / "data.mdb").read_bytes()
        flip(path, page * PAGE_BYTES * 8 + 130)
        flip(path, page * PAGE_BYTES * 8 + 4000)
        with pytest.raises(StoreFormat, match="damaged"):
            Index(path)
        (path / "data.mdb").write_bytes(before)


async def test_what_lies_in_free_pages_does_not_matter(path: Path) -> None:
    used = pages_in_use(path)
    free = [number for number in range(max(used)) if number not in used]
    assert len(free) > 4
    with (path / "data.mdb").open("r+b") as file:
        for number in free:
            os.pwrite(file.fileno(), b"\xff" * 99, number * PAGE_BYTES)
    index = Index(path)
    assert len([row for row in rows(index) if row[0].isdigit()]) == 200
    index.close()


async def test_sums_that_are_damaged_count_for_nothing(path: Path) -> None:
    sums = (path / SUMS_FILE).read_bytes()
    for at in range(0, len(sums), 37):
        (path / SUMS_FILE).write_bytes(sums[:at] + bytes([sums[at] ^ 4]) + sums[at + 1 :])
        Index(path).close()


async def test_sums_that_are_older_than_the_index_count_for_nothing(path: Path, tmp_path: Path) -> None:
    shutil.copy(path / SUMS_FILE, tmp_path)
    for _ in range(2):
        index = Index(path)
        await index.update(fill)
        index.close()
        shutil.copy(tmp_path / SUMS_FILE, path)
        index = Index(path)
        assert len([row for row in rows(index) if row[0].isdigit()]) == ROWS
        index.close()


def commit_and_die(path: str) -> None:
    async def commit() -> None:
        await Index(Path(path)).update(lambda tx: tx.put("meta", b"last", b"one"))
        os.kill(os.getpid(), signal.SIGKILL)

    trio.run(commit)


async def test_a_process_that_is_killed_after_a_commit_leaves_no_sums(path: Path) -> None:
    status, _, said = forking.run("test_page_sums:commit_and_die", path, seconds=60)
    assert status == -signal.SIGKILL, said
    assert not (path / SUMS_FILE).exists()
    index = Index(path)
    assert index.view(lambda tx: tx.get("meta", b"last")) == b"one"
    index.close()
    assert (path / SUMS_FILE).exists()


async def test_every_commit_takes_the_sums_away_that_another_process_has_left_meanwhile(path: Path) -> None:
    index = Index(path)
    for _ in range(2):
        (path / SUMS_FILE).write_bytes(b"another's")
        await index.update(fill)
        assert not (path / SUMS_FILE).exists()
    index.close()


async def test_a_large_index_is_not_summed_by_who_had_it_open_for_a_moment(path: Path) -> None:
    data = path / "data.mdb"
    page_sums.take_away(data)
    os.truncate(data, page_sums.CHEAP_BYTES + PAGE_BYTES)
    page_sums.leave(data, 0.5)
    assert not (path / SUMS_FILE).exists()
    page_sums.leave(data, 10)
    assert (path / SUMS_FILE).exists()


@pytest.mark.promise("9.10")
async def test_a_bit_that_flips_under_an_open_index_is_put_right_while_nobody_commits(path: Path) -> None:
    index = Index(path)
    await index.update(lambda tx: tx.put("meta", b"last", b"one"))
    expected = rows(index)
    index.look_over()
    whole = (path / "data.mdb").read_bytes()
    chosen = random.Random(7)
    for page in chosen.sample(pages_in_use(path), 4):
        flip(path, page * PAGE_BYTES * 8 + chosen.randrange(PAGE_BYTES * 8 if page > 1 else 8 * 150))
        index.look_over()
        assert (path / "data.mdb").read_bytes() == whole
        assert rows(index) == expected
    await index.update(lambda tx: tx.put("meta", b"last", b"two"))
    assert not (path / SUMS_FILE).exists()
    index.look_over()
    assert (path / SUMS_FILE).exists()
    assert index.view(lambda tx: tx.get("meta", b"last")) == b"two"
    index.close()


@pytest.mark.promise("9.10")
async def test_what_cannot_be_put_right_under_an_open_index_is_said(path: Path) -> None:
    index = Index(path)
    page = pages_in_use(path)[-1]
    before = (path / "data.mdb").read_bytes()
    for at in (130, 4000):
        flip(path, page * PAGE_BYTES * 8 + at)
    with pytest.raises(StoreFormat, match="damaged"):
        index.look_over()
    (path / "data.mdb").write_bytes(before)
    index.close()


async def test_a_commit_that_comes_while_sums_are_taken_makes_them_count_for_nothing(path: Path) -> None:
    index = Index(path)
    await index.update(fill)
    taken = page_sums.take(path / "data.mdb")
    await index.update(lambda tx: tx.put("meta", b"last", b"one"))
    assert taken is not None and not page_sums.are_of_now(path / "data.mdb", taken)
    index.close()


@pytest.mark.promise("9.10")
async def test_a_daemon_looks_its_index_over_once_nothing_was_committed_for_a_while(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = Index(path)
    await index.update(fill)
    whole = (path / "data.mdb").read_bytes()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(index_pages.watch, index, 0.02)
            while not (path / SUMS_FILE).exists():
                await trio.sleep(0.02)
            flip(path, pages_in_use(path)[-1] * PAGE_BYTES * 8 + 777)
            while "put right" not in caplog.text:
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    assert (path / "data.mdb").read_bytes() == whole
    index.close()
