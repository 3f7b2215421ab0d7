"""The group metadata of scripts/bench: names and sizes of many objects, and what a store costs that has a million.

The native side of a stat or an ls is the disk itself: the store's own files, or as many empty files in one directory.
Cold: the kernel has nothing of the disk or of the mount in its caches (only root may have it so). The large stores have
a file for each object, as always; they are made many to a transaction, and live as long as the run.
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import trio
from bench import Point, Row
from bench_ground import KIB, LFSFS, Ground, drop_caches, may_drop_caches, run, timed
from endurance import commit

NAMES = 100_000
FEW = 1_000
STORES = (10_000, 100_000, 1_000_000)
COMMITS = 300
PLOT = "cost by store size"
NATIVE = "the disk itself"


class Stores:
    """Stores of so many objects, each made when it is first wanted."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._made: dict[int, Path] = {}

    def of(self, count: int) -> Path:
        if count not in self._made:
            self._made[count] = self.ground.fresh(f"store-of-{count}")
            trio.run(commit, self._made[count], count)
        return self._made[count]


# Names and attributes.


class Names:
    """The objects of a store, as the mount shows them and as they lie on the disk, in an order of chance."""

    def __init__(self, stores: Stores, count: int) -> None:
        self._stores = stores
        self._count = count

    @cached_property
    def paths(self) -> list[str]:
        store = self._stores.of(self._count)
        found = [
            os.path.relpath(path, store) for path in (store / "objects").rglob("*") if len(path.name) == 64
        ]
        random.Random(self._count).shuffle(found)
        return found

    def rows(self) -> list[Row]:
        name = f"stat of {self._count:,} objects"
        cold = Row(f"{name}, cold", "s", lambda _: self._ours(warm=False), lambda _: self._native(warm=False),
                   NATIVE, ("<=", 3))  # fmt: skip
        warm = Row(f"{name}, warm", "s", lambda _: self._ours(warm=True), lambda _: self._native(warm=True),
                   NATIVE, ("<=", 1.2))  # fmt: skip
        return [cold, warm] if may_drop_caches() else [warm]

    def _ours(self, *, warm: bool) -> float:
        paths = self.paths
        with self._stores.ground.mounted(store=self._stores.of(self._count)) as (_, mountpoint):
            return self._looked_at(mountpoint, paths, warm=warm)

    def _native(self, *, warm: bool) -> float:
        paths = self.paths
        return self._looked_at(self._stores.of(self._count), paths, warm=warm)

    def _looked_at(self, folder: Path, paths: list[str], *, warm: bool) -> float:
        def look() -> None:
            descriptor = os.open(folder, os.O_RDONLY)
            for path in paths:
                os.stat(path, dir_fd=descriptor)
            os.close(descriptor)

        if warm:
            look()
        else:
            drop_caches()
        return timed(look)


def listings(ground: Ground) -> list[Row]:
    """One directory of incoming/, and one of the disk, of as many files."""
    count = ground.count(NAMES)
    made: list[tuple[Path, Path]] = []

    def folders() -> tuple[Path, Path]:
        """The store whose incoming/many has the files, and the native directory."""
        if not made:
            native, store = ground.fresh("many"), ground.fresh("store")
            native.mkdir()
            for number in range(count):
                (native / f"{number:07}").touch()
            with ground.mounted("--durability", "fast", store=store) as (_, mountpoint):
                run("cp", "-r", native, mountpoint / "incoming" / "many")
            made.append((store, native))
        return made[0]

    def ours(options: tuple[str, ...], number: int) -> float:
        with ground.mounted(store=folders()[0]) as (_, mountpoint):
            return listed(mountpoint / "incoming" / "many", options)

    def native(options: tuple[str, ...], number: int) -> float:
        return listed(folders()[1], options)

    def listed(folder: Path, options: tuple[str, ...]) -> float:
        run("ls", folder)
        return timed(lambda: run("ls", *options, folder))

    name = f"of a directory of {count:,}, the second time"
    return [
        Row(f"ls {name}", "s", partial(ours, ()), partial(native, ()), NATIVE, ("<=", 3)),
        Row(f"ls -l {name}", "s", partial(ours, ("-l",)), partial(native, ("-l",)), NATIVE),
    ]


# The size of the store.


def mounting(stores: Stores, count: int, bar: tuple[str, float] | None) -> Row:
    def both(count: int, number: int) -> float:
        store, mountpoint = stores.of(count), stores.ground.fresh("mnt")

        def cycle() -> None:
            run(LFSFS, "mount", store, mountpoint, "--scrub-rate", "off")
            run(LFSFS, "unmount", mountpoint)

        seconds = timed(cycle)
        mountpoint.rmdir()
        return seconds

    return Row(
        f"mount and unmount with {count:,} objects", "s", partial(both, count), partial(both, FEW),
        f"with {FEW:,}", bar, point=Point(PLOT, count, "mount and unmount"),
    )  # fmt: skip


def committing(stores: Stores, count: int, durability: str, bar: tuple[str, float] | None) -> Row:
    """New files of 4 KiB, one after another: from open(2) to the end of close(2)."""

    def each(count: int, number: int) -> float:
        with stores.ground.mounted("--durability", durability, store=stores.of(count)) as (_, mountpoint):
            folder = mountpoint / "incoming" / "new"
            folder.mkdir(exist_ok=True)
            contents = [os.urandom(4 * KIB) for _ in range(COMMITS)]

            def write() -> None:
                for at, content in enumerate(contents):
                    (folder / f"{at}").write_bytes(content)

            milliseconds = 1000 * timed(write) / COMMITS
            shutil.rmtree(folder)
            return milliseconds

    return Row(
        f"a commit with {count:,} objects, {durability}", "ms", partial(each, count), partial(each, FEW),
        f"with {FEW:,}", bar, point=Point(PLOT, count, f"commit, {durability}"),
    )  # fmt: skip


@contextmanager
def group(folder: Path, scale: float) -> Iterator[tuple[list[Row], list[str]]]:
    ground = Ground(folder, scale)
    stores = Stores(ground)
    rows = [*Names(stores, ground.count(NAMES)).rows(), *listings(ground)]
    for full in STORES:
        count, largest = ground.count(full), full == STORES[-1]
        rows.append(mounting(stores, count, ("<=", 1.5) if largest else None))
        rows += [
            committing(stores, count, kind, ("<=", 1.3) if largest else None) for kind in ("fast", "sync")
        ]
    yield rows, notes()


def notes() -> list[str]:
    cold = "Cold: after a write to /proc/sys/vm/drop_caches, which empties the caches of the whole machine."
    return [cold if may_drop_caches() else "The cold rows need root: only it may empty the kernel's caches."]
