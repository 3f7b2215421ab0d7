"""embeddings/<collection>/: each vector as an npz file, and the collection as one array and the list of its hashes.

A file that is written under the name of a content hash is read as npz when it is closed, and becomes a vector or an
error; under any other name it is a draft that waits for its rename.
"""

import errno
import os
import stat
import time
from functools import cached_property
from typing import ClassVar

import pyfuse3
import trio

from lfsfs.embeddings.collection import Collection
from lfsfs.embeddings.contents import SUFFIX, VectorStat
from lfsfs.embeddings.embeddings import Embeddings
from lfsfs.embeddings.rows import check_name, hash_bytes
from lfsfs.errors import InvalidEmbedding, LfsfsError, NotFound
from lfsfs.mount.matrix import HASHES, MATRIX, WholeNode, matrix_node
from lfsfs.mount.nodes import (
    BLOCK_SIZE,
    SMALL_BLOCK_SIZE,
    Caller,
    Changes,
    Directory,
    Entry,
    Handle,
    Key,
    Node,
    Opened,
    Tree,
    error,
    wants_write,
)
from lfsfs.mount.table import Memo
from lfsfs.mount.watching import forget_entry, forget_inodes
from lfsfs.store.events import Event
from lfsfs.store.staging import StagedFile

PAGE = 4_000  # names that an open directory holds
KNOWN_PAGE = 20_000
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
    listed_whole: ClassVar[tuple[bytes, ...]] = (MATRIX, HASHES)

    def __init__(self, tree: Tree, collection: Collection) -> None:
        super().__init__(tree, ("collection", collection.name))
        self.collection = collection
        self.drafts: dict[bytes, VectorFile] = {}

    async def page(self, after: object) -> tuple[list[Entry], object]:
        """Drafts and the whole come before the first vectors."""
        found: list[Entry] = []
        if after is None:
            found += [(name, (name,)) for name in self.drafts]
            found += [(name, (name,)) for name in self.listed_whole if self._whole(name)]
        last = after if isinstance(after, str) else None
        vectors = await trio.to_thread.run_sync(self.collection.page, last, PAGE)
        names = ((_name(vector.content_hash), vector) for vector in vectors)
        found += [(name, (vector,)) for name, vector in names if name not in self.drafts]
        return found, vectors[-1].content_hash if len(vectors) == PAGE else None

    def child(self, name: bytes, key: Key) -> Node | None:
        if name in self.drafts:
            return self.drafts[name]
        if name in (MATRIX, HASHES):
            return self._whole(name)
        if not isinstance(key[0], VectorStat):
            return None
        return self._vector(name) or self.file_kind(self, name, key[0])

    def remake(self, token: bytes) -> Node | None:
        found = self.collection.stat(token.hex())
        return None if found is None else self.file_kind(self, _name(token.hex()), found)

    def name_of(self, token: bytes) -> bytes:
        return _name(token.hex())

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
        known = self._vector(name)
        if known is None:
            return self.tree.table.intern(self.file_kind(self, name, found))
        known.found = found
        return known

    def _whole(self, name: bytes) -> WholeNode | None:
        return matrix_node(self.tree, self.collection.name, name)

    def _vector(self, name: bytes) -> "VectorFile | None":
        """Its node, where it is one now."""
        known = self.tree.table.find(("vector", self.collection.name, name))
        return known if isinstance(known, VectorFile) else None

    # What another process has changed.

    async def changed(self, content_hashes: list[str]) -> None:
        """The kernel forgets what it knows of these vectors, which were replaced or deleted."""
        found = self.collection.stats_of(content_hashes)
        numbers = []
        for content_hash in content_hashes:
            name, now = _name(content_hash), found.get(content_hash)
            if now is None:
                forget_entry(self, name)
                continue
            node = self._vector(name)
            if node is None:
                numbers.append(self.tree.table.number_of(self.file_kind(self, name, now)))
            elif node.staged is None and node.found is not None and node.found.created != now.created:
                node.found = now
                numbers.append(node.number)
        await forget_inodes(number for number in numbers if number is not None)

    async def changed_throughout(self, since: int) -> None:
        """The same, of all that the kernel knows; `since`: what was written before is known as it is."""
        tokens = await trio.to_thread.run_sync(self.tree.table.below, self.key)
        nodes = [node for node in self.tree.table if isinstance(node, VectorFile) and node.directory is self]
        known = [token.hex() for token in tokens]
        known += [node.found.content_hash for node in nodes if node.found is not None]
        for start in range(0, len(known), KNOWN_PAGE):
            some = known[start : start + KNOWN_PAGE]
            found = await trio.to_thread.run_sync(self.collection.stats_of, some)
            await self.changed([text for text in some if text not in found or found[text].created > since])

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


async def vectors_changed(tree: Tree, happened: list[Event] | None, since: int) -> None:
    """The kernel forgets what it knows of vectors that another process has replaced or deleted. As `watch` tells it."""
    directories = [node for node in tree.table if isinstance(node, CollectionDirectory)]
    for directory in directories:
        prefix = directory.collection.prefix()
        own = [event for event in happened or () if prefix is not None and event.key.startswith(prefix)]
        if happened is None or any(event.kind == "collection-changed" for event in own):
            await directory.changed_throughout(since)
        elif own:
            hashes = [event.key[4:].hex() for event in own if event.kind == "vector-changed"]
            await directory.changed(hashes)


class VectorFile(Node):
    """One npz file: a vector of the collection (`found`), or a draft of one, or both while it is written over."""

    def __init__(self, directory: CollectionDirectory, name: bytes, found: VectorStat | None) -> None:
        content_hash = found.content_hash if found is not None else _content_hash(name)
        key = ("draft", id(self)) if content_hash is None else ("vector", directory.collection.name, name)
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

    def attributes(self) -> pyfuse3.EntryAttributes:
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
            try:
                await collection.write_npz(content_hash, file, replace=True)
            except InvalidEmbedding as invalid:
                raise InvalidEmbedding(f"{collection.path(content_hash)}: {invalid}") from invalid
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
            await forget_inodes([self.number])


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


def _name(content_hash: str) -> bytes:
    return (content_hash + SUFFIX).encode()


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
