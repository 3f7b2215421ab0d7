"""ObjectNode, ObjectHandle: one object of the store as a file of the mount, and an open one of it."""

import errno
import os
import stat
from contextlib import suppress

import trio

from lfsfs.errors import Corrupt, InUse, NotFound, Unavailable
from lfsfs.fuse import Changes, EntryAttributes
from lfsfs.mount.nodes import Handle, Node, Opened, Tree, error, wants_write
from lfsfs.mount.passthrough import Passage
from lfsfs.oid import Oid
from lfsfs.pointer import Pointer
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.hashing import BLOCK_BYTES
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.transfers import ObjectReader, Reader
from lfsfs.tiers.local import LocalTier

AT_ONCE_BYTES = 8 << 20  # of a file that is not larger all blocks are compared when it is opened
AGAIN_SECONDS = 0.5  # the kernel asks again, for less, for what failed by its deadline: one read(2) has one
RESIDENT_BYTES = 128 << 10  # in the event loop, if the page cache has it


class ObjectNode(Node):
    """One object, the same node in every root. Its content never changes, so the kernel may keep its pages.

    One that was found corrupt can be renamed (git-lfs moves it to bad/), and neither be looked at nor opened: git-lfs
    takes it for absent then, and brings it again, from the work tree or from a remote. That heals it.
    """

    def __init__(self, tree: Tree, row: ObjectStat) -> None:
        super().__init__(tree, ("object", row.oid))
        self.oid = row.oid
        self.reader: ObjectReader | None = None
        self.stamp: tuple[int, int, int] | None = None  # of the file that it has verified: inode, size, time
        self.passage = Passage()
        self.refresh(row)

    def refresh(self, row: ObjectStat) -> None:
        """The row as it is now: an object may be found corrupt, and heal."""
        self.size = row.size
        self.mode = row.mode
        self.created = row.created
        self.corrupt = row.state == "corrupt"
        if self.corrupt:
            self.reader = None
            if self.lookups and self.tree.kernel is not None:
                self.tree.kernel.forget_attributes(self.number)

    def attributes(self) -> EntryAttributes:
        times = (self.created, self.created, self.created)
        links = 1 + self.tree.store.references.number(self.oid)
        # Objects have no owner of their own: whoever may use the mount may read them, or a maker whose umask is 077
        # could not read what he made.
        mode = self.mode | 0o444 if self.tree.options.allow_other else self.mode
        answer = self.tree.attributes(self, stat.S_IFREG | mode, size=self.size, times=times, links=links)
        if self.corrupt:
            answer.entry_timeout = answer.attr_timeout = 0
        return answer

    def stat(self) -> EntryAttributes:
        """ENOENT for a corrupt one: any other error of a stat ends a download of git-lfs, and so its healing."""
        if not self._is_whole():
            raise NotFound(f"object {self.oid} is corrupt")
        return self.attributes()

    def _open_known(self) -> "ObjectHandle | None":
        """Of the file that this node's reader knows: nothing needs to be looked up. None: it is not known, or gone."""
        store, reader = self.tree.store, self.reader
        if reader is None or not isinstance(store.tier, LocalTier) or not store.tier.plain:
            return None
        if store.remote is not None and not store.remote.cache.has(self.oid):
            return None
        try:
            fd = os.open(store.tier.path(self.oid), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        if _stamp(os.fstat(fd)) != self.stamp:
            os.close(fd)
            return None
        if store.remote is not None:
            store.remote.moved.hits += 1
        return ObjectHandle(self.tree, reader, fd)

    def _is_whole(self) -> bool:
        if self.corrupt:
            object_node(self.tree, self.oid)  # it may have been healed meanwhile, here or by another process
        return not self.corrupt

    async def open(self, flags: int) -> Opened:
        if not self._is_whole():
            raise Corrupt(f"object {self.oid} is corrupt: the next upload of it heals it")
        if wants_write(flags):
            raise error(errno.EROFS, "objects are read-only")
        handle = self._open_known() or await open_object(self.tree, self.oid, self)
        handle.node = self
        if self._may_pass:
            await handle.verify_small()
        return self._entered(handle)

    def open_at_once(self, flags: int) -> Opened | None:
        """Where its local file was opened before, and need not be compared any more."""
        reader = self.reader
        if reader is None or self.corrupt or wants_write(flags):
            return None
        if self._may_pass and reader.size <= AT_ONCE_BYTES and not reader.is_verified(0, reader.size):
            return None
        handle = self._open_known()
        if handle is None:
            return None
        handle.node = self
        return self._entered(handle)

    @property
    def _may_pass(self) -> bool:
        """Whether this open file decides if the kernel goes to the local file."""
        files = self.tree.backing_files
        return files is not None and files.agreed and not self.passage.decided

    def _entered(self, handle: "ObjectHandle") -> Opened:
        return self.passage.enter(
            handle, self.tree.backing_files, handle.verified_descriptor, reader=handle.reader, keep_cache=True
        )

    async def setattr(self, changes: Changes, handle: Handle | None) -> None:
        raise error(errno.EPERM, "objects are read-only")

    def xattrs(self) -> dict[bytes, bytes]:
        return object_xattrs(self.oid, self.size)


def object_xattrs(oid: Oid, size: int) -> dict[bytes, bytes]:
    return {b"user.lfsfs.oid": oid.encode(), b"user.lfsfs.pointer": Pointer.for_object(oid, size).encode()}


async def open_object(tree: Tree, oid: Oid, node: Node) -> "ObjectHandle":
    """A handle for reading; what one reader of the node has verified, the next one need not."""
    store = tree.store
    remote = store.remote
    if remote is not None and not remote.cache.has(oid):
        return ObjectHandle(tree, await store.open(oid), -1)
    row = await store.stat(oid)
    if isinstance(row, RenderedStat):
        return ObjectHandle(tree, await store.open(oid), -1)
    if row.state == "corrupt":
        raise Corrupt(f"object {oid} was found corrupt: not served")
    if remote is not None:
        remote.moved.hits += 1
    if not isinstance(store.tier, LocalTier) or not store.tier.plain:
        return ObjectHandle(tree, _local_reader(tree, node, row, None), -1, local=True)
    try:
        fd = os.open(store.tier.path(oid), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as missing:
        if remote is not None:
            return ObjectHandle(tree, await remote.fetches.heal(row), -1)
        await report_corrupt(tree, oid)
        raise Corrupt(f"object {oid} is in the index, its bytes are gone") from missing
    return ObjectHandle(tree, _local_reader(tree, node, row, os.fstat(fd)), fd)


def _local_reader(tree: Tree, node: Node, row: ObjectStat, file: os.stat_result | None) -> ObjectReader:
    """The node's, which knows what was verified of this file; a new one if that was written to since, or replaced."""
    stamp = None if file is None else _stamp(file)
    if isinstance(node, ObjectNode) and node.reader is not None and node.stamp == stamp:
        return node.reader
    reader = tree.store.local_reader(row)
    tree.store.record_access(row)
    if isinstance(node, ObjectNode):
        node.reader, node.stamp = reader, stamp
    return reader


def _stamp(file: os.stat_result) -> tuple[int, int, int]:
    return file.st_ino, file.st_size, file.st_mtime_ns


class ObjectHandle(Handle):
    """Reads verified bytes: from the page cache at once, from the disk in a thread, from a remote tier as they come.

    While it has a local file open, that is not evicted. What was released is closed after the last read has ended:
    before, a thread could read from a descriptor whose number serves another file by then.
    """

    def __init__(self, tree: Tree, reader: Reader, fd: int, *, local: bool = False) -> None:
        """`local`: its bytes are on the local disk, though not as they are."""
        self._tree = tree
        self.reader = reader
        self.node: ObjectNode | None = None  # whose passage it is to leave
        self._fd = fd
        self._healing = trio.Lock()
        self._gave_up: float | None = None
        self._reads = 0
        self._released = False
        self._held = (fd >= 0 or local) and tree.store.remote is not None
        if self._held and tree.store.remote is not None:
            tree.store.remote.cache.hold(reader.oid)

    @property
    def what(self) -> str:
        return f"object/{self.reader.oid}"

    @property
    def verified_descriptor(self) -> int:
        """The local file, if every block of it was compared; else -1."""
        reader = self.reader
        if self._fd < 0 or reader.size == 0 or not isinstance(reader, ObjectReader):
            return -1
        return self._fd if reader.is_verified(0, reader.size) else -1

    async def verify_small(self) -> None:
        """Compares all of it, where that takes no longer than the requests that it saves.

        What is damaged stays unverified: the read that meets it says so, or heals it.
        """
        reader = self.reader
        if self._fd < 0 or reader.size > AT_ONCE_BYTES or not isinstance(reader, ObjectReader):
            return
        if reader.is_verified(0, reader.size):
            return
        with suppress(Corrupt, OSError):
            if reader.size <= RESIDENT_BYTES and self._is_resident(reader.size):
                reader.read_file(self._fd, 0, reader.size)
            else:
                await trio.to_thread.run_sync(self._verify, reader, limiter=self._tree.verifying)

    def _is_resident(self, size: int) -> bool:
        """Whether the disk need not be waited for."""
        try:
            return os.preadv(self._fd, [bytearray(size)], 0, os.RWF_NOWAIT) == size
        except OSError:
            return False

    def _verify(self, reader: ObjectReader) -> None:
        for offset in range(0, reader.size, BLOCK_BYTES):
            reader.read_file(self._fd, offset, BLOCK_BYTES)

    async def read(self, offset: int, size: int) -> bytes:
        size = max(0, min(size, self.reader.size - offset))
        if size == 0:
            return b""
        if self._gave_up is not None and trio.current_time() < self._gave_up + AGAIN_SECONDS:
            raise Unavailable("the remote tier did not answer in time a moment ago")
        self._reads += 1
        try:
            return await self._read(offset, size)
        except Unavailable:
            self._gave_up = trio.current_time()
            raise
        finally:
            self._reads -= 1
            self._close_unused()

    async def _read(self, offset: int, size: int) -> bytes:
        reader = self.reader
        try:
            if not isinstance(reader, ObjectReader) or self._fd < 0:
                return await reader.read(offset, size)
            if reader.is_verified(offset, size):
                return await self._read_file(offset, size)
            return await trio.to_thread.run_sync(
                reader.read_file, self._fd, offset, size, limiter=self._tree.verifying
            )
        except (Corrupt, NotFound) as failed:
            if not isinstance(reader, ObjectReader) or self._tree.store.remote is None:
                raise await self._lost(failed) from failed
        return await self._heal(reader, offset, size)

    async def _heal(self, damaged: Reader, offset: int, size: int) -> bytes:
        """The local bytes are damaged, or gone: from now on those of the remote tier, if it has them.

        The kernel asks for several ranges at once: the first that finds it out heals for all.
        """
        async with self._healing:
            if self.reader is damaged:
                remote, row = self._tree.store.remote, self._tree.store.lookup(damaged.oid)
                try:
                    if remote is None or row is None:
                        raise Corrupt(f"object {damaged.oid} is damaged, and is nowhere else")
                    forget_reader(self._tree, row.oid)
                    self.reader = await remote.fetches.heal(row)
                except Corrupt as lost:
                    raise await self._lost(lost) from lost
        return await self._read(offset, size)

    async def _lost(self, failed: Exception) -> Corrupt:
        """What a reader is told of bytes that are nowhere as they should be; the store notes it."""
        oid = self.reader.oid
        if isinstance(failed, Corrupt):
            await report_corrupt(self._tree, oid)
            return failed
        return Corrupt(f"object {oid}: its bytes are gone")

    async def _read_file(self, offset: int, size: int) -> bytes:
        buffer = bytearray(size)
        try:
            if os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT) == size:
                return bytes(buffer)
        except OSError as refused:
            if refused.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
        piece = await trio.to_thread.run_sync(os.pread, self._fd, size, offset)
        if len(piece) != size:
            raise Corrupt(f"object {self.reader.oid}: {len(piece)} bytes at {offset} where {size} are due")
        return piece

    async def release(self) -> None:
        self.release_at_once()

    def release_at_once(self) -> bool:
        self._released = True
        if self.node is not None:
            self.node.passage.leave(self, self._tree.backing_files)
        self._close_unused()
        return True

    def _close_unused(self) -> None:
        if self._reads or not self._released:
            return
        self.reader.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._held and self._tree.store.remote is not None:
            self._held = False
            self._tree.store.remote.cache.unhold(self.reader.oid)


def forget_reader(tree: Tree, oid: Oid) -> None:
    """What was verified of the local bytes says nothing of those that take their place."""
    node = tree.table.find(("object", oid))
    if isinstance(node, ObjectNode):
        node.reader = None


async def report_corrupt(tree: Tree, oid: Oid) -> None:
    """Notes it in the index, and in the node that the kernel knows."""
    await tree.store.report_corrupt(oid)
    object_node(tree, oid)


def object_node(tree: Tree, oid: Oid) -> ObjectNode | None:
    """The node of an object of the store, as the index knows it now; None if there is none."""
    row = None if oid in tree.withdrawn else tree.store.lookup(oid)
    if row is None:
        return None
    found = tree.table.find(("object", oid))
    if not isinstance(found, ObjectNode):
        return tree.table.intern(ObjectNode(tree, row))
    if found.corrupt != (row.state == "corrupt"):
        found.refresh(row)
    return found


async def withdraw(tree: Tree, oid: Oid) -> None:
    """Takes back an object that only an unfinished file had made, unless anybody has seen it or refers to it."""
    if tree.table.find(("object", oid)) is not None or oid in tree.withdrawn:
        return
    tree.withdrawn.add(oid)
    try:
        await tree.store.delete(oid, everywhere=False)
    except (InUse, NotFound):
        pass  # it has become somebody else's, or is gone: both are as good
    finally:
        tree.withdrawn.discard(oid)
