"""embeddings/<collection>/: each vector as an npz file, and the collection as one array and the list of its hashes."""

import errno
import os
from typing import ClassVar

import trio

from lfsfs.embeddings.collection import Collection
from lfsfs.embeddings.contents import VectorStat
from lfsfs.embeddings.embeddings import Embeddings
from lfsfs.embeddings.rows import check_name
from lfsfs.errors import NotFound
from lfsfs.fuse import RENAME_NOREPLACE, Caller
from lfsfs.mount.matrix import HASHES, MATRIX, WholeNode, matrix_node
from lfsfs.mount.nodes import Directory, Entry, Key, Node, Opened, Tree, error
from lfsfs.mount.vector_file import VectorFile, content_hash_of, name_of
from lfsfs.mount.watching import forget_entry, forget_inodes
from lfsfs.store.events import Event

PAGE = 4_000  # names that an open directory holds
KNOWN_PAGE = 20_000


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

    file_kind: ClassVar[type[VectorFile]] = VectorFile
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
        names = ((name_of(vector.content_hash), vector) for vector in vectors)
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
        return None if found is None else self.file_kind(self, name_of(token.hex()), found)

    def name_of(self, token: bytes) -> bytes:
        return name_of(token.hex())

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
        found = self.collection.stat(content_hash_of(name) or "")
        if found is None:
            raise NotFound(f"no {name!r} in {self.collection.name}")
        known = self._vector(name)
        if known is None:
            return self.tree.table.intern(self.file_kind(self, name, found))
        known.found = found
        return known

    def _whole(self, name: bytes) -> WholeNode | None:
        return matrix_node(self.tree, self.collection.name, name)

    def _vector(self, name: bytes) -> VectorFile | None:
        """Its node, where it is one now."""
        known = self.tree.table.find(("vector", self.collection.name, name))
        return known if isinstance(known, VectorFile) else None

    # What another process has changed.

    async def changed(self, content_hashes: list[str]) -> None:
        """The kernel forgets what it knows of these vectors, which were replaced or deleted."""
        found = self.collection.stats_of(content_hashes)
        numbers = []
        for content_hash in content_hashes:
            name, now = name_of(content_hash), found.get(content_hash)
            if now is None:
                forget_entry(self, name)
                continue
            node = self._vector(name)
            if node is None:
                numbers.append(self.tree.table.number_of(self.file_kind(self, name, now)))
            elif node.staged is None and node.found is not None and node.found.created != now.created:
                node.found = now
                numbers.append(node.number)
        await forget_inodes(self.tree, (number for number in numbers if number is not None))

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
        content_hash = content_hash_of(name)
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
        content_hash = content_hash_of(new)
        if content_hash is None:
            draft.move(self, new)
            return
        if flags & RENAME_NOREPLACE and self.collection.stat(content_hash) is not None:
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


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as undecodable:
        raise NotFound(f"no {name!r} here") from undecodable
