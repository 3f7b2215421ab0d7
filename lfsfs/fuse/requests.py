"""Requests: what the kernel asks, read from its bytes, asked of the operations, and the answer as bytes."""

import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lfsfs.fuse import protocol
from lfsfs.fuse.answers import EntryAttributes, FileInfo, ListingPage, StatfsData
from lfsfs.fuse.protocol import Opcode, SetattrFlag
from lfsfs.units import SECOND_NS

Body = memoryview
"""A request's bytes after its header; valid until it is answered."""
Answer = bytes | bytearray | memoryview


class Caller(NamedTuple):
    """Who makes a request. `umask`: 0 where the request does not carry it."""

    uid: int
    gid: int
    pid: int
    umask: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What a setattr is to change; None: as it is. Times in nanoseconds."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None


class TakesMore(Exception):
    """A request that was to be answered later takes more than that: it is handled as any other."""


Ended = Callable[[Exception | None], None]
"""Is told once, in the thread of the event loop, what a request came to: None where it is done, TakesMore."""


class Operations(Protocol):
    """The handlers of a file system. Each may raise OSError; what else it raises `failed` makes an errno of."""

    def failed(self, operation: str, name: bytes, error: Exception) -> int:
        """The errno to answer. `name`: that of the request, if it has one."""
        ...

    def forget(self, inodes: Iterable[tuple[int, int]]) -> None:
        """Inodes, and how many lookups of each the kernel takes back."""
        ...

    async def lookup(self, parent: int, name: bytes, ctx: Caller) -> EntryAttributes: ...
    async def getattr(self, inode: int, ctx: Caller) -> EntryAttributes: ...
    async def setattr(self, inode: int, changes: Changes, fh: int | None, ctx: Caller) -> EntryAttributes: ...
    async def readlink(self, inode: int, ctx: Caller) -> bytes: ...
    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Caller) -> EntryAttributes: ...
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Caller) -> EntryAttributes: ...
    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Caller) -> EntryAttributes: ...
    async def link(self, inode: int, parent: int, name: bytes, ctx: Caller) -> EntryAttributes: ...
    async def unlink(self, parent: int, name: bytes, ctx: Caller) -> None: ...
    async def rmdir(self, parent: int, name: bytes, ctx: Caller) -> None: ...
    async def rename(
        self, parent_old: int, name_old: bytes, parent_new: int, name_new: bytes, flags: int, ctx: Caller
    ) -> None: ...
    async def open(self, inode: int, flags: int, ctx: Caller) -> FileInfo: ...
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Caller
    ) -> tuple[FileInfo, EntryAttributes]: ...
    async def read(self, fh: int, off: int, size: int) -> Answer: ...
    async def write(self, fh: int, off: int, buf: bytes) -> int: ...
    async def flush(self, fh: int) -> None: ...
    def flush_later(self, fh: int, ended: Ended) -> bool: ...
    async def fsync(self, fh: int, datasync: bool) -> None: ...
    async def release(self, fh: int) -> None: ...
    def open_at_once(self, inode: int, flags: int) -> FileInfo | None:
        """As `open`, where nothing has to be waited for and anybody may. None: not so, and nothing was done."""
        ...

    def release_at_once(self, fh: int) -> bool:
        """As `release`, where nothing has to be waited for. False: not so, and nothing was done."""
        ...

    async def opendir(self, inode: int, ctx: Caller) -> FileInfo: ...
    async def readdir(self, fh: int, start_id: int, page: ListingPage) -> None: ...
    async def releasedir(self, fh: int) -> None: ...
    async def statfs(self, ctx: Caller) -> StatfsData: ...
    async def getxattr(self, inode: int, name: bytes, ctx: Caller) -> bytes: ...
    async def listxattr(self, inode: int, ctx: Caller) -> Sequence[bytes]: ...
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Caller) -> None: ...
    async def removexattr(self, inode: int, name: bytes, ctx: Caller) -> None: ...


Handler = Callable[[Any, int, Caller, Body], Coroutine[Any, Any, Answer]]


def _name(body: Body, start: int = 0) -> bytes:
    """The one name from there to the end, which is a zero byte."""
    return bytes(body[start:-1])


def _names(body: Body, start: int = 0) -> tuple[bytes, bytes]:
    first, second, _ = bytes(body[start:]).split(b"\0", 2)
    return first, second


# Names.


async def _lookup(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    return (await ops.lookup(node, bytes(body[:-1]), ctx)).entry()


async def _getattr(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    return (await ops.getattr(node, ctx)).stat()


async def _setattr(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    (valid, _, fh, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _) = (
        protocol.SETATTR_IN.unpack_from(body)
    )
    changes = Changes(
        mode=mode & 0o7777 if valid & SetattrFlag.MODE else None,
        uid=uid if valid & SetattrFlag.UID else None,
        gid=gid if valid & SetattrFlag.GID else None,
        size=size if valid & SetattrFlag.SIZE else None,
        atime=_moment(valid, SetattrFlag.ATIME, SetattrFlag.ATIME_NOW, atime, atime_ns),
        mtime=_moment(valid, SetattrFlag.MTIME, SetattrFlag.MTIME_NOW, mtime, mtime_ns),
    )
    return (await ops.setattr(node, changes, fh if valid & SetattrFlag.FH else None, ctx)).stat()


def _moment(valid: int, given: int, now: int, seconds: int, nanoseconds: int) -> int | None:
    if valid & now:
        return time.time_ns()
    if not valid & given:
        return None
    signed = seconds - (1 << 64) if seconds >> 63 else seconds
    return signed * SECOND_NS + nanoseconds


async def _readlink(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    return await ops.readlink(node, ctx)


async def _mknod(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    mode, rdev, umask, _ = protocol.MKNOD_IN.unpack_from(body)
    name = _name(body, protocol.MKNOD_IN.size)
    return (await ops.mknod(node, name, mode, rdev, ctx._replace(umask=umask))).entry()


async def _mkdir(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    mode, umask = protocol.MKDIR_IN.unpack_from(body)
    name = _name(body, protocol.MKDIR_IN.size)
    return (await ops.mkdir(node, name, mode, ctx._replace(umask=umask))).entry()


async def _symlink(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    name, target = _names(body)
    return (await ops.symlink(node, name, target, ctx)).entry()


async def _link(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    (inode,) = protocol.LINK_IN.unpack_from(body)
    return (await ops.link(inode, node, _name(body, protocol.LINK_IN.size), ctx)).entry()


async def _unlink(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    await ops.unlink(node, _name(body), ctx)
    return b""


async def _rmdir(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    await ops.rmdir(node, _name(body), ctx)
    return b""


async def _rename(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    (parent,) = protocol.RENAME_IN.unpack_from(body)
    old, new = _names(body, protocol.RENAME_IN.size)
    await ops.rename(node, old, parent, new, 0, ctx)
    return b""


async def _rename2(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    parent, flags, _ = protocol.RENAME2_IN.unpack_from(body)
    old, new = _names(body, protocol.RENAME2_IN.size)
    await ops.rename(node, old, parent, new, flags, ctx)
    return b""


# Files.


async def _open(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    flags, _ = protocol.OPEN_IN.unpack_from(body)
    return (await ops.open(node, flags, ctx)).pack()


async def _create(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    flags, mode, umask, _ = protocol.CREATE_IN.unpack_from(body)
    name = _name(body, protocol.CREATE_IN.size)
    opened, attributes = await ops.create(node, name, mode, flags, Caller(ctx[0], ctx[1], ctx[2], umask))
    return attributes.entry() + opened.pack()


async def _read(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    fh, offset, size = protocol.READ_IN.unpack_from(body)
    return await ops.read(fh, offset, size)


async def _write(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    fh, offset, _ = protocol.READ_IN.unpack_from(body)
    written = await ops.write(fh, offset, bytes(body[protocol.WRITE_IN_BYTES :]))
    return protocol.WRITE_OUT.pack(written, 0)


async def _flush(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    await ops.flush(protocol.HANDLE_IN.unpack_from(body)[0])
    return b""


def _flush_later(ops: Operations, body: Body, ended: Ended) -> bool:
    return ops.flush_later(protocol.HANDLE_IN.unpack_from(body)[0], ended)


async def _fsync(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    fh, flags, _ = protocol.HANDLE_IN.unpack_from(body)
    await ops.fsync(fh, bool(flags & 1))
    return b""


async def _release(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    await ops.release(protocol.HANDLE_IN.unpack_from(body)[0])
    return b""


# Directories.


async def _opendir(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    return (await ops.opendir(node, ctx)).pack()


async def _readdir(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    return await _list(ops, body, plus=False)


async def _readdirplus(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    return await _list(ops, body, plus=True)


async def _list(ops: Operations, body: Body, *, plus: bool) -> Answer:
    fh, position, size = protocol.READ_IN.unpack_from(body)
    page = ListingPage(size, plus=plus)
    await ops.readdir(fh, position, page)
    return page.content


async def _releasedir(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    await ops.releasedir(protocol.HANDLE_IN.unpack_from(body)[0])
    return b""


async def _nothing(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    return b""


async def _statfs(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    return (await ops.statfs(ctx)).pack()


# Extended attributes: asked for with no room, the answer is how much it takes.


async def _getxattr(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    room, _ = protocol.XATTR_IN.unpack_from(body)
    return _within(room, await ops.getxattr(node, _name(body, protocol.XATTR_IN.size), ctx))


async def _listxattr(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    room, _ = protocol.XATTR_IN.unpack_from(body)
    names = await ops.listxattr(node, ctx)
    return _within(room, b"".join(name + b"\0" for name in names))


def _within(room: int, content: bytes) -> bytes:
    if room == 0:
        return protocol.XATTR_OUT.pack(len(content), 0)
    if len(content) > room:
        raise OSError(protocol.TOO_SMALL, "the caller's room is too small")
    return content


async def _setxattr(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    size, _ = protocol.XATTR_IN.unpack_from(body)
    content = bytes(body[protocol.XATTR_IN.size :])
    name, _, rest = content.partition(b"\0")
    await ops.setxattr(node, name, rest[:size], ctx)
    return b""


async def _removexattr(ops: Operations, node: int, ctx: Caller, body: Body) -> Answer:
    await ops.removexattr(node, _name(body), ctx)
    return b""


HANDLERS: dict[int, Handler] = {
    Opcode.LOOKUP: _lookup,
    Opcode.GETATTR: _getattr,
    Opcode.SETATTR: _setattr,
    Opcode.READLINK: _readlink,
    Opcode.SYMLINK: _symlink,
    Opcode.MKNOD: _mknod,
    Opcode.MKDIR: _mkdir,
    Opcode.UNLINK: _unlink,
    Opcode.RMDIR: _rmdir,
    Opcode.RENAME: _rename,
    Opcode.LINK: _link,
    Opcode.OPEN: _open,
    Opcode.READ: _read,
    Opcode.WRITE: _write,
    Opcode.STATFS: _statfs,
    Opcode.RELEASE: _release,
    Opcode.FSYNC: _fsync,
    Opcode.SETXATTR: _setxattr,
    Opcode.GETXATTR: _getxattr,
    Opcode.LISTXATTR: _listxattr,
    Opcode.REMOVEXATTR: _removexattr,
    Opcode.FLUSH: _flush,
    Opcode.OPENDIR: _opendir,
    Opcode.READDIR: _readdir,
    Opcode.RELEASEDIR: _releasedir,
    Opcode.FSYNCDIR: _nothing,
    Opcode.CREATE: _create,
    Opcode.DESTROY: _nothing,
    Opcode.READDIRPLUS: _readdirplus,
    Opcode.RENAME2: _rename2,
}


def _open_at_once(ops: Operations, node: int, body: Body) -> Answer | None:
    opened = ops.open_at_once(node, protocol.OPEN_IN.unpack_from(body)[0])
    return None if opened is None else opened.pack()


def _release_at_once(ops: Operations, node: int, body: Body) -> Answer | None:
    return b"" if ops.release_at_once(protocol.HANDLE_IN.unpack_from(body)[0]) else None


AT_ONCE: dict[int, Callable[[Any, int, Body], Answer | None]] = {
    Opcode.OPEN: _open_at_once,
    Opcode.RELEASE: _release_at_once,
}
"""The most frequent of the requests that seldom have to wait: tried first, without a coroutine. None: it has to."""

LATER: dict[int, Callable[[Any, Body, Ended], bool]] = {Opcode.FLUSH: _flush_later}
"""Requests that operations may see to while nobody waits. False: not this one, and nothing was done."""

_NAME_STARTS: dict[int, int] = {
    Opcode.LOOKUP: 0,
    Opcode.UNLINK: 0,
    Opcode.RMDIR: 0,
    Opcode.SYMLINK: 0,
    Opcode.LINK: protocol.LINK_IN.size,
    Opcode.MKDIR: protocol.MKDIR_IN.size,
    Opcode.MKNOD: protocol.MKNOD_IN.size,
    Opcode.CREATE: protocol.CREATE_IN.size,
    Opcode.RENAME: protocol.RENAME_IN.size,
    Opcode.RENAME2: protocol.RENAME2_IN.size,
    Opcode.GETXATTR: protocol.XATTR_IN.size,
}


def name_in(opcode: int, body: Body) -> bytes:
    """The name that a request is about, b"" for one that has none."""
    start = _NAME_STARTS.get(opcode)
    return b"" if start is None else bytes(body[start:]).partition(b"\0")[0]


def forgotten(opcode: int, node: int, body: Body) -> list[tuple[int, int]]:
    """Inodes, and how many lookups of each, of a FORGET or a BATCH_FORGET."""
    if opcode == Opcode.FORGET:
        return [(node, protocol.FORGET_IN.unpack_from(body)[0])]
    count, _ = protocol.BATCH_FORGET_IN.unpack_from(body)
    start = protocol.BATCH_FORGET_IN.size
    return list(protocol.FORGET_ONE.iter_unpack(body[start : start + count * protocol.FORGET_ONE.size]))
