"""A pyfuse3 file system that does nothing: what scripts/bench compares the mount with, to tell lfsfs from pyfuse3.

bare_fuse.py MOUNTPOINT FILE     every name is this file, which the kernel keeps once it was read
bare_fuse.py MOUNTPOINT          there is nothing; a file can be made and written to, and nothing is kept of it

It serves until it is unmounted.
"""

import errno
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyfuse3
import trio

FILE = 2
SECONDS = 86_400
BLOCK_BYTES = 4096


class Bare(pyfuse3.Operations):
    """Answers at once, from memory."""

    enable_writeback_cache = False

    def __init__(self, content: bytes | None) -> None:
        super().__init__()
        self._is_empty = content is None
        self._content = content or b""
        self._last = FILE

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino = pyfuse3.InodeT(inode)
        found.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o644 if inode >= FILE else stat.S_IFDIR | 0o755)
        found.st_size = len(self._content) if inode == FILE else 0
        found.st_blksize = BLOCK_BYTES
        found.entry_timeout = found.attr_timeout = SECONDS
        return found

    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if self._is_empty:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(FILE)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        self._last += 1
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(self._last)), self._attributes(self._last)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return len(buf)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(FILE), keep_cache=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return self._content[off : off + size]

    async def flush(self, fh: int) -> None:
        return

    async def release(self, fh: int) -> None:
        return

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        raise pyfuse3.FUSEError(errno.ENOSYS)


@contextmanager
def bare(mountpoint: Path, file: Path | None = None) -> Iterator[None]:
    """This file system, in a process of its own, for as long as the block."""
    mountpoint.mkdir(exist_ok=True)
    command: list[str | Path] = [sys.executable, Path(__file__), mountpoint, *([file] if file else [])]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as serving:
        while not mountpoint.is_mount() and serving.poll() is None:
            time.sleep(0.01)
        try:
            yield
        finally:
            subprocess.run(["fusermount3", "-u", mountpoint], check=True)


async def main(mountpoint: str, content: bytes | None) -> None:
    pyfuse3.init(Bare(content), mountpoint, {"fsname=bare", "default_permissions"})
    try:
        await pyfuse3.main()
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else None)
