"""Operations: what the kernel asks, answered by nodes and handles. Thin, and the one boundary for errors.

Whatever a handler raises is translated here, and every failure that is not an everyday answer (no such file) is logged
in one line.
"""

import errno
import logging
import os
import stat
from collections.abc import Iterable, Sequence
from time import perf_counter

from lfsfs.errors import Exists, LfsfsError, NotFound
from lfsfs.fuse import (
    RENAME_NOREPLACE,
    Caller,
    Changes,
    Ended,
    EntryAttributes,
    FileInfo,
    ListingPage,
    StatfsData,
    TakesMore,
)
from lfsfs.mount.listing import Listing
from lfsfs.mount.nodes import Absent, Entry, Handle, Node, Opened, Tree, error
from lfsfs.mount.traffic import Traffic
from lfsfs.store.names import NAME_LIMIT_BYTES

log = logging.getLogger("lfsfs.mount")
NEGATIVE_SECONDS = 3600.0  # how long the kernel remembers that a name is never there
_WORTH_A_LINE = frozenset(
    (
        errno.EIO,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EBADMSG,
        errno.EFBIG,
        errno.ETIMEDOUT,
        errno.EBUSY,
    )
)


def _report(operation: str, name: bytes, code: int, failed: Exception) -> None:
    everyday = isinstance(failed, (NotFound, Exists)) or (
        not isinstance(failed, LfsfsError) and code not in _WORTH_A_LINE
    )
    level = logging.DEBUG if everyday else logging.WARNING
    if log.isEnabledFor(level):
        cause = failed.strerror if isinstance(failed, OSError) else failed
        log.log(level, "%s %r: %s: %s", operation, os.fsdecode(name), errno.errorcode.get(code, code), cause)


class Operations:
    """The handlers of one mount."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._handles: dict[int, Handle] = {}
        self._listings: dict[int, Listing] = {}
        self._last = 0
        self.traffic = Traffic()

    def failed(self, operation: str, name: bytes, error: Exception) -> int:
        """The errno of what a handler raised."""
        if isinstance(error, (LfsfsError, OSError)):
            code = error.errno or errno.EIO
            _report(operation, name, code, error)
            return code
        log.error("%s: unexpected failure", operation, exc_info=error)
        return errno.EIO

    # Names.

    async def lookup(self, parent: int, name: bytes, ctx: Caller) -> EntryAttributes:
        if len(name) > NAME_LIMIT_BYTES:  # the kernel asks for every name before it makes one
            raise OSError(errno.ENAMETOOLONG, f"{len(name)} bytes: {NAME_LIMIT_BYTES} is the most")
        try:
            node = await self._node(parent).lookup(name)
        except Absent as absent:
            return _absent(absent.seconds)
        return _absent(NEGATIVE_SECONDS) if node is None else self._entry(node)

    def forget(self, inodes: Iterable[tuple[int, int]]) -> None:
        for number, lookups in inodes:
            self._tree.table.forget(number, lookups)

    async def getattr(self, inode: int, ctx: Caller) -> EntryAttributes:
        return self._node(inode).stat()

    async def setattr(self, inode: int, changes: Changes, fh: int | None, ctx: Caller) -> EntryAttributes:
        node = self._node(inode)
        await node.setattr(changes, self._handles.get(fh) if fh is not None else None)
        return node.attributes()

    async def readlink(self, inode: int, ctx: Caller) -> bytes:
        return await self._node(inode).readlink()

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Caller) -> EntryAttributes:
        if not stat.S_ISREG(mode):
            raise OSError(errno.EPERM, "devices, pipes and sockets have no place here")
        node, opened = await self._node(parent).create(name, stat.S_IMODE(mode), os.O_EXCL, ctx)
        await opened.handle.release()
        return self._entry(node)

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Caller) -> EntryAttributes:
        return self._entry(await self._node(parent).mkdir(name, stat.S_IMODE(mode), ctx))

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Caller) -> EntryAttributes:
        return self._entry(await self._node(parent).symlink(name, target, ctx))

    async def link(self, inode: int, parent: int, name: bytes, ctx: Caller) -> EntryAttributes:
        return self._entry(await self._node(parent).link(self._node(inode), name))

    async def unlink(self, parent: int, name: bytes, ctx: Caller) -> None:
        await self._node(parent).unlink(name)

    async def rmdir(self, parent: int, name: bytes, ctx: Caller) -> None:
        await self._node(parent).rmdir(name)

    async def rename(
        self, parent_old: int, name_old: bytes, parent_new: int, name_new: bytes,
        flags: int, ctx: Caller,
    ) -> None:  # fmt: skip
        if flags & ~RENAME_NOREPLACE:
            raise OSError(errno.EINVAL, "names are not exchanged")
        begun, directory = perf_counter(), self._node(parent_new)
        try:
            await directory.receive(self._node(parent_old), name_old, name_new, flags)
        finally:
            self.traffic.ended("rename", begun, directory, name_new)

    # Files.

    async def open(self, inode: int, flags: int, ctx: Caller) -> FileInfo:
        begun, node = perf_counter(), self._node(inode)
        try:
            opened = await node.open(flags)
        finally:
            self.traffic.ended("open", begun, node)
        self.traffic.opens += opened.handle.counted
        return self._opened(opened)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Caller
    ) -> tuple[FileInfo, EntryAttributes]:
        node, opened = await self._node(parent).create(name, stat.S_IMODE(mode), flags, ctx)
        return self._opened(opened), self._entry(node)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        begun, handle, traffic = perf_counter(), self._handles[fh], self.traffic
        try:
            content = await handle.read(off, size)
        finally:
            traffic.ended("read", begun, handle)
        if handle.counted:
            traffic.reads += 1
            traffic.read_bytes += len(content)
        return content

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        begun, handle, traffic = perf_counter(), self._handles[fh], self.traffic
        try:
            written = await handle.write(off, buf)
        finally:
            traffic.ended("write", begun, handle)
        traffic.writes += 1
        traffic.written_bytes += written
        return written

    async def flush(self, fh: int) -> None:
        begun, handle = perf_counter(), self._handles[fh]
        try:
            await handle.flush()
        finally:
            self.traffic.ended("close", begun, handle)

    def flush_later(self, fh: int, ended: Ended) -> bool:
        begun, handle, traffic = perf_counter(), self._handles[fh], self.traffic

        def told(failed: Exception | None) -> None:
            if not isinstance(failed, TakesMore):
                traffic.ended("close", begun, handle)
            ended(failed)

        return handle.flush_later(told)

    async def fsync(self, fh: int, datasync: bool) -> None:
        begun, handle = perf_counter(), self._handles[fh]
        try:
            await handle.fsync()
        finally:
            self.traffic.ended("fsync", begun, handle)

    async def release(self, fh: int) -> None:
        await self._handles.pop(fh).release()

    def open_at_once(self, inode: int, flags: int) -> FileInfo | None:
        opened = self._tree.table.get(inode).open_at_once(flags)
        if opened is None:
            return None
        self.traffic.opens += opened.handle.counted
        return self._opened(opened)

    def release_at_once(self, fh: int) -> bool:
        if not self._handles[fh].release_at_once():
            return False
        del self._handles[fh]
        return True

    # Directories.

    async def opendir(self, inode: int, ctx: Caller) -> FileInfo:
        node = self._node(inode)
        self._tree.table.pin(node)
        self._last += 1
        self._listings[self._last] = listing = Listing(node)
        keep = False if node.remembered is None else node.remembered.opened(listing, node.list_version())
        return FileInfo(self._last, keep, cache_list=listing.version is not None)

    async def readdir(self, fh: int, start_id: int, page: ListingPage) -> None:
        listing = self._listings[fh]
        position: int | None = start_id
        while position is not None:
            entries, position = await listing.entries(position)
            if self._reply(page, listing.node, entries):
                return

    def _reply(self, page: ListingPage, node: Node, entries: list[tuple[int, Entry]]) -> bool:
        """Whether the kernel was told of any of them: what it is told nothing is to it the end."""
        table, told = self._tree.table, False
        for position, (name, key) in entries:
            child = node.child(name, key)
            if child is None:
                continue
            table.place(child)
            if not page.add(name, child.attributes(), position):
                table.forget(child.number, 0)
                return True
            if page.plus:
                table.told(child)
            told = True
        return told

    async def releasedir(self, fh: int) -> None:
        listing = self._listings.pop(fh)
        if listing.node.remembered is not None:
            listing.node.remembered.closed(listing)
        self._tree.table.unpin(listing.node)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        return

    async def statfs(self, ctx: Caller) -> StatfsData:
        found = os.statvfs(self._tree.store.layout.path)
        return StatfsData(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, found.f_frsize, NAME_LIMIT_BYTES,
        )  # fmt: skip

    # Extended attributes: ENOSYS, once, makes the kernel stop asking.

    async def getxattr(self, inode: int, name: bytes, ctx: Caller) -> bytes:
        self._require_xattr()
        found = self._node(inode).xattrs().get(name)
        if found is None:
            raise error(errno.ENODATA)
        return found

    async def listxattr(self, inode: int, ctx: Caller) -> Sequence[bytes]:
        self._require_xattr()
        return list(self._node(inode).xattrs())

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Caller) -> None:
        self._require_xattr()
        raise error(errno.EOPNOTSUPP)

    async def removexattr(self, inode: int, name: bytes, ctx: Caller) -> None:
        self._require_xattr()
        raise error(errno.EOPNOTSUPP)

    def _require_xattr(self) -> None:
        if not self._tree.options.xattr:
            raise error(errno.ENOSYS)

    # Tables.

    @property
    def open_handles(self) -> list[Handle]:
        return list(self._handles.values())

    @property
    def opened(self) -> tuple[int, dict[int, Handle], dict[int, Listing]]:
        """The last number that was given, the open files and the open directories by theirs."""
        return self._last, dict(self._handles), dict(self._listings)

    def reopen(self, last: int, handles: dict[int, Handle], listings: dict[int, Listing]) -> None:
        """Goes on with those of another daemon."""
        self._last, self._handles, self._listings = last, handles, listings

    def _node(self, number: int) -> Node:
        return self._tree.table.get(number)

    def _entry(self, node: Node) -> EntryAttributes:
        answer = node.attributes()
        self._tree.table.told(node)
        return answer

    def _opened(self, opened: Opened) -> FileInfo:
        self._last += 1
        self._handles[self._last] = opened.handle
        handle = opened.handle
        return FileInfo(self._last, opened.keep_cache, opened.direct_io, handle.flushes, opened.backing)


def _absent(seconds: float) -> EntryAttributes:
    return EntryAttributes(0, entry_timeout=seconds)
