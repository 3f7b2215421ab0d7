"""Operations: what the kernel asks, answered by nodes and handles. Thin, and the one boundary for errors.

pyfuse3 ends the mount on any exception but FUSEError: everything is translated here, and every failure that is not
an everyday answer (no such file) is logged in one line.
"""

import errno
import functools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pyfuse3

from lfsfs.errors import Exists, LfsfsError, NotFound
from lfsfs.mount.listing import Listing
from lfsfs.mount.nodes import Caller, Changes, Entry, Handle, Node, Opened, Tree
from lfsfs.store.names import NAME_LIMIT_BYTES

log = logging.getLogger("lfsfs.mount")
NEGATIVE_SECONDS = 3600.0  # how long the kernel remembers that a name is never there
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
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


def _boundary(fn: F) -> F:
    @functools.wraps(fn)
    async def run(self: "Operations", *arguments: Any) -> Any:
        try:
            return await fn(self, *arguments)
        except pyfuse3.FUSEError:
            raise
        except (LfsfsError, OSError) as failed:
            code = failed.errno or errno.EIO
            _report(fn.__name__, arguments, code, failed)
            raise pyfuse3.FUSEError(code) from failed
        except Exception as unexpected:
            log.exception("%s: unexpected failure", fn.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from unexpected

    return run  # type: ignore[return-value]


def _report(operation: str, arguments: tuple[Any, ...], code: int, failed: Exception) -> None:
    everyday = isinstance(failed, (NotFound, Exists)) or (
        not isinstance(failed, LfsfsError) and code not in _WORTH_A_LINE
    )
    name = next(
        (
            os.fsdecode(part)
            for part in arguments
            if isinstance(part, bytes) and len(part) <= NAME_LIMIT_BYTES
        ),
        "",
    )
    level = logging.DEBUG if everyday else logging.WARNING
    cause = failed.strerror if isinstance(failed, OSError) else failed
    log.log(level, "%s %r: %s: %s", operation, name, errno.errorcode.get(code, code), cause)


class Operations(pyfuse3.Operations):
    """The handlers of one mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tree = tree
        self._handles: dict[int, Handle] = {}
        self._listings: dict[int, Listing] = {}
        self._last = 0

    # Names.

    @_boundary
    async def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if len(name) > NAME_LIMIT_BYTES:  # the kernel asks for every name before it makes one
            raise OSError(errno.ENAMETOOLONG, f"{len(name)} bytes: {NAME_LIMIT_BYTES} is the most")
        node = await self._node(parent).lookup(name)
        return _absent() if node is None else self._entry(node)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, lookups in inode_list:
            self._tree.table.forget(number, lookups)

    @_boundary
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._node(inode).stat()

    @_boundary
    async def setattr(
        self, inode: int, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields,
        fh: int | None, ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:  # fmt: skip
        node = self._node(inode)
        changes = Changes(
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime=attr.st_atime_ns if fields.update_atime else None,
            mtime=attr.st_mtime_ns if fields.update_mtime else None,
        )
        await node.setattr(changes, self._handles.get(fh) if fh is not None else None)
        return node.attributes()

    @_boundary
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._node(inode).readlink()

    @_boundary
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if not stat.S_ISREG(mode):
            raise OSError(errno.EPERM, "devices, pipes and sockets have no place here")
        node, opened = await self._node(parent).create(name, stat.S_IMODE(mode), os.O_EXCL, _caller(ctx))
        await opened.handle.release()
        return self._entry(node)

    @_boundary
    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._node(parent).mkdir(name, stat.S_IMODE(mode), _caller(ctx)))

    @_boundary
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._node(parent).symlink(name, target, _caller(ctx)))

    @_boundary
    async def link(
        self, inode: int, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._entry(await self._node(parent).link(self._node(inode), name))

    @_boundary
    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._node(parent).unlink(name)

    @_boundary
    async def rmdir(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._node(parent).rmdir(name)

    @_boundary
    async def rename(
        self, parent_old: int, name_old: bytes, parent_new: int, name_new: bytes,
        flags: int, ctx: pyfuse3.RequestContext,
    ) -> None:  # fmt: skip
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise OSError(errno.EINVAL, "names are not exchanged")
        await self._node(parent_new).receive(self._node(parent_old), name_old, name_new, flags)

    # Files.

    @_boundary
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return self._opened(await self._node(inode).open(flags))

    @_boundary
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        node, opened = await self._node(parent).create(name, stat.S_IMODE(mode), flags, _caller(ctx))
        return self._opened(opened), self._entry(node)

    @_boundary
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._handles[fh].read(off, size)

    @_boundary
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._handles[fh].write(off, buf)

    @_boundary
    async def flush(self, fh: int) -> None:
        await self._handles[fh].flush()

    @_boundary
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._handles[fh].fsync()

    @_boundary
    async def release(self, fh: int) -> None:
        await self._handles.pop(fh).release()

    # Directories.

    @_boundary
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        node = self._node(inode)
        self._tree.table.pin(node)
        self._last += 1
        self._listings[self._last] = Listing(node)
        return self._last

    @_boundary
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._listings[fh]
        position: int | None = start_id
        while position is not None:
            entries, position = await listing.entries(position)
            if self._reply(token, listing.node, entries):
                return

    def _reply(self, token: pyfuse3.ReaddirToken, node: Node, entries: list[tuple[int, Entry]]) -> bool:
        """Whether the kernel was told of any of them: what it is told nothing is to it the end."""
        table, told = self._tree.table, False
        for position, (name, key) in entries:
            child = node.child(name, key)
            if child is None:
                continue
            table.place(child)
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), child.attributes(), position):
                table.forget(child.number, 0)
                return True
            table.told(child)
            told = True
        return told

    @_boundary
    async def releasedir(self, fh: int) -> None:
        self._tree.table.unpin(self._listings.pop(fh).node)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        return

    @_boundary
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        found = os.statvfs(self._tree.store.layout.path)
        answer = pyfuse3.StatvfsData()
        for field in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail"):
            setattr(answer, f"f_{field}", getattr(found, f"f_{field}"))
        answer.f_namemax = NAME_LIMIT_BYTES
        return answer

    # Extended attributes: ENOSYS, once, makes the kernel stop asking.

    @_boundary
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        self._require_xattr()
        found = self._node(inode).xattrs().get(name)
        if found is None:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return found

    @_boundary
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        self._require_xattr()
        return list(self._node(inode).xattrs())

    @_boundary
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._require_xattr()
        raise pyfuse3.FUSEError(errno.EOPNOTSUPP)

    @_boundary
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._require_xattr()
        raise pyfuse3.FUSEError(errno.EOPNOTSUPP)

    def _require_xattr(self) -> None:
        if not self._tree.options.xattr:
            raise pyfuse3.FUSEError(errno.ENOSYS)

    # Tables.

    @property
    def open_handles(self) -> list[Handle]:
        return list(self._handles.values())

    def _node(self, number: int) -> Node:
        return self._tree.table.get(number)

    def _entry(self, node: Node) -> pyfuse3.EntryAttributes:
        answer = node.attributes()
        self._tree.table.told(node)
        return answer

    def _opened(self, opened: Opened) -> pyfuse3.FileInfo:
        self._last += 1
        self._handles[self._last] = opened.handle
        number = pyfuse3.FileHandleT(self._last)
        return pyfuse3.FileInfo(fh=number, keep_cache=opened.keep_cache, direct_io=opened.direct_io)


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask)


def _absent() -> pyfuse3.EntryAttributes:
    answer = pyfuse3.EntryAttributes()
    answer.st_ino = pyfuse3.InodeT(0)
    answer.entry_timeout = NEGATIVE_SECONDS
    return answer
