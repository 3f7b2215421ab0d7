"""Many small files at once are committed by a process of its own: nothing of them is lost, whatever happens to it."""

import hashlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gitlfs.mounted import Mount, is_running, lfsfs, within

from lfsfs.store.clerk import CROWD

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]
WRITERS = 4 * CROWD


def write(folder: Path, numbers: range, content: Callable[[int], bytes]) -> None:
    """Writers at once; raises what any of them gets."""

    def one(number: int) -> None:
        with (folder / f"{number}").open("wb", buffering=0) as file:
            file.write(content(number))

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(one, numbers))


def crowd(mount: Mount) -> int:
    """Has files written until there is a clerk; its process id."""
    folder = mount.path / "incoming" / "crowd"
    folder.mkdir()
    for turn in range(100):
        write(folder, range(turn * 100, turn * 100 + 100), lambda number: b"crowd %d" % number)
        found = re.search(r"process (\d+) commits small files", mount.log())
        if found is not None:
            return int(found[1])
    raise AssertionError("no clerk came")


def unique(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest() * 128


def check(mount: Mount, folder: Path, numbers: range, content: Callable[[int], bytes]) -> None:
    """Every file is there, as an object too, and the store is sound."""
    assert sorted(os.listdir(folder), key=int) == [str(number) for number in numbers]
    for number in numbers:
        expected = content(number)
        assert (folder / f"{number}").read_bytes() == expected
        oid = hashlib.sha256(expected).hexdigest()
        assert (mount.store / "objects" / oid[:2] / oid[2:4] / oid).read_bytes() == expected
    lfsfs("verify", "--store", mount.store)


@pytest.fixture(params=["sync", "fast"])
def mount(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mount]:
    with Mount(tmp_path / "m", "--durability", request.param) as mounted:
        yield mounted


def test_a_crowd_of_files_goes_through_the_clerk_and_every_file_is_what_was_written(mount: Mount) -> None:
    clerk = crowd(mount)
    before = Path(f"/proc/{clerk}/stat").read_text().rpartition(")")[2].split()[11]
    folder = mount.path / "incoming" / "folder"
    folder.mkdir()
    write(folder, range(300), unique)
    after = Path(f"/proc/{clerk}/stat").read_text().rpartition(")")[2].split()[11]
    assert int(after) > int(before), "the clerk has done nothing"
    write(folder, range(100), unique)  # the same once more: those objects are there already
    check(mount, folder, range(300), unique)
    mount.stop()
    assert not is_running(clerk)


def test_a_clerk_that_is_killed_is_missed_by_nobody(tmp_path: Path) -> None:
    with Mount(tmp_path / "m") as mount:
        clerk = crowd(mount)
        folder = mount.path / "incoming" / "folder"
        folder.mkdir()

        def kill() -> None:
            time.sleep(0.1)
            os.kill(clerk, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        write(folder, range(500), unique)
        killer.join()
        check(mount, folder, range(500), unique)


def test_what_was_closed_survives_the_kill_of_mount_and_clerk(tmp_path: Path) -> None:
    with Mount(tmp_path / "m") as mount:
        clerk = crowd(mount)
        folder = mount.path / "incoming" / "folder"
        folder.mkdir()
        closed: list[int] = []

        def one(number: int) -> None:
            with (folder / f"{number}").open("wb", buffering=0) as file:
                file.write(unique(number))
            closed.append(number)

        with ThreadPoolExecutor(WRITERS) as pool:
            going = [pool.submit(one, number) for number in range(1000)]
            while len(closed) < 200:
                time.sleep(0.001)
            os.kill(mount.pid, signal.SIGKILL)
            for future in going:
                future.exception()
        assert within(20, lambda: not is_running(clerk)), "it outlives the mount"
        subprocess.run(["umount", "-l", mount.path], check=True)
        mount.start()
        for number in closed:
            assert (folder / f"{number}").read_bytes() == unique(number)
        lfsfs("verify", "--store", mount.store)


def test_what_is_set_while_the_clerk_is_at_it_is_not_lost(tmp_path: Path) -> None:
    with Mount(tmp_path / "m") as mount:
        clerk = crowd(mount)
        file = mount.path / "incoming" / "file"
        os.kill(clerk, signal.SIGSTOP)
        writer = threading.Thread(target=file.write_bytes, args=(b"content",))
        try:
            writer.start()
            assert within(20, lambda: file.exists() and file.stat().st_size == 7)
            file.chmod(0o600)
            os.utime(file, (5, 6))
            writer.join(0.5)
            assert writer.is_alive(), "the close has not waited"
        finally:
            os.kill(clerk, signal.SIGCONT)
            writer.join()
        mount.stop()
        mount.start()
        found = file.stat()
        assert (found.st_mode & 0o777, found.st_mtime, file.read_bytes()) == (0o600, 6, b"content")
