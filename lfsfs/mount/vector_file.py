"""One npz file of embeddings/<collection>/: a vector, or a draft of one.

A file that is written under the name of a content hash is read as npz when it is closed, and becomes a vector or an
error; under any other name it is a draft that waits for its rename.
"""

import errno
import os
import stat
import time
from functools import cached_property
from typing import TYPE_CHECKING

import trio

from lfsfs.embeddings.collection import Collection
from lfsfs.embeddings.contents import SUFFIX, VectorStat
from lfsfs.embeddings.rows import hash_bytes
from lfsfs.errors import InvalidEmbedding, LfsfsError
from lfsfs.fuse import Changes, EntryAttributes
from lfsfs.mount.nodes import (
    BLOCK_SIZE,
    SMALL_BLOCK_SIZE,
    Handle,
    Node,
    NodeHandle,
    Opened,
    error,
    wants_write,
)
from lfsfs.mount.table import Memo
from lfsfs.mount.watching import forget_inodes
from lfsfs.store.staged_file import StagedFile

if TYPE_CHECKING:
    from lfsfs.mount.embeddings import CollectionDirectory

FILE_MODE = 0o644


class VectorFile(Node):
    """One npz file: a vector of the collection (`found`), or a draft of one, or both while it is written over."""

    def __init__(self, directory: "CollectionDirectory", name: bytes, found: VectorStat | None) -> None:
        content_hash = found.content_hash if found is not None else content_hash_of(name)
        key = (
            ("draft", os.urandom(8)) if content_hash is None else ("vector", directory.collection.name, name)
        )
        super().__init__(directory.tree, key)
        self.directory = directory
        self.name = name
        self.found = found
        self.staged: StagedFile | None = None
        self.writers = 0
        self.written = False
        self._memo = None if content_hash is None else Memo(directory.key, bytes.fromhex(content_hash))

    @cached_property
    def lock(self) -> trio.Lock:
        """Held while the draft is written to, and while it becomes a vector."""
        return trio.Lock()

    @property
    def remakeable(self) -> bool:
        return self.staged is None and self.found is not None

    def memo(self) -> Memo | None:
        """Its mark is when the vector was created of which the kernel has pages."""
        return self._memo

    def attributes(self) -> EntryAttributes:
        mode = stat.S_IFREG | FILE_MODE
        if self.staged is not None or self.found is None:
            now = time.time_ns()
            answer = self.tree.attributes(
                self, mode, size=self.staged.size if self.staged else 0, times=(now, now, now)
            )
            answer.entry_timeout = answer.attr_timeout = 0  # soon a vector, or by its rename another node
            return answer
        created = self.found.created
        size = self.found.npz_size
        answer = self.tree.attributes(self, mode, size=size, times=(created, created, created))
        if size < BLOCK_SIZE:
            answer.st_blksize = SMALL_BLOCK_SIZE
        return answer

    async def open(self, flags: int) -> Opened:
        writing = wants_write(flags)
        if writing:
            self.tree.require_writable()
            if flags & os.O_TRUNC:
                async with self.lock:
                    self.begin().truncate(0)
        return self._opened(writing=writing)

    def open_at_once(self, flags: int) -> Opened | None:
        return None if wants_write(flags) else self._opened(writing=False)

    def _opened(self, *, writing: bool) -> Opened:
        known = self.mark
        if self.found is not None and self.staged is None:
            self.mark = self.found.created
        return Opened(VectorHandle(self, writing), keep_cache=self.mark == known > 0)

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
            self.mark = 0
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
            content_hash = content_hash_of(self.name)
            if self.staged is None or not self.written or content_hash is None:
                return
            await self.store(self.directory.collection, content_hash)
            self.written = False

    async def store(self, collection: Collection, content_hash: str) -> None:
        """Under the lock."""
        if self.staged is None:
            raise error(errno.ENOENT)
        with self.staged.open() as file:
            try:
                await collection.write_npz(content_hash, file, replace=True)
            except InvalidEmbedding as invalid:
                raise InvalidEmbedding(f"{collection.path(content_hash)}: {invalid}") from invalid
        self.found = collection.stat(content_hash) if collection is self.directory.collection else self.found

    def move(self, directory: "CollectionDirectory", name: bytes) -> None:
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
        if self.staged is not None and content_hash_of(self.name) is not None:
            self.drop()
            await forget_inodes(self.tree, [self.number])


class VectorHandle(NodeHandle[VectorFile]):
    """An open npz file."""

    def __init__(self, node: VectorFile, writing: bool) -> None:
        super().__init__(node)
        self.writing = writing
        self.kept: bytes | None = None
        node.writers += writing
        node.tree.table.pin(node)

    async def read(self, offset: int, size: int) -> bytes:
        if self.node.staged is not None:
            return self.node.staged.read(offset, size)
        if self.kept is None:
            self.kept = await self.node.content()
        return self.kept[offset : offset + size]

    async def write(self, offset: int, piece: bytes) -> int:
        await self.node.write(offset, piece)
        return len(piece)

    @property
    def flushes(self) -> bool:
        return self.writing

    async def flush(self) -> None:
        node = self.node
        if not self.writing or not node.written:
            return  # a shell closes copies of a descriptor before it writes
        try:
            await node.commit()
        finally:
            if node.writers == 1:
                await node.settle()

    async def fsync(self) -> None:
        await self.node.commit()

    def release_at_once(self) -> bool:
        if self.writing:
            return False
        self.node.tree.table.unpin(self.node)
        return True

    async def release(self) -> None:
        node = self.node
        node.writers -= self.writing
        try:
            if self.writing and node.writers == 0:
                try:
                    await node.commit()
                finally:
                    await node.settle()
        finally:
            node.tree.table.unpin(node)


def name_of(content_hash: str) -> bytes:
    return (content_hash + SUFFIX).encode()


def content_hash_of(name: bytes) -> str | None:
    """What `<content_hash>.npz` names; None for any other name."""
    text = name.decode("ascii", "replace")
    if not text.endswith(SUFFIX):
        return None
    try:
        hash_bytes(text.removesuffix(SUFFIX))
    except LfsfsError:
        return None
    return text.removesuffix(SUFFIX)
