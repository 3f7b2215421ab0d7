"""File systems that do nothing: scripts/bench has the mount beside them, to tell what the kernel takes from what we do.

bare_fuse.py MOUNTPOINT     there is nothing; a file can be made and written to, and nothing is kept of it

It serves, with lfsfs's own transport, until it is unmounted. The one in C (bare_fuse.c) shows a file.
"""

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from lfsfs.fuse import Caller, Ended, EntryAttributes, FileInfo, Session, device

SECONDS = 86_400
FIRST = 2
COMPILER = "cc"


class Bare:
    """Answers at once."""

    def __init__(self) -> None:
        self._last = FIRST

    def failed(self, operation: str, name: bytes, error: Exception) -> int:
        return error.errno or errno.EIO if isinstance(error, OSError) else errno.ENOSYS

    def forget(self, inodes: Iterable[tuple[int, int]]) -> None:
        return

    def _attributes(self, inode: int) -> EntryAttributes:
        mode = stat.S_IFREG | 0o644 if inode >= FIRST else stat.S_IFDIR | 0o755
        return EntryAttributes(inode, mode, entry_timeout=SECONDS, attr_timeout=SECONDS)

    async def lookup(self, parent: int, name: bytes, ctx: Caller) -> EntryAttributes:
        raise OSError(errno.ENOENT, "nothing is here")

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Caller
    ) -> tuple[FileInfo, EntryAttributes]:
        self._last += 1
        return FileInfo(self._last), self._attributes(self._last)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return len(buf)

    async def getattr(self, inode: int, ctx: Caller) -> EntryAttributes:
        return self._attributes(inode)

    async def flush(self, fh: int) -> None:
        return

    def flush_later(self, fh: int, ended: Ended) -> bool:
        return False

    async def release(self, fh: int) -> None:
        return

    def open_at_once(self, inode: int, flags: int) -> FileInfo | None:
        return None

    def release_at_once(self, fh: int) -> bool:
        return True


@contextmanager
def bare(mountpoint: Path) -> Iterator[None]:
    """Nothing, in a process of its own, for as long as the block."""
    mountpoint.mkdir(exist_ok=True)
    command: list[str | Path] = [sys.executable, __file__, mountpoint]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as serving:
        while not mountpoint.is_mount() and serving.poll() is None:
            time.sleep(0.01)
        try:
            yield
        finally:
            subprocess.run(["fusermount3", "-u", mountpoint], check=True)


def has_compiler() -> bool:
    return shutil.which(COMPILER) is not None


@contextmanager
def bare_in_c(mountpoint: Path, file: Path, *, awake: bool = False) -> Iterator[None]:
    """Every name is this file. Compiles the program beside the mountpoint. `awake`: it never sleeps."""
    mountpoint.mkdir(exist_ok=True)
    program = mountpoint.with_suffix(".program")
    subprocess.run([COMPILER, "-O2", "-o", program, Path(__file__).with_suffix(".c")], check=True)
    descriptor = device.mount(mountpoint, [b"fsname=bare", b"default_permissions"])
    command: list[str | Path] = [program, str(descriptor), file, *(["awake"] if awake else [])]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[descriptor]):
        os.close(descriptor)
        try:
            yield
        finally:
            subprocess.run(["fusermount3", "-u", mountpoint], check=True)


async def main(mountpoint: Path) -> None:
    session = Session(Bare(), mountpoint)  # type: ignore[arg-type]  # what is not asked for here is not there
    session.mount([b"fsname=bare", b"default_permissions"])
    try:
        await session.run()
    finally:
        session.close()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
