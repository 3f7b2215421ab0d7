"""A pyfuse3 file system that does nothing: every name is one and the same file, which the kernel keeps once it was read.

bare_fuse.py MOUNTPOINT FILE: what scripts/bench compares the mount with, to tell what is lfsfs and what is pyfuse3. It
serves until it is unmounted.
"""

import errno
import stat
import sys
from pathlib import Path

import pyfuse3
import trio

FILE = 2
SECONDS = 86_400
BLOCK_BYTES = 4096


class Bare(pyfuse3.Operations):
    """Answers at once, from memory."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino = pyfuse3.InodeT(inode)
        found.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o644 if inode == FILE else stat.S_IFDIR | 0o755)
        found.st_size = len(self._content) if inode == FILE else 0
        found.st_blksize = BLOCK_BYTES
        found.entry_timeout = found.attr_timeout = SECONDS
        return found

    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(FILE)

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


async def main(mountpoint: str, content: bytes) -> None:
    pyfuse3.init(Bare(content), mountpoint, {"fsname=bare", "default_permissions"})
    try:
        await pyfuse3.main()
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]).read_bytes())
