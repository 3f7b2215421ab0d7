"""What the groups of scripts/bench stand on: files of noise, mounts, clocks, and the page cache warm or cold."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LFSFS = Path(sys.executable).with_name("lfsfs")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PATIENCE_SECONDS = 20.0


class Ground:
    """A folder on the disk that all sides share. `scale`: how much of what a bar is set for."""

    def __init__(self, folder: Path, scale: float) -> None:
        self.folder = folder
        self.scale = scale
        self._numbers = itertools.count(1)
        self._noises: dict[int, Path] = {}

    def bytes(self, full: int) -> int:
        """Scaled, in whole MiB; at least eight of them."""
        return max(8, int(full * self.scale) // MIB) * MIB

    def count(self, full: int) -> int:
        """Scaled; at least a hundred."""
        return max(100, int(full * self.scale))

    def fresh(self, what: str) -> Path:
        return self.folder / f"{what}-{next(self._numbers)}"

    def noise(self, size: int) -> Path:
        """A file whose bytes nobody has seen, on the disk and in the page cache. The next of this size replaces it."""
        path = self._noises.get(size)
        if path is None:
            path = self._noises[size] = self.fresh("noise")
            write_noise(path, size)
        with path.open("r+b", buffering=0) as file:
            file.write(os.urandom(16))
            os.fsync(file.fileno())
        return path

    def small_files(self, count: int, size: int = 4 * KIB) -> Path:
        """A folder of so many files that nobody has seen."""
        folder = self.fresh("small")
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:06}.bin").write_bytes(os.urandom(size))
        return folder

    @contextmanager
    def mounted(self, *options: str, store: Path | None = None) -> Iterator[tuple[Path, Path]]:
        """A store and its mountpoint. A store that was not given is new, and goes with the block."""
        kept, mountpoint = store is not None, self.fresh("mnt")
        store = store or self.fresh("store")
        run(LFSFS, "mount", store, mountpoint, "--scrub-rate", "off", *options)
        try:
            yield store, mountpoint
        finally:
            try:
                run(LFSFS, "unmount", mountpoint)
            except SystemExit:
                run("fusermount3", "-u", "-z", mountpoint)  # or the folder could not be removed at the end
                raise
            mountpoint.rmdir()
            if not kept:
                shutil.rmtree(store)


def write_noise(path: Path, size: int) -> None:
    """No two mebibytes are alike. On the disk when it returns."""
    piece = bytearray(os.urandom(MIB))
    with path.open("wb", buffering=0) as file:
        for number in range(size // MIB):
            piece[16:24] = number.to_bytes(8, "big")
            file.write(piece)
        os.fsync(file.fileno())


def run(*command: str | Path, where: Path | None = None) -> str:
    """Its output. SystemExit, with what it said, where it fails."""
    done = subprocess.run(
        command, cwd=where, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
    return done.stdout


def together(*commands: list[str | Path]) -> None:
    """All of them at once, until the last has ended."""
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    for process, command in zip(running, commands, strict=True):
        if process.wait() != 0:
            raise SystemExit(f"{' '.join(map(str, command))}: exit {process.returncode}")


def timed(call: Callable[[], object]) -> float:
    """Seconds. What was written before is on the disk first, so that its writing is not measured along."""
    os.sync()
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


@contextmanager
def served(mountpoint: Path, *command: str | Path) -> Iterator[None]:
    """A file system in the foreground, until the block ends."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not mountpoint.is_mount():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not mount")
            time.sleep(0.02)
        yield
    finally:
        if mountpoint.is_mount():
            run("fusermount3", "-u", mountpoint)
        process.wait(60)


def object_in(folder: Path, oid: str) -> Path:
    """Of a store, a mount, or .git/lfs."""
    return folder / "objects" / oid[:2] / oid[2:4] / oid


def forget_pages(*paths: Path) -> None:
    """Takes the files' bytes, once they are on the disk, out of the page cache, and only theirs: needs no root."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def may_drop_caches() -> bool:
    return os.access(DROP_CACHES, os.W_OK)


def drop_caches() -> None:
    """Everything that the kernel has cached of any disk and of any mount: bytes, names, attributes. Root only."""
    os.sync()
    DROP_CACHES.write_text("3")
