"""Many processes at once: eight add overlapping files, four prune, one runs fsck."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .bench import KIB, Bench, Clone, OnMount, SharedRoot, Storage, oid_of, oids_in
from .mounted import Mount

pytestmark = [pytest.mark.mount, pytest.mark.slow]

ADDERS, PRUNERS, ROUNDS = 8, 4, 5
IN_THE_SHARED_ROOT = 2
FINISH_SECONDS = 200


class Adders:
    """Repositories that all add the same files, and each one of its own, in the same moment."""

    def __init__(self, clones: list[Clone], common: list[bytes], blob: Callable[[], bytes]) -> None:
        self.clones = clones
        self.files: list[dict[str, bytes]] = [{} for _ in clones]
        self._rounds = [
            [
                {f"common-{r}.bin": common[r], f"neighbour-{r}.bin": common[(r + n) % len(common)]}
                for r in range(ROUNDS)
            ]
            for n in range(len(clones))
        ]
        for mine in self._rounds:
            for r, files in enumerate(mine):
                files[f"own-{r}.bin"] = blob()
        self._start = threading.Barrier(len(clones))

    def run(self, n: int) -> None:
        try:
            for files in self._rounds[n]:
                self._start.wait(FINISH_SECONDS)
                self.clones[n].commit(files)
                self.files[n] |= files
        except BaseException:
            self._start.abort()
            raise


def prune_until(done: threading.Event, clone: Clone) -> int:
    """Refers to old objects by checking them out, and prunes them again; how often."""
    times = 0
    while not done.is_set():
        clone.git("checkout", "-q", "HEAD~2")
        clone.git("checkout", "-q", "main")
        clone.git("lfs", "prune")
        times += 1
    return times


def fsck_until(done: threading.Event, clone: Clone) -> int:
    times = 0
    while not done.is_set():
        assert "OK" in clone.git("lfs", "fsck")
        times += 1
    return times


def pruner(bench: Bench, name: str, common: list[bytes]) -> Clone:
    """A repository with every common object in its pushed history: prune takes all but the last."""
    clone = bench.init(name, remote=bench.remote("file", name))
    for content in common:
        clone.commit({"a.bin": content})
    clone.git("push", "-q", "-u", "origin", "main")
    return clone


@pytest.mark.promise("6.2")
@pytest.mark.timeout(FINISH_SECONDS + 60)
def test_eight_adding_four_pruning_one_checking_lose_nothing_and_keep_one_copy(
    new_bench: Callable[[Storage], Bench], own_mount: Mount
) -> None:
    bench, shared = new_bench(OnMount(own_mount)), SharedRoot(own_mount)
    common = [bench.blob(300 * KIB + n) for n in range(ROUNDS)]
    storages = [shared if n < IN_THE_SHARED_ROOT else bench.storage for n in range(ADDERS)]
    clones = [bench.init(f"adder-{n}", storage=storage) for n, storage in enumerate(storages)]
    adders = Adders(clones, common, lambda: bench.blob(70 * KIB))
    pruners = [pruner(bench, f"pruner-{n}", common) for n in range(PRUNERS)]
    checker = bench.init("checker")
    checked = {f"{n}.bin": content for n, content in enumerate(common)}
    checker.commit(checked)

    done = threading.Event()
    with ThreadPoolExecutor(ADDERS + PRUNERS + 1) as pool:
        around = [pool.submit(prune_until, done, clone) for clone in pruners]
        around.append(pool.submit(fsck_until, done, checker))
        adding = [pool.submit(adders.run, n) for n in range(ADDERS)]
        try:
            for future in adding:
                future.result(FINISH_SECONDS)
        finally:
            done.set()
        assert all(future.result(FINISH_SECONDS) for future in around), "one of them never had its turn"

    everything = set(map(oid_of, common))
    for clone, files in zip(adders.clones, adders.files, strict=True):
        everything |= set(map(oid_of, files.values()))
        assert_whole(clone, files)
    assert_whole(checker, checked)
    for clone in pruners:
        assert_whole(clone, {"a.bin": common[-1]})
    assert_one_copy_each(own_mount, everything)

    own_mount.stop()
    assert files_below(own_mount.store / "staging") == []
    own_mount.start()
    for clone, files in zip(adders.clones, adders.files, strict=True):
        assert_whole(clone, files)


def assert_whole(clone: Clone, files: dict[str, bytes]) -> None:
    """Every file checks out afresh, and fsck and status have nothing to say."""
    for name in files:
        (clone.path / name).unlink()
    clone.git("checkout", "--", ".")
    assert {name: clone.read(name) for name in files} == files
    assert clone.status() == ""
    assert "OK" in clone.git("lfs", "fsck")
    assert clone.left_in("bad") == []


def assert_one_copy_each(mount: Mount, oids: set[str]) -> None:
    """One file for each object in the store, whole, and nothing else."""
    objects = mount.store / "objects"
    paths = files_below(objects)
    assert len(paths) == len(oids)
    assert oids_in(objects) == oids
    for path in paths:
        assert oid_of(path.read_bytes()) == path.name
    assert {path.name for path in files_below(mount.store / "staging")} <= {"lock"}, "that of the daemon"


def files_below(folder: Path) -> list[Path]:
    return [Path(where, name) for where, _, names in os.walk(folder) for name in names]
