"""The group read of scripts/bench: an object of the mount, beside the same bytes in a file of the same disk.

Warm: read once before by the same way, so that the kernel has the pages of the mount's file. Cold: no page of it is in
the cache, neither of the mount's file nor of the object's below it (posix_fadvise, once all is on the disk); the native
file likewise. The disk's own cache, and a host's, are beyond reach: both sides have them.
"""

import hashlib
import mmap
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from bench import Row
from bench_ground import GIB, KIB, LFSFS, MIB, Ground, forget_pages, object_in, run, timed, together

PAGE = 4 * KIB
RANDOM_READS = 200_000
VERIFY_OBJECTS = 8


class Sides:
    """One object, as the mount shows it, and a native copy."""

    def __init__(self, ground: Ground, store: Path, mountpoint: Path) -> None:
        self._ground = ground
        self._store = store
        self._mountpoint = mountpoint
        self.size = ground.bytes(GIB)

    @cached_property
    def native(self) -> Path:
        path = self._ground.fresh("native")
        self._ground.noise(self.size).rename(path)
        return path

    @cached_property
    def oid(self) -> str:
        run("cp", self.native, self._mountpoint / "incoming" / "file")
        with self.native.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def ours(self) -> Path:
        return object_in(self._mountpoint, self.oid)

    def below(self) -> Path:
        """The object's file in the store."""
        return object_in(self._store, self.oid)

    def forget(self) -> None:
        forget_pages(self.below(), self.ours, self.below(), self.native)


def read_all(path: Path) -> None:
    buffer = bytearray(MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def read_at_random(path: Path) -> None:
    """Each of a page, into the same memory: as little of Python as can be."""
    offsets, buffers = _offsets(path), [bytearray(PAGE)]
    descriptor = os.open(path, os.O_RDONLY)
    for offset in offsets:
        os.preadv(descriptor, buffers, offset)
    os.close(descriptor)


def touch_at_random(path: Path) -> None:
    """A byte of each page, through a mapping that is new."""
    pages = np.array(_offsets(path))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)
        seen = np.frombuffer(mapped, np.uint8)
        int(seen[pages].sum())
        del seen


def _offsets(path: Path) -> list[int]:
    pages = path.stat().st_size // PAGE
    chosen = random.Random(pages)
    return [PAGE * chosen.randrange(pages) for _ in range(RANDOM_READS)]


def sequential(sides: Sides) -> list[Row]:
    def rate(path: Path) -> float:
        return sides.size / MIB / timed(partial(read_all, path))

    def warm(path: Path) -> float:
        read_all(path)
        return rate(path)

    def cold(path: Path) -> float:
        sides.forget()
        return rate(path)

    name = f"sequential read of {sides.size // MIB:,} MiB"
    return [
        Row(f"warm {name}", "MiB/s", lambda _: warm(sides.ours), lambda _: warm(sides.native),
            "the file on the disk", (">=", 0.95)),
        Row(f"cold {name}", "MiB/s", lambda _: cold(sides.ours), lambda _: cold(sides.native),
            "the file on the disk", (">=", 0.8)),
    ]  # fmt: skip


def at_random(sides: Sides) -> list[Row]:
    def preads(path: Path) -> float:
        read_all(path)
        return RANDOM_READS / timed(partial(read_at_random, path))

    def touches(path: Path) -> float:
        read_all(path)
        return RANDOM_READS / timed(partial(touch_at_random, path))

    return [
        Row("random reads of 4 KiB, warm", "reads/s", lambda _: preads(sides.ours), lambda _: preads(sides.native),
            "the file on the disk", (">=", 0.9)),
        Row("random pages of a mapping, warm", "pages/s", lambda _: touches(sides.ours),
            lambda _: touches(sides.native), "the file on the disk", (">=", 0.9)),
    ]  # fmt: skip


def verifying(ground: Ground) -> Row:
    """A store of its own, from the disk, as verify always reads. openssl reads the same files, in as many processes."""
    size = ground.bytes(4 * GIB) // VERIFY_OBJECTS
    made: list[Path] = []
    processes = os.cpu_count() or 1

    def objects() -> list[Path]:
        if not made:
            made.append(ground.fresh("verified"))
            with ground.mounted("--durability", "fast", store=made[0]) as (_, mountpoint):
                for number in range(VERIFY_OBJECTS):
                    run("cp", ground.noise(size), mountpoint / "incoming" / f"{number}")
        found = [path for path in (made[0] / "objects").rglob("*") if path.is_file()]
        forget_pages(*found)
        return found

    def ours(number: int) -> float:
        paths = objects()
        command = ("verify", "--parallel", f"{processes}", "--store", made[0])
        return len(paths) * size / MIB / timed(lambda: run(LFSFS, *command))

    def theirs(number: int) -> float:
        paths = objects()
        commands: list[list[str | Path]] = [
            ["openssl", "dgst", "-sha256", *paths[part::processes]] for part in range(processes)
        ]
        return len(paths) * size / MIB / timed(lambda: together(*commands))

    return Row(
        f"lfsfs verify of {VERIFY_OBJECTS * size // MIB:,} MiB, {processes} threads", "MiB/s", ours, theirs,
        f"openssl dgst -sha256, {processes} at once", (">=", 0.9),
    )  # fmt: skip


@contextmanager
def group(folder: Path, scale: float) -> Iterator[tuple[list[Row], list[str]]]:
    ground = Ground(folder, scale)
    with ground.mounted() as (store, mountpoint):
        sides = Sides(ground, store, mountpoint)
        yield [*sequential(sides), *at_random(sides), verifying(ground)], notes()


def notes() -> list[str]:
    return [
        "Warm: read once before, the same way. Cold: posix_fadvise(DONTNEED) of the mount's file, of the object's file"
        " below it and of the native one, all of them on the disk before."
    ]
