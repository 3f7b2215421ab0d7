"""A file system in memory, on lfsfs.fuse, for the tests of that: flat, and with names that behave in special ways."""

import errno
import os
import stat
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from lfsfs.fuse import (
    ROOT_INODE,
    Caller,
    Changes,
    Ended,
    EntryAttributes,
    FileInfo,
    ListingPage,
    Notifier,
    Session,
    StatfsData,
)


@dataclass
class Scratch:
    """`waits`: reads of the file of that name wait for this event. `told`: what `failed` was told.

    `later`: flushes that the test answers. `at_once`: names whose open and release need not be waited for.
    """

    files: dict[bytes, bytearray] = field(default_factory=dict)
    attributes: dict[bytes, dict[str, object]] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    waits: dict[bytes, trio.Event] = field(default_factory=dict)
    waiting: int = 0
    told: list[tuple[str, bytes, Exception]] = field(default_factory=list)
    forgotten: dict[int, int] = field(default_factory=dict)
    looked_up: dict[int, int] = field(default_factory=dict)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    cached: bool = False
    later: list[Ended] | None = None
    at_once: frozenset[bytes] = frozenset()
    _names: dict[int, bytes] = field(default_factory=dict)
    _numbers: dict[bytes, int] = field(default_factory=dict)

    def number(self, name: bytes) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._names) + 2
            self._names[self._numbers[name]] = name
        return self._numbers[name]

    def failed(self, operation: str, name: bytes, error: Exception) -> int:
        self.told.append((operation, name, error))
        return error.errno or errno.EIO if isinstance(error, OSError) else errno.EIO

    def forget(self, inodes: Iterable[tuple[int, int]]) -> None:
        for inode, lookups in inodes:
            self.forgotten[inode] = self.forgotten.get(inode, 0) + lookups

    def _entry(self, name: bytes) -> EntryAttributes:
        number = self.number(name)
        self.looked_up[number] = self.looked_up.get(number, 0) + 1
        return self._stat(number)

    def _stat(self, inode: int) -> EntryAttributes:
        if inode == ROOT_INODE:
            return EntryAttributes(ROOT_INODE, stat.S_IFDIR | 0o777)
        name = self._names[inode]
        size = len(self.files.get(name, b""))
        keep = 3600.0 if self.cached else 0.0
        chosen = {
            "st_size": size,
            "entry_timeout": keep,
            "attr_timeout": keep,
            **self.attributes.get(name, {}),
        }
        return EntryAttributes(inode, stat.S_IFREG | 0o666, **chosen)  # type: ignore[arg-type]

    async def lookup(self, parent: int, name: bytes, ctx: Caller) -> EntryAttributes:
        if name == b"surprise":
            raise ZeroDivisionError
        if name not in self.files:
            raise OSError(errno.ENOENT, "no such name")
        return self._entry(name)

    async def getattr(self, inode: int, ctx: Caller) -> EntryAttributes:
        return self._stat(inode)

    async def setattr(self, inode: int, changes: Changes, fh: int | None, ctx: Caller) -> EntryAttributes:
        self.calls.append(("setattr", self._names[inode], changes))
        if changes.size is not None:
            content = self.files[self._names[inode]]
            del content[changes.size :]
            content.extend(bytes(changes.size - len(content)))
        return self._stat(inode)

    async def readlink(self, inode: int, ctx: Caller) -> bytes:
        raise OSError(errno.EINVAL, "no link")

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Caller) -> EntryAttributes:
        self.calls.append(("mknod", name, mode, rdev))
        raise OSError(errno.EPERM, "no devices")

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Caller) -> EntryAttributes:
        self.calls.append(("mkdir", name, mode, ctx.umask))
        raise OSError(errno.EROFS, "flat")

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Caller) -> EntryAttributes:
        self.calls.append(("symlink", name, target))
        raise OSError(errno.EPERM, "no links")

    async def link(self, inode: int, parent: int, name: bytes, ctx: Caller) -> EntryAttributes:
        self.calls.append(("link", self._names[inode], name))
        raise OSError(errno.EMLINK, "no links")

    async def unlink(self, parent: int, name: bytes, ctx: Caller) -> None:
        del self.files[name]

    async def rmdir(self, parent: int, name: bytes, ctx: Caller) -> None:
        raise OSError(errno.ENOTDIR, "flat")

    async def rename(
        self, parent_old: int, name_old: bytes, parent_new: int, name_new: bytes, flags: int, ctx: Caller
    ) -> None:
        self.calls.append(("rename", name_old, name_new, flags))
        self.files[name_new] = self.files.pop(name_old)

    async def open(self, inode: int, flags: int, ctx: Caller) -> FileInfo:
        self.calls.append(("open", self._names[inode], ctx))
        return FileInfo(inode, keep_cache=self.cached, flushes=not self.cached)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Caller
    ) -> tuple[FileInfo, EntryAttributes]:
        self.calls.append(("create", name, mode, ctx))
        self.files[name] = bytearray()
        return FileInfo(self.number(name)), self._entry(name)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        name = self._names[fh]
        if name in self.waits:
            self.waiting += 1
            await self.waits[name].wait()
        return bytes(self.files[name][off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        content = self.files[self._names[fh]]
        content.extend(bytes(max(0, off + len(buf) - len(content))))
        content[off : off + len(buf)] = buf
        self.calls.append(("write", off, len(buf)))
        return len(buf)

    async def flush(self, fh: int) -> None:
        self.calls.append(("flush", self._names[fh]))

    def flush_later(self, fh: int, ended: Ended) -> bool:
        if self.later is None:
            return False
        self.later.append(ended)
        return True

    async def fsync(self, fh: int, datasync: bool) -> None:
        self.calls.append(("fsync", datasync))

    async def release(self, fh: int) -> None:
        self.calls.append(("release", self._names[fh]))

    def open_at_once(self, inode: int, flags: int) -> FileInfo | None:
        if self._names[inode] not in self.at_once:
            return None
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "read-only")
        self.calls.append(("open at once", self._names[inode]))
        return FileInfo(inode)

    def release_at_once(self, fh: int) -> bool:
        if self._names[fh] in self.at_once:
            self.calls.append(("release at once", self._names[fh]))
        return self._names[fh] in self.at_once

    async def opendir(self, inode: int, ctx: Caller) -> FileInfo:
        return FileInfo(1)

    async def readdir(self, fh: int, start_id: int, page: ListingPage) -> None:
        names = sorted(self.files)
        for position in range(start_id, len(names)):
            name = names[position]
            if not page.add(name, self._stat(self.number(name)), position + 1):
                return
            if page.plus:
                self._entry(name)

    async def releasedir(self, fh: int) -> None:
        return

    async def statfs(self, ctx: Caller) -> StatfsData:
        return StatfsData(1 << 40, 1 << 39, 1 << 38, 10, 5, 4096, 4096, 255)

    async def getxattr(self, inode: int, name: bytes, ctx: Caller) -> bytes:
        if name not in self.xattrs:
            raise OSError(errno.ENODATA, "no such attribute")
        return self.xattrs[name]

    async def listxattr(self, inode: int, ctx: Caller) -> Sequence[bytes]:
        return list(self.xattrs)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Caller) -> None:
        self.xattrs[name] = value

    async def removexattr(self, inode: int, name: bytes, ctx: Caller) -> None:
        del self.xattrs[name]


@dataclass
class Mounted:
    """It at its place; whoever touches that does so in a thread."""

    path: Path
    scratch: Scratch
    session: Session
    kernel: Notifier


@asynccontextmanager
async def mounted(path: Path, scratch: Scratch, options: tuple[bytes, ...] = ()) -> AsyncIterator[Mounted]:
    path.mkdir(exist_ok=True)
    session = Session(scratch, path)
    kernel = session.mount([b"fsname=scratch", b"default_permissions", *options])
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            with trio.fail_after(60):
                yield Mounted(path, scratch, session, kernel)
            session.stop()
    finally:
        session.close()
        assert not os.path.ismount(path)
