"""A file of incoming/: its object, or the staged file that is to become one, and its open handles.

A file that is being written is staged: its bytes lie in staging, its name in memory only (`unborn`) until the first
commit, which writes object, inode and name in one transaction. A crash before that leaves nothing; a crash while a
committed file is written again leaves what it was. An open for writing of a committed file copies it at the first
write, never before: objects do not change.

close(2) of any descriptor is a flush, also of one that a fork has copied: a shell's `(one; two) > file` commits in
the middle. What such a commit made is taken back when the next one replaces it.
"""

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import trio

from lfsfs.errors import LfsfsError
from lfsfs.fuse import Changes, Ended, EntryAttributes, TakesMore
from lfsfs.mount.nodes import Handle, Node, NodeHandle, Opened, error, wants_write
from lfsfs.mount.object_file import ObjectHandle, object_xattrs, open_object, withdraw
from lfsfs.mount.watching import forget_entry, forget_inodes
from lfsfs.oid import EMPTY_OID, Oid
from lfsfs.store import names
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.names import Inode, Naming
from lfsfs.store.staged_file import Sealed, StagedFile

if TYPE_CHECKING:
    from lfsfs.mount.incoming import Incoming

_KIND_BITS = {"directory": stat.S_IFDIR, "file": stat.S_IFREG, "symlink": stat.S_IFLNK}


class IncomingNode(Node):
    """An inode of the tree; a symbolic link as it stands."""

    def __init__(self, view: "Incoming", inode: Inode) -> None:
        super().__init__(view.tree, ("incoming", inode.number))
        self.view = view
        self.inode = inode

    def attributes(self) -> EntryAttributes:
        inode = self.inode
        return self.tree.attributes(
            self, _KIND_BITS[inode.kind] | inode.mode, size=inode.size, links=max(1, inode.links),
            times=(inode.atime, inode.mtime, inode.ctime), owner=(inode.uid, inode.gid),
        )  # fmt: skip

    async def readlink(self) -> bytes:
        if self.inode.kind != "symlink":
            raise error(errno.EINVAL)
        return self.inode.target

    async def setattr(self, changes: Changes, handle: Handle | None) -> None:
        self.tree.require_writable()
        self._change(changes)

    def _change(self, changes: Changes) -> None:
        """Mode, owner and times: here at once, in the index with the next commit or within half a second."""
        now = time.time_ns()

        def changed(inode: Inode) -> Inode:
            return inode._replace(
                mode=inode.mode if changes.mode is None else changes.mode & 0o7777,
                uid=inode.uid if changes.uid is None else changes.uid,
                gid=inode.gid if changes.gid is None else changes.gid,
                atime=inode.atime if changes.atime is None else changes.atime,
                mtime=inode.mtime if changes.mtime is None else changes.mtime,
                ctime=now,
            )

        self.inode = changed(self.inode)
        self._defer(changed)

    def _defer(self, changed: Callable[[Inode], Inode]) -> None:
        token = trio.lowlevel.current_trio_token()
        number, table = self.inode.number, self.tree.table

        def write(tx: Tx) -> None:
            present = names.get(tx, number)
            if present is not None:
                names.put(tx, changed(present))

        def settled() -> None:
            try:
                token.run_sync_soon(table.unpin, self)
            except trio.RunFinishedError:
                pass  # the mount ended meanwhile, and its table with it

        table.pin(self)
        self.tree.store.index.defer(write, settled)


class IncomingFile(IncomingNode):
    """A regular file: its object, or the staged file that is to become one."""

    attribute_seconds: ClassVar[float] = 1.0

    def __init__(self, view: "Incoming", inode: Inode) -> None:
        super().__init__(view, inode)
        self.staged: StagedFile | None = None
        self.unborn: tuple[int, bytes] | None = None  # parent and name, while only memory knows them
        self.written = False  # since the last commit
        self.handles = 0
        self.writers = 0  # the handles that may write
        self.failure: OSError | LfsfsError | None = None  # of a write: what is staged is not what was meant
        self.passing: Oid | None = None  # what a flush in the middle of the writing made an object of

    @cached_property
    def lock(self) -> trio.Semaphore:
        """Held while what is staged becomes an object, and while there is something made to be staged.

        No trio.Lock: a commit that nobody waits for is begun by one task, and ended by none.
        """
        return trio.Semaphore(1, max_value=1)

    def attributes(self) -> EntryAttributes:
        staged = self.staged
        if staged is not None and staged.size != self.inode.size:
            self.inode = self.inode._replace(size=staged.size)
        return super().attributes()

    def xattrs(self) -> dict[bytes, bytes]:
        return {} if self.unborn else object_xattrs(self.inode.oid, self.inode.size)

    async def open(self, flags: int) -> Opened:
        writing = wants_write(flags)
        if writing:
            self.tree.require_writable()
        if flags & os.O_TRUNC:
            async with self.lock:
                self.stage_anew()
        return Opened(IncomingHandle(self, writing), keep_cache=True)

    async def setattr(self, changes: Changes, handle: Handle | None) -> None:
        self.tree.require_writable()
        if changes.size is not None:
            await self._truncate(changes.size)
        rest = replace(changes, size=None)
        if rest != Changes():
            self._change(rest)

    async def _truncate(self, size: int) -> None:
        async with self.lock:
            staged = self.stage_anew() if size == 0 else await self.stage()
            staged.truncate(size)
            self._wrote()
        if self.writers == 0:
            await self.commit()

    def stage_anew(self) -> StagedFile:
        """An empty staged file in place of what the file held."""
        if self.staged is None:
            self.staged = self.tree.store.staging.new_file()
            self.staged.acquire()
            self.tree.table.pin(self)
        self.staged.truncate(0)
        self.failure = None
        self._wrote()
        return self.staged

    async def stage(self) -> StagedFile:
        """The staged file, made from the object where there is none. Under the lock."""
        if self.staged is None:
            staged = self.tree.store.staging.new_file()
            staged.acquire()
            try:
                await self._copy_object(staged)
            except BaseException:
                staged.release()
                self.tree.store.staging.discard(staged)
                raise
            self.staged = staged
            self.tree.table.pin(self)
        return self.staged

    async def _copy_object(self, staged: StagedFile) -> None:
        """The object's bytes, compared on the way: what is damaged must not become another object."""
        if self.inode.oid != EMPTY_OID:
            async for piece in self.tree.store.download(self.inode.oid):
                await staged.reserve(len(piece))
                await staged.write(staged.size, piece)

    def _wrote(self) -> None:
        now = time.time_ns()
        self.inode = self.inode._replace(mtime=now, ctime=now)
        self.written = True

    async def write(self, offset: int, piece: bytes) -> None:
        try:
            staged = await self._writable(len(piece))
            self._wrote()
            await staged.write(offset, piece)
        except (OSError, LfsfsError) as failure:
            self.failure = failure
            raise

    async def _writable(self, size: int) -> StagedFile:
        """The staged file with room for so many bytes, while no commit is under way: what is sealed may be an object."""
        while True:
            if not self.lock.value or self.staged is None:
                async with self.lock:
                    staged = await self.stage()
            else:
                staged = self.staged
            await staged.reserve(size)
            if self.staged is staged and self.lock.value:
                return staged

    async def commit(self) -> None:
        """Seals what is staged and makes it the file's object. Nothing to do is success; repeating is harmless."""
        try:
            self.lock.acquire_nowait()  # `async with` would go round the event loop even where nobody has it
        except trio.WouldBlock:
            await self.lock.acquire()
        try:
            staged = self.staged
            if staged is None:
                return
            if self.failure is not None:
                raise error(self.failure.errno or errno.EIO, "a write failed before: not committed")
            if self.inode.links > 0:
                await self._commit(staged)
            elif self.handles > 0:
                return  # it has no name any more, and somebody still reads and writes it
            self._unstage(staged)
        finally:
            self.lock.release()

    def commit_later(self, ended: Ended) -> bool:
        """As `commit` of a few bytes, of which there is no object yet; nobody waits: `ended` is told.

        False: it is not as simple as that, and nothing was done.
        """
        staged = self.staged
        simple = staged is not None and self.passing is None and self.failure is None and self.inode.links > 0
        if not simple or not self.lock.value:
            return False
        assert staged is not None
        sealed = staged.seal_memory()
        if sealed is None or self.tree.absences.has(sealed.oid):
            return False
        begun, asked = time.time_ns(), self.inode
        naming = Naming(asked._replace(oid=sealed.oid, size=sealed.size), self.unborn)

        def told(row: ObjectStat | None, failed: BaseException | None) -> None:
            more = row is None
            if row is not None:
                self._committed(sealed, row, begun)
                self._mend(asked)
                more = self.tree.absences.has(sealed.oid)  # somebody has asked for it meanwhile
                if not more:
                    self._unstage(staged, written=False)
            self.lock.release()
            if failed is None:
                ended(TakesMore() if more else None)
            else:
                ended(failed if isinstance(failed, Exception) else LfsfsError(str(failed)))

        self.lock.acquire_nowait()
        if self.tree.store.commit_later(sealed, naming, told):
            return True
        self.lock.release()
        return False

    def _mend(self, asked: Inode) -> None:
        """What was set while the commit was under way may have found nothing in the index to change."""
        now = self.inode
        if (now.mode, now.uid, now.gid, now.atime, now.mtime) != (
            asked.mode, asked.uid, asked.gid, asked.atime, asked.mtime,
        ):  # fmt: skip
            self._change(Changes(mode=now.mode, uid=now.uid, gid=now.gid, atime=now.atime, mtime=now.mtime))

    async def _commit(self, staged: StagedFile) -> None:
        sealed = await staged.seal(typed=False)
        begun = time.time_ns()
        unborn = self.unborn

        def enter(tx: Tx) -> None:
            # As it is now: a mode or time that was set meanwhile has found nothing in the index to change.
            Naming(self.inode._replace(oid=sealed.oid, size=sealed.size), unborn).enter(tx)

        row = await self.tree.store.commit(sealed, enter)
        before = self.passing
        self._committed(sealed, row, begun)
        await self.tree.absences.end(sealed.oid, self.tree.kernel)
        if before is not None and before != sealed.oid:
            await withdraw(self.tree, before)

    def _committed(self, sealed: Sealed, row: ObjectStat, begun: int) -> None:
        self.inode = self.inode._replace(oid=sealed.oid, size=sealed.size)
        self.born()
        passes = row.created >= begun or sealed.oid in self.tree.passing
        self.pass_by(sealed.oid if passes and self.writers else None)

    def pass_by(self, oid: Oid | None) -> None:
        """This is what the file has made an object of in the middle of its writing; other files may have done the same.

        The last of them takes it back: while another one has it, it is in use.
        """
        passing = self.tree.passing
        if self.passing is not None:
            passing[self.passing] -= 1
            if not passing[self.passing]:
                del passing[self.passing]
        self.passing = oid
        if oid is not None:
            passing[oid] += 1

    def born(self) -> None:
        if self.unborn is not None:
            self.view.unborn.pop(self.unborn, None)
            self.unborn = None

    def _unstage(self, staged: StagedFile, *, written: bool = True) -> None:
        """`written`: its bytes may have been written to its path."""
        self.staged = None
        self.failure = None
        self.written = False
        staged.release()
        self.tree.store.staging.discard(staged, written=written)
        self.tree.table.unpin(self)

    def abandon(self) -> None:
        """Drops what was never committed."""
        self.born()
        if self.staged is not None:
            self._unstage(self.staged)

    async def give_up(self) -> None:
        """Drops what could not be committed. It is what it was before, and the kernel forgets the rest."""
        place = self.unborn
        self.abandon()
        if place is not None:
            self.inode = self.inode._replace(links=0)
            directory = self.tree.table.find(("incoming", place[0]))
            if directory is not None:
                forget_entry(directory, place[1])
            return
        self.inode = self.tree.store.index.view(lambda tx: names.get(tx, self.inode.number)) or self.inode
        await forget_inodes(self.tree, [self.number])


class IncomingHandle(NodeHandle[IncomingFile]):
    """An open file of the tree: reads the staged bytes while there are any, else the object."""

    def __init__(self, node: IncomingFile, writing: bool) -> None:
        super().__init__(node)
        self.writing = writing
        self._object: ObjectHandle | None = None
        self._oid = EMPTY_OID
        node.handles += 1
        node.writers += writing
        node.pass_by(None)  # whoever had it open before may have closed it for good
        node.tree.table.pin(node)

    @cached_property
    def _opening(self) -> trio.Lock:
        return trio.Lock()

    async def read(self, offset: int, size: int) -> bytes:
        node = self.node
        if node.staged is not None:
            return node.staged.read(offset, size)
        if node.inode.size == 0:
            return b""
        current = self._object
        if current is None or self._oid != node.inode.oid:
            current = await self._open_object()
        return await current.read(offset, size)

    async def _open_object(self) -> ObjectHandle:
        """The file's object as it is now, opened once however many reads ask for it."""
        async with self._opening:
            if self._object is None or self._oid != self.node.inode.oid:
                await self._close_object()
                oid = self.node.inode.oid
                self._object = await open_object(self.node.tree, oid, self.node)
                self._oid = oid
            return self._object

    async def write(self, offset: int, piece: bytes) -> int:
        await self.node.write(offset, piece)
        return len(piece)

    @property
    def flushes(self) -> bool:
        return True

    async def flush(self) -> None:
        if self.node.written and self.node.staged is not None and self.node.staged.size + self._touched() > 0:
            await self.node.commit()

    def flush_later(self, ended: Ended) -> bool:
        node = self.node
        staged = node.staged
        if not node.written or staged is None or staged.size + self._touched() == 0:
            ended(None)
            return True
        return node.commit_later(ended)

    def _touched(self) -> int:
        """A file that was made and never written is no object yet at its first flush; its release makes it one."""
        return 0 if self.node.unborn else 1

    async def fsync(self) -> None:
        await self.node.commit()

    async def release(self) -> None:
        node = self.node
        await self._close_object()
        node.handles -= 1
        node.writers -= self.writing
        node.pass_by(None)
        try:
            if node.staged is not None and node.writers == 0:
                await node.commit()
        except (LfsfsError, OSError):
            await node.give_up()  # nobody is left to be told, or to try again
            raise
        except BaseException:
            node.abandon()
            raise
        finally:
            node.tree.table.unpin(node)

    async def _close_object(self) -> None:
        if self._object is not None:
            await self._object.release()
            self._object = None
