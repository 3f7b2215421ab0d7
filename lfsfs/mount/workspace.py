"""tmp/ incomplete/ bad/ logs/ cache/ lockcache.db: git-lfs's own files, kept as plain files on the store's disk.

Each file is followed by a hash while it is written, because any of them may be renamed into objects/ next. The
state of that hash belongs to the inode, so it outlives close and re-open.
"""

import errno
import fcntl
import logging
import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import trio

from lfsfs.errors import NotFound
from lfsfs.fuse import RENAME_NOREPLACE, Caller, Changes, EntryAttributes
from lfsfs.mount.nodes import Absent, Handle, Key, Node, NodeHandle, Opened, Tree, error, wants_write
from lfsfs.mount.passthrough import Passage

if TYPE_CHECKING:
    from lfsfs.mount.nodes import NodeTable

log = logging.getLogger("lfsfs.mount")
BAD = "bad"
ABSENT_SECONDS = 0.1  # git-lfs looks twice for a name that it has just taken away


class WorkspaceFile(Node):
    """A plain file. `committed`: it has become an object and takes no more writes."""

    entry_seconds: float = 0.0  # a rename into objects/ makes another node of it, unknown to the kernel
    attribute_seconds: ClassVar[float] = 1.0

    def __init__(self, tree: Tree, key: Key, path: Path) -> None:
        super().__init__(tree, key)
        self.staged = tree.store.staging.follow(path, key)
        self.lock = trio.Lock()
        self.committed = False
        self.fd_stat: os.stat_result | None = None
        self.passage = Passage()

    @property
    def name(self) -> str:
        return self.staged.path.name

    def attributes(self) -> EntryAttributes:
        return plain_attributes(self.tree, self, self._stat())

    def _stat(self) -> os.stat_result:
        return os.fstat(self.staged.descriptor) if self.staged.users else os.lstat(self.staged.path)

    async def open(self, flags: int) -> Opened:
        if wants_write(flags):
            await self.settled()
        handle = WorkspaceHandle(self, wants_write(flags))
        if flags & os.O_TRUNC:
            self.staged.truncate(0)
        lends = handle.writing and self.staged.unbounded and not self.tree.lent.refused
        opened = self.passage.enter(handle, self.tree.backing_files, self.staged.descriptor if lends else -1)
        if handle.passed and handle.writing:
            self.lend()
        return opened

    def lend(self) -> None:
        """The kernel writes to it by itself from now on."""
        self.staged.lend()
        self.tree.lent.add(self.staged)

    def is_still(self) -> bool:
        """Whether nobody can write to it any more but through this node. Blocks for no time.

        What the kernel writes to by itself is written to after the last close as well, through a shared mapping.
        """
        if not self.staged.lent:
            return True
        try:
            return self.staged.users == 0 and written_by_nobody(self.staged.path)
        except FileNotFoundError:
            return False  # whoever copies it will say so
        except OSError as refused:
            log.info("git-lfs's writes go through the daemon: no leases here: %s", refused.strerror)
            self.tree.lent.refused = True
            return False

    async def settled(self) -> None:
        """Waits while a commit is under way. EROFS if the file has become an object by it."""
        if self.lock.locked():
            async with self.lock:
                pass
        if self.committed:
            raise error(errno.EROFS, "it has become an object")

    async def setattr(self, changes: Changes, handle: Handle | None) -> None:
        await self.settled()
        if changes.size is not None:
            self.staged.truncate(changes.size)
        change_plain(self.staged.path, changes, self._stat())


class WorkspaceHandle(NodeHandle[WorkspaceFile]):
    """An open plain file."""

    def __init__(self, node: WorkspaceFile, writing: bool) -> None:
        limits = node.tree.store.limits
        if limits is not None and writing:
            limits.check_uploads()
            limits.begin(self)
        super().__init__(node)
        self.writing = writing
        node.staged.acquire()
        node.tree.table.pin(node)

    async def read(self, offset: int, size: int) -> bytes:
        return self.node.staged.read(offset, size)

    async def write(self, offset: int, piece: bytes) -> int:
        node = self.node
        while True:
            await node.settled()
            await node.staged.reserve(len(piece))
            if not (node.lock.locked() or node.committed):
                break
        await node.staged.write(offset, piece)
        return len(piece)

    @property
    def flushes(self) -> bool:
        return self.passed and self.writing

    async def flush(self) -> None:
        """The hash keeps pace here, and not in the rename that follows: the kernel lets no two renames run at once."""
        if self.passed and self.writing:
            await self.node.staged.keep_pace()

    async def fsync(self) -> None:
        await trio.to_thread.run_sync(os.fsync, self.node.staged.descriptor)

    async def release(self) -> None:
        if self.node.tree.store.limits is not None:
            self.node.tree.store.limits.end(self)
        self.leave()
        self.node.staged.release()
        self.node.tree.table.unpin(self.node)

    def leave(self) -> None:
        node = self.node
        node.passage.leave(self, node.tree.backing_files)
        if not node.passage.number:
            node.tree.lent.remove(node.staged)


class WorkspaceDirectory(Node):
    """A plain directory at `path`. One that is `fixed` belongs to the mount, as does what it holds to its makers."""

    attribute_seconds: ClassVar[float] = 1.0

    def __init__(self, tree: Tree, key: Key, path: Path) -> None:
        super().__init__(tree, key)
        self.path = path
        self.fixed = False

    def attributes(self) -> EntryAttributes:
        found = plain_attributes(self.tree, self, os.lstat(self.path))
        if self.fixed:
            found.st_mode = stat.S_IFDIR | 0o777 & ~self.tree.options.umask
            found.st_uid, found.st_gid = self.tree.uid, self.tree.gid
        return found

    async def setattr(self, changes: Changes, handle: Handle | None) -> None:
        if changes.size is not None:
            raise error(errno.EISDIR)
        if self.fixed and (changes.mode, changes.uid, changes.gid) != (None, None, None):
            raise error(errno.EPERM, "the mount's own: --uid, --gid and --umask say whose it is")
        change_plain(self.path, changes, os.lstat(self.path))

    async def lookup(self, name: bytes) -> Node | None:
        try:
            return plain_node(self.tree, self._join(name))
        except FileNotFoundError as missing:  # nobody but the kernel makes names here
            raise Absent(f"no {os.fsdecode(name)} here", ABSENT_SECONDS) from missing

    async def entries(self) -> list[tuple[bytes, Key]]:
        return [(name, (name,)) for name in sorted(os.listdir(os.fsencode(self.path)))]

    def child(self, name: bytes, key: Key) -> Node | None:
        try:
            return plain_node(self.tree, self._join(name))
        except (FileNotFoundError, NotFound):
            return None

    async def create(self, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Node, Opened]:
        path = self._join(name)
        if self.tree.store.limits is not None:  # or an empty file would stay of what cannot be opened
            self.tree.store.limits.check_uploads()
        node = create_plain(self.tree, path, mode, flags, caller)
        return node, await node.open(flags)

    async def mkdir(self, name: bytes, mode: int, caller: Caller) -> Node:
        path = self._join(name)
        os.mkdir(path, 0o700)
        os.chmod(path, mode & 0o7777)
        _give(path, caller)
        return plain_node(self.tree, path)

    async def unlink(self, name: bytes) -> None:
        path = self._join(name)
        key = plain_key(os.lstat(path))
        os.unlink(path)
        forget_plain(self.tree, key)

    async def rmdir(self, name: bytes) -> None:
        path = self._join(name)
        node = self.tree.table.find(plain_key(os.lstat(path)))
        os.rmdir(path)
        if node is not None:
            retire(self.tree.table, node)

    async def receive(self, source: Node, old: bytes, new: bytes, flags: int) -> None:
        from lfsfs.mount.quarantine import quarantine  # objects know workspaces, not the other way round

        if not isinstance(source, WorkspaceDirectory):
            await quarantine(source, old, self, new)
            return
        target = self._join(new)
        if flags & RENAME_NOREPLACE and os.path.lexists(target):
            raise error(errno.EEXIST)
        moved = source.child(old, (old,))
        replaced = plain_key(os.lstat(target)) if os.path.lexists(target) else None
        os.rename(source._join(old), target)
        if replaced is not None and (moved is None or replaced != moved.key):
            forget_plain(self.tree, replaced)
        if isinstance(moved, WorkspaceFile):
            moved.staged.path = target
        elif isinstance(moved, WorkspaceDirectory):
            _move_below(self.tree.table, moved.path, target)

    def file(self, name: bytes) -> WorkspaceFile:
        """The file of that name, for a commit. EISDIR where it is none."""
        node = plain_node(self.tree, self._join(name))
        if not isinstance(node, WorkspaceFile):
            raise error(errno.EISDIR, f"{os.fsdecode(name)} is a directory")
        return node

    def gone(self, name: bytes, node: WorkspaceFile) -> None:
        """The file has become an object: its name goes."""
        os.unlink(self._join(name))
        forget_plain(self.tree, node.key)

    def _join(self, name: bytes) -> Path:
        return self.path / os.fsdecode(name)


def plain_key(found: os.stat_result) -> Key:
    return ("plain", found.st_dev, found.st_ino)


def plain_node(tree: Tree, path: Path) -> Node:
    """The node of a plain file or directory. FileNotFoundError if there is none; NotFound where it is neither."""
    found = os.lstat(path)
    key = plain_key(found)
    node = tree.table.find(key)
    if node is not None and _lies_at(node, path, found):
        return node
    if node is not None:
        retire(tree.table, node)  # what it stood for is gone, and the disk gave its inode number to this one
    if stat.S_ISDIR(found.st_mode):
        return tree.table.intern(WorkspaceDirectory(tree, key, path))
    if not stat.S_ISREG(found.st_mode):
        raise NotFound(f"{path.name} is neither a file nor a directory")
    return tree.table.intern(WorkspaceFile(tree, key, path))


def _lies_at(node: Node, path: Path, found: os.stat_result) -> bool:
    if isinstance(node, WorkspaceDirectory):
        return stat.S_ISDIR(found.st_mode) and node.path == path
    return isinstance(node, WorkspaceFile) and stat.S_ISREG(found.st_mode) and node.staged.path == path


def forget_plain(tree: Tree, key: Key) -> None:
    """The file of that key is gone: nothing of it is left, but for who has it open."""
    tree.store.staging.forget(key)
    node = tree.table.find(key)
    if node is not None:
        retire(tree.table, node)


def create_plain(tree: Tree, path: Path, mode: int, flags: int, caller: Caller) -> WorkspaceFile:
    """Creates a file, or finds it where it is there and `flags` allow that."""
    # Without O_TRUNC: one that is there is cut by its node, whose hash must know.
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags & os.O_EXCL, 0o600)
    try:
        if os.fstat(fd).st_size == 0:
            os.fchmod(fd, mode & 0o7777)
            _give(path, caller)
    finally:
        os.close(fd)
    node = plain_node(tree, path)
    if not isinstance(node, WorkspaceFile):
        raise error(errno.EISDIR)
    return node


def plain_attributes(tree: Tree, node: Node, found: os.stat_result) -> EntryAttributes:
    times = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
    owner = (found.st_uid, found.st_gid)
    links = 1 if stat.S_ISREG(found.st_mode) else found.st_nlink
    return tree.attributes(
        node, found.st_mode, size=found.st_size, times=times, links=links, owner=owner, blocks=found.st_blocks
    )


def change_plain(path: Path, changes: Changes, found: os.stat_result) -> None:
    if changes.mode is not None:
        os.chmod(path, changes.mode & 0o7777)
    if changes.uid is not None or changes.gid is not None:
        os.chown(path, -1 if changes.uid is None else changes.uid, -1 if changes.gid is None else changes.gid)
    if changes.atime is not None or changes.mtime is not None:
        atime = found.st_atime_ns if changes.atime is None else changes.atime
        os.utime(path, ns=(atime, found.st_mtime_ns if changes.mtime is None else changes.mtime))


def _give(path: Path, caller: Caller) -> None:
    """The file belongs to who made it, where this process may say so."""
    if os.geteuid() == 0 and (caller.uid, caller.gid) != (0, 0):
        os.chown(path, caller.uid, caller.gid)


def written_by_nobody(path: Path) -> bool:
    """Whether no process, this one included, has the file open for writing, or mapped: else it gives no lease on it.

    OSError where that cannot be known: another user's file without CAP_LEASE, a file system without leases.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.fcntl(
            fd, fcntl.F_SETSIG, signal.SIGURG
        )  # whoever opens it right now: a signal that does nothing
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def retire(table: "NodeTable", node: Node) -> None:
    """The file is gone, its inode number on disk may serve another one: the node, if it is still open, steps aside."""
    table.rekey(node, ("retired", node.number))


def _move_below(table: "NodeTable", old: Path, new: Path) -> None:
    for node in table:
        if isinstance(node, WorkspaceDirectory) and node.path.is_relative_to(old):
            node.path = new / node.path.relative_to(old)
        elif isinstance(node, WorkspaceFile) and node.staged.path.is_relative_to(old):
            node.staged.path = new / node.staged.path.relative_to(old)
