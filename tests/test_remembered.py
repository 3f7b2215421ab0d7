"""A directory that did not change is listed from the kernel's memory, and one that did is listed as it is."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from gitlfs.mounted import Mount

import lfsfs
from lfsfs.mount.listing import Listing
from lfsfs.mount.remembered import Remembered

pytestmark = [pytest.mark.mount, pytest.mark.timeout(60)]
COUNT = 200


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with Mount(tmp_path, "--durability", "fast") as mount:
        (mount.path / "incoming" / "many").mkdir()
        (mount.path / "incoming" / "other").mkdir()
        for number in range(COUNT):
            (mount.path / "incoming" / "many" / f"{number:03}").touch()
        yield mount


def _reads(mount: Mount) -> int:
    text = (mount.path / ".lfsfs" / "metrics").read_text()
    found = re.findall(r'lfsfs_operation_seconds_count\{operation="readdir(?:plus)?"\} (\d+)', text)
    return sum(map(int, found))


def test_to_list_again_what_did_not_change_asks_for_no_names(mount: Mount) -> None:
    folder = mount.path / "incoming" / "many"
    assert len(os.listdir(folder)) == COUNT
    before = _reads(mount)
    for _ in range(100):
        assert len(os.listdir(folder)) == COUNT
    assert _reads(mount) - before < 10, "of some hundreds, one in eleven is counted"


def _unlink_open(folder: Path) -> None:
    with (folder / "open").open("wb"):
        assert "open" in os.listdir(folder)
        (folder / "open").unlink()


@pytest.mark.promise("6.6")
def test_whatever_changes_a_directory_its_list_is_right_afterwards(mount: Mount) -> None:
    folder, other = mount.path / "incoming" / "many", mount.path / "incoming" / "other"
    changes: list[tuple[Callable[[], object], set[str], set[str]]] = [
        (lambda: (folder / "a").write_bytes(b"bytes"), {"a"}, set()),
        (lambda: (folder / "b").mkdir(), {"b"}, set()),
        (lambda: (folder / "c").symlink_to("000"), {"c"}, set()),
        (lambda: (folder / "d").hardlink_to(folder / "a"), {"d"}, set()),
        (lambda: (folder / "000").rename(folder / "e"), {"e"}, {"000"}),
        (lambda: (folder / "e").rename(folder / "a"), set(), {"e"}),
        (lambda: (folder / "001").rename(other / "f"), set(), {"001"}),
        (lambda: (other / "f").rename(folder / "f"), {"f"}, set()),
        (lambda: (folder / "002").unlink(), set(), {"002"}),
        (lambda: (folder / "b").rmdir(), set(), {"b"}),
        (lambda: _unlink_open(folder), set(), set()),
        (lambda: os.utime(folder, (1, 1)), set(), set()),
    ]
    for change, new, gone in changes:
        before = set(os.listdir(folder))
        assert set(os.listdir(folder)) == before
        change()
        assert set(os.listdir(folder)) == (before | new) - gone


@pytest.mark.promise("6.6")
def test_what_another_process_puts_there_and_takes_away_is_listed_so_at_once(mount: Mount) -> None:
    folder = mount.path / "incoming" / "many"

    async def elsewhere() -> None:
        async with lfsfs.open_store(mount.store) as store:
            for number in range(5):
                before = set(await trio.to_thread.run_sync(os.listdir, folder))
                async with store.incoming.create_upload(f"many/new-{number}") as upload:
                    await upload.write(b"by another process")
                    await upload.finalize()
                names = await trio.to_thread.run_sync(os.listdir, folder)
                assert set(names) == before | {f"new-{number}"}
                await store.incoming.remove("many/007" if number == 0 else f"many/new-{number - 1}")
                names = await trio.to_thread.run_sync(os.listdir, folder)
                gone = {"007"} if number == 0 else {f"new-{number - 1}"}
                assert set(names) == before - gone | {f"new-{number}"}

    trio.run(elsewhere)


def test_who_was_in_the_middle_when_it_changed_spoils_nobody_s_list(mount: Mount) -> None:
    folder = mount.path / "incoming" / "many"
    for number in range(10):
        with os.scandir(folder) as slow:
            next(slow)
            (folder / f"late-{number}").write_bytes(b"")
            with os.scandir(folder) as other:
                next(other)
                (folder / f"later-{number}").write_bytes(b"")
                list(slow)
                list(other)
        for _ in range(2):
            names = os.listdir(folder)
            assert {f"late-{number}", f"later-{number}"} <= set(names)
            assert len(names) == len(set(names)) == COUNT + 2 * (number + 1)


def test_two_who_read_different_versions_leave_nothing_that_the_kernel_may_use() -> None:
    remembered, node = Remembered(), object()
    first, second, third, fourth, fifth = (Listing(node) for _ in range(5))  # type: ignore[arg-type]
    assert not remembered.opened(first, 1)
    assert remembered.opened(second, 1)
    assert not remembered.opened(third, 2)
    assert third.version is None
    remembered.closed(first)
    remembered.closed(second)
    remembered.closed(third)
    assert not remembered.opened(fourth, 2), "what the others read is of no version"
    remembered.closed(fourth)
    assert remembered.opened(fifth, 2)
