"""Very many names: listed page by page, a few bytes each to the daemon; and at some point the kernel forgets them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from gitlfs.mounted import Mount, is_mounted, within

import lfsfs

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]
COUNT = 20_000
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]
BYTES_EACH = 450  # a node takes 1,400
LIMITED = """
import sys
from lfsfs.mount import table
table.KNOWN_LIMIT, table.AWAKE_LIMIT = 1_000, 100
from lfsfs.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def names(count: int) -> list[str]:
    return [f"{number:064x}" for number in range(count)]


def fill(store: Path, count: int, collection: str = "default") -> Matrix:
    matrix = np.random.default_rng(3).random((count, 4), dtype=np.float32)
    with lfsfs.connect(store, create=not store.exists(), durability="fast") as client:
        client.embeddings.collection(collection).write_embeddings_batch((names(count), matrix))
    return matrix


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with Mount(tmp_path_factory.mktemp("names")) as mount:
        yield mount


def resident(pid: int) -> int:
    """The process's own memory in bytes, without the pages of files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def inodes(folder: Path, most: int | None = None) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.inode() for entry in islice(entries, most)}


def nodes(mountpoint: Path) -> int:
    return int(json.loads((mountpoint / ".lfsfs" / "status").read_text())["nodes"])


@pytest.mark.slow
def test_a_listing_of_very_many_costs_the_daemon_little_memory(tmp_path: Path) -> None:
    fill(tmp_path / "store", COUNT)
    with Mount(tmp_path, executed=True) as mount:
        folder = mount.path / "embeddings" / "default"
        inodes(folder, 3_000)
        before = resident(mount.pid)
        numbers = inodes(folder)
        assert sorted(numbers)[:COUNT] == [f"{name}.npz" for name in names(COUNT)]
        assert len(numbers) == COUNT + 2
        assert nodes(mount.path) > COUNT, "the kernel knows them all"
        assert (resident(mount.pid) - before) / COUNT < BYTES_EACH
        for name in names(COUNT)[:: COUNT // 50]:
            assert (folder / f"{name}.npz").stat().st_ino == numbers[f"{name}.npz"]
        mount.stop()
        mount.start()
        assert (folder / f"{names(COUNT)[7]}.npz").stat().st_ino == numbers[f"{names(COUNT)[7]}.npz"]


@contextmanager
def limited(store: Path, mountpoint: Path) -> Iterator[None]:
    """A mount whose daemon remembers 1,000 names, 100 of them as nodes."""
    mountpoint.mkdir()
    command = [sys.executable, "-c", LIMITED, "mount", "--foreground", store, mountpoint]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            assert within(30, lambda: is_mounted(mountpoint) and (mountpoint / ".lfsfs" / "status").exists())
            yield
        finally:
            subprocess.run(["fusermount3", "-u", mountpoint], check=True)
            daemon.wait(30)
    assert daemon.returncode == 0


@pytest.mark.slow
def test_the_kernel_forgets_what_is_too_much_and_finds_it_again(tmp_path: Path) -> None:
    matrix = fill(tmp_path / "store", 3_000)
    mountpoint = tmp_path / "mnt"
    with limited(tmp_path / "store", mountpoint):
        folder = mountpoint / "embeddings" / "default"
        before = inodes(folder)
        with (folder / f"{names(3_000)[0]}.npz").open("rb") as opened:
            assert within(20, lambda: nodes(mountpoint) < 1_300)
            assert np.array_equal(np.load(opened)["vector"], matrix[0]), "what is open stays"
        for number in range(0, 3_000, 10):  # three times as many as may be nodes, in turns
            path = folder / f"{names(3_000)[number]}.npz"
            assert np.array_equal(np.load(path)["vector"], matrix[number])
            assert path.stat().st_ino == before[path.name]
        assert len(os.listdir(folder)) == 3_002


def test_what_was_only_listed_shows_when_another_process_replaces_or_deletes_it(mount: Mount) -> None:
    matrix = fill(mount.store, 3_000, "changing")
    folder = mount.path / "embeddings" / "changing"
    with lfsfs.connect(mount.store) as client:
        collection = client.embeddings.collection("changing")
        times = {name: (folder / name).stat().st_mtime_ns for name in os.listdir(folder)}
        one, other, *many = names(3_000)
        read = folder / f"{many[0]}.npz"
        assert np.array_equal(np.load(read)["vector"], matrix[2])
        collection.write_embedding(one, matrix[1], replace=True)
        collection.delete(other)
        assert within(3, lambda: (folder / f"{one}.npz").stat().st_mtime_ns > times[f"{one}.npz"])
        assert within(3, lambda: not (folder / f"{other}.npz").exists())
        assert np.array_equal(np.load(folder / f"{one}.npz")["vector"], matrix[1])
        # more at once than are told one by one
        collection.write_embeddings_batch((many[:2_000], matrix[:2_000] + 1), replace=True)
        collection.delete(many[2_000:])
        for name in many[:2_000:100]:
            assert within(
                3, lambda name=name: (folder / f"{name}.npz").stat().st_mtime_ns > times[f"{name}.npz"]
            )  # type: ignore[misc]
        assert within(3, lambda: not (folder / f"{many[-1]}.npz").exists())
        assert np.array_equal(np.load(read)["vector"], matrix[0] + 1)


def test_a_collection_that_another_process_removes_is_gone(mount: Mount) -> None:
    fill(mount.store, 10, "going")
    folder = mount.path / "embeddings" / "going"
    assert len(os.listdir(folder)) == 12
    with lfsfs.connect(mount.store) as client:
        client.embeddings.remove("going")
    assert within(3, lambda: not folder.exists())


def test_a_directory_that_is_being_listed_may_change(mount: Mount) -> None:
    """What was there all the time is listed once, whatever comes and goes beside it."""
    fill(mount.store, 9_000, "listed")
    with lfsfs.connect(mount.store, durability="fast") as client:
        collection = client.embeddings.collection("listed")
        found: list[str] = []
        with os.scandir(mount.path / "embeddings" / "listed") as entries:
            for number, entry in enumerate(entries):
                found.append(entry.name)
                if number == 4_100:
                    gone = names(9_000)[::2]
                    collection.delete(gone)
                    new = {f"{at:060x}ffff": np.zeros(4, np.float32) for at in range(300)}
                    collection.write_embeddings_batch(new)
                    time.sleep(0.5)
        assert len(found) == len(set(found))
        assert {f"{name}.npz" for name in names(9_000)[1::2]} <= set(found)
