"""embeddings/<collection>/: each vector as an npz file, and the collection as one array and the list of its hashes.

A file that is written under the name of a content hash is read as npz when it is closed, and becomes a vector or an
error; under any other name it is a draft that waits for its rename.
"""

import contextlib
import errno
import os
import stat
import time
from typing import ClassVar

import pyfuse3
import trio

from lfsfs.embeddings.collection import SUFFIX, Collection, VectorStat
from lfsfs.embeddings.embeddings import Embeddings
from lfsfs.embeddings.rows import check_name, hash_bytes
from lfsfs.errors import LfsfsError, NotFound
from lfsfs.mount.matrix import HASHES, MATRIX, WholeNode, matrix_node
from lfsfs.mount.nodes import Caller, Changes, Directory, Handle, Key, Node, Opened, Tree, error, wants_write
from lfsfs.store.staging import StagedFile

PAGE = 10_000
FILE_MODE = 0o644


class EmbeddingsDirectory(Directory):
    """embeddings/ itself. `mkdir` makes a collection, `rmdir` of an empty one removes it."""

    def __init__(self, tree: Tree, embeddings: Embeddings) -> None:
        super().__init__(tree, ("embeddings",))
        self._embeddings = embeddings

    async def entries(self) -> list[tuple[bytes, Key]]:
        return [(name.encode(), (name,)) for name in self._embeddings.collections()]

    async def lookup(self, name: bytes) -> Node | None:
        text = _text(name)
        if text not in self._embeddings.collections():
            raise NotFound(f"no collection {text!r}")
        return self.child(name, (text,))

    def child(self, name: bytes, key: Key) -> Node | None:
        return self._directory(str(key[0]))

    def _directory(self, name: str) -> Node:
        found = self.tree.table.find(("collection", name))
        return found or self.tree.table.intern(
            CollectionDirectory(self.tree, self._embeddings.collection(name))
        )

    async def create(self, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Node, Opened]:
        raise error(errno.EPERM, "embeddings/ holds collections: mkdir makes one")

    async def mkdir(self, name: bytes, mode: int, caller: Caller) -> Node:
        self.tree.require_writable()
        text = check_name(_text(name))
        if text in self._embeddings.collections():
            raise error(errno.EEXIST)
        await self._embeddings.create(text)
        return self._directory(text)

    async def rmdir(self, name: bytes) -> None:
        self.tree.require_writable()
        text = _text(name)
        if text not in self._embeddings.collections():
            raise NotFound(f"no collection {text!r}")
        node = self.tree.table.find(("collection", text))
        if self._embeddings.collection(text).count() or (
            isinstance(node, CollectionDirectory) and node.drafts
        ):
            raise error(errno.ENOTEMPTY)
        await self._embeddings.remove(text)


class CollectionDirectory(Directory):
    """One collection. `drafts`: what is being written, by its name."""

    file_kind: "ClassVar[type[VectorFile]]"

    def __init__(self, tree: Tree, collection: Collection) -> None:
        super().__init__(tree, ("collection", collection.name))
        self.collection = collection
        self.drafts: dict[bytes, VectorFile] = {}

    async def entries(self) -> list[tuple[bytes, Key]]:
        drafts: list[tuple[bytes, Key]] = [(name, (name,)) for name in self.drafts]
        whole: list[tuple[bytes, Key]] = [(name, (name,)) for name in (MATRIX, HASHES) if self._whole(name)]
        return drafts + whole + await trio.to_thread.run_sync(self._vectors)

    def _vectors(self) -> list[tuple[bytes, Key]]:
        found: list[tuple[bytes, Key]] = []
        after = None
        while page := self.collection.page(after, PAGE):
            after = page[-1].content_hash
            for vector in page:
                name = (vector.content_hash + SUFFIX).encode()
                if name not in self.drafts:
                    found.append((name, (vector,)))
        return found

    def child(self, name: bytes, key: Key) -> Node | None:
        if name in self.drafts:
            return self.drafts[name]
        if name in (MATRIX, HASHES):
            return self._whole(name)
        return self._vector(name, key[0]) if isinstance(key[0], VectorStat) else None

    async def lookup(self, name: bytes) -> Node | None:
        if name == b".git":
            return None
        if name in self.drafts:
            return self.drafts[name]
        if name in (MATRIX, HASHES):
            node = self._whole(name)
            if node is None:
                raise NotFound(f"no {name!r}: the collection is empty, or of more than one dtype or shape")
            await node.prepare()
            return node
        found = self.collection.stat(_content_hash(name) or "")
        if found is None:
            raise NotFound(f"no {name!r} in {self.collection.name}")
        return self._vector(name, found)

    def _whole(self, name: bytes) -> WholeNode | None:
        return matrix_node(self.tree, self.collection.name, name)

    def _vector(self, name: bytes, found: VectorStat) -> "VectorFile":
        known = self.tree.table.find(("vector", self.collection.name, name))
        if isinstance(known, VectorFile):
            known.found = found
            return known
        return self.tree.table.intern(self.file_kind(self, name, found))

    async def create(self, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Node, Opened]:
        self.tree.require_writable()
        if name in (MATRIX, HASHES):
            raise error(errno.EPERM, "made from the vectors")
        try:
            node = await self.lookup(name)
        except NotFound:
            node = None
        if node is not None:
            if flags & os.O_EXCL:
                raise error(errno.EEXIST)
            return node, await node.open(flags)
        if len(name) > 255:
            raise error(errno.ENAMETOOLONG)
        draft = self.tree.table.intern(self.file_kind(self, name, None))
        draft.begin()
        return draft, await draft.open(flags & ~os.O_TRUNC)

    async def mkdir(self, name: bytes, mode: int, caller: Caller) -> Node:
        raise error(errno.EPERM, "a collection holds no directories")

    async def unlink(self, name: bytes) -> None:
        self.tree.require_writable()
        draft = self.drafts.get(name)
        if draft is not None:
            draft.drop()
            if draft.found is None:
                return
        content_hash = _content_hash(name)
        if content_hash is None or not await self.collection.delete(content_hash):
            raise error(errno.EPERM if name in (MATRIX, HASHES) else errno.ENOENT)

    async def receive(self, source: Node, old: bytes, new: bytes, flags: int) -> None:
        """A draft gets its name: under that of a content hash it becomes a vector, or the rename fails."""
        self.tree.require_writable()
        draft = source.drafts.get(old) if isinstance(source, CollectionDirectory) else None
        if draft is None or draft.found is not None:
            raise error(errno.EPERM if isinstance(source, CollectionDirectory) else errno.EXDEV)
        if new in (MATRIX, HASHES):
            raise error(errno.EPERM)
        content_hash = _content_hash(new)
        if content_hash is None:
            draft.move(self, new)
            return
        if flags & pyfuse3.RENAME_NOREPLACE and self.collection.stat(content_hash) is not None:
            raise error(errno.EEXIST)
        async with draft.lock:
            await draft.store(self.collection, content_hash)
        draft.drop()


class VectorFile(Node):
    """One npz file: a vector of the collection (`found`), or a draft of one, or both while it is written over."""

    entry_seconds: float = 1.0  # as soon as that, what another process has written shows
    attribute_seconds: ClassVar[float] = 1.0

    def __init__(self, directory: CollectionDirectory, name: bytes, found: VectorStat | None) -> None:
        named = found is not None or _content_hash(name) is not None
        super().__init__(
            directory.tree, ("vector", directory.collection.name, name) if named else ("draft", id(self))
        )
        if not named:
            self.entry_seconds = 0.0  # its rename makes another node of it, unknown to the kernel
        self.directory = directory
        self.name = name
        self.found = found
        self.lock = trio.Lock()
        self.staged: StagedFile | None = None
        self.writers = 0
        self.written = False
        self._cached: tuple[int, int] | None = None  # created and size of what the kernel has pages of

    def attributes(self) -> pyfuse3.EntryAttributes:
        mode = stat.S_IFREG | FILE_MODE
        if self.staged is not None or self.found is None:
            now = time.time_ns()
            return self.tree.attributes(
                self, mode, size=self.staged.size if self.staged else 0, times=(now, now, now)
            )
        created = self.found.created
        return self.tree.attributes(self, mode, size=self.found.npz_size, times=(created, created, created))

    async def open(self, flags: int) -> Opened:
        writing = wants_write(flags)
        if writing:
            self.tree.require_writable()
            if flags & os.O_TRUNC:
                async with self.lock:
                    self.begin().truncate(0)
        same = self.found is not None and self._cached == (self.found.created, self.found.npz_size)
        if self.found is not None and self.staged is None:
            self._cached = (self.found.created, self.found.npz_size)
        return Opened(VectorHandle(self, writing), keep_cache=same and self.staged is None)

    async def setattr(self, changes: Changes, handle: Handle | None) -> None:
        """Times, modes and owners of a vector are what they are: cp -a and rsync may set them, to no effect."""
        self.tree.require_writable()
        if changes.size is not None:
            async with self.lock:
                (await self.staged_copy()).truncate(changes.size)
                self.written = True

    def begin(self) -> StagedFile:
        """An empty draft, if there is none yet."""
        if self.staged is None:
            self.staged = self.tree.store.staging.new_file()
            self.staged.acquire()
            self.directory.drafts[self.name] = self
            self.tree.table.pin(self)
            self._cached = None
        return self.staged

    async def staged_copy(self) -> StagedFile:
        """A draft with the bytes of the vector, if there is none yet."""
        if self.staged is None:
            content = await self.content()
            staged = self.begin()
            await staged.reserve(len(content))
            await staged.write(0, content)
        assert self.staged is not None
        return self.staged

    async def content(self) -> bytes:
        return await self.directory.collection.render(self.found.content_hash) if self.found else b""

    async def write(self, offset: int, piece: bytes) -> None:
        async with self.lock:
            staged = await self.staged_copy()
            await staged.reserve(len(piece))
            await staged.write(offset, piece)
            self.written = True

    async def commit(self) -> None:
        """What was written becomes the vector of this name. EINVAL where it is no npz file of one."""
        async with self.lock:
            content_hash = _content_hash(self.name)
            if self.staged is None or not self.written or content_hash is None:
                return
            await self.store(self.directory.collection, content_hash)
            self.written = False

    async def store(self, collection: Collection, content_hash: str) -> None:
        """Under the lock."""
        if self.staged is None:
            raise error(errno.ENOENT)
        with self.staged.open() as file:
            await collection.write_npz(content_hash, file, replace=True)
        self.found = collection.stat(content_hash) if collection is self.directory.collection else self.found

    def move(self, directory: CollectionDirectory, name: bytes) -> None:
        """A draft under another name; one that had it goes."""
        replaced = directory.drafts.get(name)
        if replaced is not None and replaced is not self:
            replaced.drop()
        self.directory.drafts.pop(self.name, None)
        self.directory, self.name = directory, name
        directory.drafts[name] = self

    def drop(self) -> None:
        """The draft goes; the vector, if there is one, shows again."""
        if self.staged is not None:
            staged, self.staged = self.staged, None
            self.written = False
            staged.release()
            self.tree.store.staging.discard(staged)
            if self.directory.drafts.get(self.name) is self:
                del self.directory.drafts[self.name]
            self.tree.table.unpin(self)

    async def settle(self) -> None:
        """What was written has become a vector, or has not: either way the file is the vector's again.

        The kernel forgets what it kept of the bytes that were written: the vector's file has others.
        """
        if self.staged is not None and _content_hash(self.name) is not None:
            self.drop()
            await trio.to_thread.run_sync(self.forget_pages)

    def forget_pages(self) -> None:
        """In a thread: the kernel may wait for a request of ours that is under way."""
        with contextlib.suppress(FileNotFoundError):
            pyfuse3.invalidate_inode(pyfuse3.InodeT(self.number))


CollectionDirectory.file_kind = VectorFile


class VectorHandle(Handle):
    """An open npz file."""

    def __init__(self, node: VectorFile, writing: bool) -> None:
        self._node = node
        self._writing = writing
        self._content: bytes | None = None
        node.writers += writing
        node.tree.table.pin(node)

    async def read(self, offset: int, size: int) -> bytes:
        if self._node.staged is not None:
            return self._node.staged.read(offset, size)
        if self._content is None:
            self._content = await self._node.content()
        return self._content[offset : offset + size]

    async def write(self, offset: int, piece: bytes) -> int:
        await self._node.write(offset, piece)
        return len(piece)

    async def flush(self) -> None:
        node = self._node
        if not self._writing or not node.written:
            return  # a shell closes copies of a descriptor before it writes
        try:
            await node.commit()
        finally:
            if node.writers == 1:
                await node.settle()

    async def fsync(self) -> None:
        await self._node.commit()

    async def release(self) -> None:
        node = self._node
        node.writers -= self._writing
        try:
            if node.writers == 0:
                try:
                    await node.commit()
                finally:
                    await node.settle()
        finally:
            node.tree.table.unpin(node)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as undecodable:
        raise NotFound(f"no {name!r} here") from undecodable


def _content_hash(name: bytes) -> str | None:
    """What `<content_hash>.npz` names; None for any other name."""
    text = name.decode("ascii", "replace")
    if not text.endswith(SUFFIX):
        return None
    try:
        hash_bytes(text.removesuffix(SUFFIX))
    except LfsfsError:
        return None
    return text.removesuffix(SUFFIX)
