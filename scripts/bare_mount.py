"""A pyfuse3 file system that takes every file and keeps nothing: what a mount in Python costs before it does anything.

scripts/bare_mount.py MOUNTPOINT     serves until it is unmounted
"""

import errno
import stat
import sys

import pyfuse3
import trio

SECONDS = 100.0  # that the kernel may remember names and attributes


class Nothing(pyfuse3.Operations):
    """One directory; files are made in it, written to and closed, to no effect."""

    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self._last = int(pyfuse3.ROOT_INODE)

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino = pyfuse3.InodeT(inode)
        found.st_mode = pyfuse3.ModeT(
            stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o644
        )
        found.entry_timeout = found.attr_timeout = SECONDS
        return found

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def create(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        self._last += 1
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(self._last)), self._attributes(self._last)

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        return len(buf)

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        return

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        return

    async def getxattr(
        self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext
    ) -> bytes:
        raise pyfuse3.FUSEError(errno.ENOSYS)


def main() -> None:
    pyfuse3.init(Nothing(), sys.argv[1], {"fsname=nothing", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
