"""objects/aa/bb/<oid>: every object, read-only; and the commit, which is a rename or a link into it.

The two levels of directories are always there and list what is not empty. Under repos/NAME they list what the
repository refers to; a lookup of another oid that the store has succeeds and adds the reference (`open` sharing).
"""

import errno
import os
import stat
from contextlib import suppress

import trio

from lfsfs.errors import Corrupt, HashMismatch, InUse, InvalidOid, NotFound, Unavailable
from lfsfs.fuse import RENAME_NOREPLACE, Changes, EntryAttributes
from lfsfs.mount.nodes import Absent, Directory, Handle, Key, Node, Opened, Tree, error, wants_write
from lfsfs.mount.passthrough import Passage
from lfsfs.mount.workspace import WorkspaceDirectory, WorkspaceFile
from lfsfs.oid import Oid
from lfsfs.pointer import Pointer
from lfsfs.store import catalog, references, rendered
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.hashing import BLOCK_BYTES
from lfsfs.store.index import Tx
from lfsfs.store.references import next_digits
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.transfers import ObjectReader, Reader
from lfsfs.tiers.local import LocalTier

SHARED = 0
"""The repository number of the mountpoint itself, the root that lists everything."""
_LEVELS = 2
AT_ONCE_BYTES = 8 << 20  # of a file that is not larger all blocks are compared when it is opened
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
        if reader is None or not isinstance(store.tier, LocalTier):
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
        files = self.tree.backing_files
        if files is not None and files.agreed and not self.passage.decided:
            await handle.verify_small()
        return self.passage.enter(handle, files)

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
        self._reads += 1
        try:
            return await self._read(offset, size)
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
        self._released = True
        if self.node is not None:
            self.node.passage.leave(self, self._tree.backing_files)
        self._close_unused()

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


class ObjectsDirectory(Directory):
    """objects/ of one root, and the two levels below it: `prefix` is "", "aa" or "aabb"."""

    def __init__(self, tree: Tree, repository: int, prefix: str) -> None:
        super().__init__(tree, ("objects", repository, prefix))
        self.repository = repository
        self.prefix = prefix

    @property
    def _is_leaf(self) -> bool:
        return len(self.prefix) == 2 * _LEVELS

    async def lookup(self, name: bytes) -> Node | None:
        if name == b".git":
            return None  # git-lfs looks for it in every directory that it walks
        if self._is_leaf:
            oid = self._oid(name, NotFound)
            try:
                return await self._find_object(oid)
            except NotFound as missing:
                raise Absent(str(missing), self.tree.absences.tell(oid, self.number)) from missing
        text = name.decode("ascii", "replace")
        if len(text) != 2 or text.strip("0123456789abcdef"):
            raise NotFound(f"no {name!r} in objects/")
        return self.child(name, (text,))

    async def _find_object(self, oid: Oid) -> ObjectNode:
        """The object; one that is not known here is asked for at the remote tier, if there is one.

        While that does not answer, what is not known here is absent: git-lfs looks for an object before it makes it,
        and must be able to work on.
        """
        store = self.tree.store
        if self._may_come_from_elsewhere(oid) and store.lookup(oid) is None and not store.knows_all_objects:
            try:
                await store.find_row(oid)
            except Unavailable as away:
                raise NotFound(
                    f"no object {oid} is known here, and the remote tier does not answer"
                ) from away
        return await self._lookup_object(oid)

    def _may_come_from_elsewhere(self, oid: Oid) -> bool:
        return oid not in self.tree.withdrawn and (
            self.repository == SHARED or self.tree.options.sharing == "open"
        )

    async def _lookup_object(self, oid: Oid) -> ObjectNode:
        store, options = self.tree.store, self.tree.options
        if self.repository != SHARED and not store.references.has(self.repository, oid):
            if options.sharing == "isolated" or oid in self.tree.withdrawn or store.lookup(oid) is None:
                raise NotFound(f"no object {oid} here")
            if not options.read_only:
                await store.references.look_up(self.repository, oid)
        node = object_node(self.tree, oid)
        if node is None:
            raise NotFound(f"no object {oid}")
        return node

    def _oid(self, name: bytes, otherwise: type[Exception]) -> Oid:
        try:
            oid = Oid(name.decode("ascii", "replace"))
        except InvalidOid as invalid:
            raise otherwise(str(invalid)) from invalid
        if not oid.startswith(self.prefix):
            raise otherwise(f"{oid} does not belong in objects/{self.prefix[:2]}/{self.prefix[2:]}")
        return oid

    async def entries(self) -> list[tuple[bytes, Key]]:
        store = self.tree.store
        if self._is_leaf:
            return [(oid.encode(), (oid,)) for oid in self._oids()]
        if self.repository != SHARED:
            found = store.references.directories(self.repository, self.prefix)
        else:
            found = store.index.view(self._digits)
        return [(text.encode(), (text,)) for text in found]

    def _digits(self, tx: Tx) -> list[str]:
        stored = next_digits(tx, "objects", b"", self.prefix)
        return sorted({*stored, *next_digits(tx, "vectors", rendered.PREFIX, self.prefix)})

    def _oids(self) -> list[Oid]:
        store = self.tree.store
        if self.repository != SHARED:
            return store.references.oids(self.repository, self.prefix)
        start = bytes.fromhex(self.prefix)
        stored, made = store.index.view(
            lambda tx: (
                [
                    Oid.from_bytes(key)
                    for key, value in tx.scan("objects", prefix=start)
                    if value[0] != catalog.DELETING
                ],
                list(rendered.scan(tx, start)),
            )
        )
        return sorted({*stored, *made}) if made else stored

    def child(self, name: bytes, key: Key) -> Node | None:
        text = str(key[0])
        if self._is_leaf:
            node = object_node(self.tree, Oid(text))
            return None if node is None or node.corrupt else node  # what is corrupt is not listed
        below = self.prefix + text
        found = self.tree.table.find(("objects", self.repository, below))
        return found or self.tree.table.intern(ObjectsDirectory(self.tree, self.repository, below))

    async def create(self, name: bytes, mode: int, flags: int, caller: object) -> tuple[Node, Opened]:
        self._check_entry(name)
        raise error(errno.EROFS, "objects come by a rename or a link from tmp/, or through incoming/")

    async def mkdir(self, name: bytes, mode: int, caller: object) -> Node:
        self._check_entry(name)
        raise error(errno.EEXIST if not self._is_leaf else errno.EROFS)

    async def symlink(self, name: bytes, target: bytes, caller: object) -> Node:
        raise error(errno.EPERM, "no symbolic links in objects/")

    def _check_entry(self, name: bytes) -> None:
        """EINVAL for a name that can never be here."""
        if self._is_leaf:
            self._oid(name, InvalidOid)
        elif len(name) != 2 or name.strip(b"0123456789abcdef"):
            raise error(errno.EINVAL, f"{name!r} is not two hex digits")

    async def unlink(self, name: bytes) -> None:
        oid = self._oid(name, NotFound)
        self.tree.require_writable()
        if self.repository != SHARED:
            self.tree.store.references.drop_soon(self.repository, oid)
        elif self.tree.options.delete == "allow":
            await self.tree.store.discard(oid, reason="unlink")
        elif self.tree.store.lookup(oid) is None:
            raise NotFound(f"no object {oid}")
        else:
            raise error(
                errno.EPERM, "the shared root deletes nothing (mount with --delete allow, or use repos/NAME)"
            )

    async def rmdir(self, name: bytes) -> None:
        """A directory that is always there cannot go, but `rm -r` of a repository root is told that it did."""
        self._check_entry(name)
        if self._is_leaf:
            raise error(errno.ENOTDIR)
        if self.repository == SHARED:
            raise error(errno.EPERM)
        if self.tree.store.references.oids(self.repository, self.prefix + name.decode()):
            raise error(errno.ENOTEMPTY)

    async def receive(self, source: Node, old: bytes, new: bytes, flags: int) -> None:
        """The commit of git-lfs: rename of a file of tmp/ or incomplete/ to its oid."""
        if isinstance(source, ObjectsDirectory):
            raise error(errno.EPERM, "an object is not renamed")
        if not isinstance(source, WorkspaceDirectory):
            raise error(errno.EXDEV)
        self._check_entry(new)
        if not self._is_leaf:
            raise error(errno.EPERM)
        oid = self._oid(new, InvalidOid)
        if flags & RENAME_NOREPLACE and self.tree.store.lookup(oid) is not None:
            raise error(errno.EEXIST)
        node = source.file(old)
        async with node.lock:
            if node.is_still():
                await self._commit(node, oid)
            else:  # the object is a copy: who still has it open may go on writing to the file, and does it no harm
                self.tree.require_writable()
                await self._copy(node, oid)
            source.gone(old, node)

    async def _commit(self, node: WorkspaceFile, oid: Oid) -> None:
        self.tree.require_writable()
        sealed = await node.staged.seal(typed=False, to=self.tree.store.staging.new_path())
        if sealed.oid != oid:
            raise HashMismatch(f"the content of {node.name} has the oid {sealed.oid}: not stored as {oid}")
        repository = self.repository
        try:
            if repository == SHARED:
                await self.tree.store.commit(sealed)
            else:
                self.tree.store.admission.check_quota(repository, oid, sealed.size)
                await self.tree.store.commit(sealed, lambda tx: references.add(tx, repository, oid))
        finally:
            if sealed.content is not None:
                sealed.path.unlink(missing_ok=True)
        node.committed = True
        await self.tree.absences.end(oid, self.tree.kernel, renamed_into=self.number)

    async def link(self, node: Node, name: bytes) -> Node:
        """The other commit of git-lfs. An object is known already: it gets a reference. A file is copied first, so
        that nobody who may still write to it can change the object.
        """
        self._check_entry(name)
        if not self._is_leaf:
            raise error(errno.EPERM)
        oid = self._oid(name, InvalidOid)
        self.tree.require_writable()
        if isinstance(node, ObjectNode):
            if node.oid != oid:
                raise HashMismatch(f"the object {node.oid} is not linked as {oid}")
            if self.repository != SHARED:
                await self.tree.store.references.look_up(self.repository, oid)
        elif isinstance(node, WorkspaceFile):
            await self._commit_copy(node, oid)
        else:
            raise error(errno.EXDEV)
        return await self._lookup_object(oid)

    async def _commit_copy(self, node: WorkspaceFile, oid: Oid) -> None:
        async with node.lock:
            await self._copy(node, oid)

    async def _copy(self, node: WorkspaceFile, oid: Oid) -> None:
        repository = self.tree.store.repository_name(self.repository) if self.repository != SHARED else None
        await self.tree.store.put(node.staged.path, oid=oid, repository=repository)
        await self.tree.absences.end(oid, self.tree.kernel, renamed_into=self.number)
