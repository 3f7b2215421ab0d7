"""_matrix.npy and _hashes.txt of a collection: one array, and the content hash of each of its rows, a line each.

Each generation of the collection has inodes of its own: what is open stays as it was, and no cached page of an older
one is ever mixed with a newer.
"""

import stat
from typing import ClassVar

from lfsfs.embeddings import contents
from lfsfs.embeddings.snapshot import Snapshot, snapshot_of
from lfsfs.errors import NotFound
from lfsfs.fuse import EntryAttributes
from lfsfs.mount.nodes import SMALL_BLOCK_SIZE, Key, Node, NodeHandle, Opened, Tree, error, wants_write

MATRIX, HASHES = contents.MATRIX.encode(), contents.HASHES.encode()
MODE = stat.S_IFREG | 0o444


class WholeNode(Node):
    """One of the two, of one generation."""

    entry_seconds: float = 0.0  # the next lookup may find another generation

    def __init__(self, tree: Tree, key: Key, snapshot: Snapshot, created: int) -> None:
        super().__init__(tree, key)
        self.snapshot = snapshot
        self._created = created

    @property
    def size(self) -> int:
        raise NotImplementedError

    async def prepare(self) -> None:
        """What must be known before its size can be told."""

    async def content(self, offset: int, size: int) -> bytes:
        raise NotImplementedError

    def attributes(self) -> EntryAttributes:
        times = (self._created, self._created, self._created)
        answer = self.tree.attributes(self, MODE, size=self.size, times=times)
        answer.st_blksize = (
            SMALL_BLOCK_SIZE  # who reads the header is not made to wait for a thousand vectors
        )
        return answer

    async def open(self, flags: int) -> Opened:
        if wants_write(flags):
            raise error(30, "made from the vectors")
        await self.prepare()
        return Opened(WholeHandle(self), keep_cache=True)


class MatrixNode(WholeNode):
    """_matrix.npy"""

    @property
    def size(self) -> int:
        return self.snapshot.size

    async def content(self, offset: int, size: int) -> bytes:
        return await self.snapshot.read(offset, size)


class HashesNode(WholeNode):
    """_hashes.txt"""

    attribute_seconds: ClassVar[float] = (
        0.0  # its size is known when it was looked up, not when it was listed
    )

    def __init__(self, tree: Tree, key: Key, snapshot: Snapshot, created: int) -> None:
        super().__init__(tree, key, snapshot, created)
        self._text: bytes | None = None

    @property
    def size(self) -> int:
        return len(self._text or b"")

    async def prepare(self) -> None:
        if self._text is None:
            self._text = "".join(f"{text}\n" for text in await self.snapshot.hashes()).encode()

    async def content(self, offset: int, size: int) -> bytes:
        return (self._text or b"")[offset : offset + size]


class WholeHandle(NodeHandle[WholeNode]):
    """An open one: its node, and with it the generation, stays."""

    def __init__(self, node: WholeNode) -> None:
        super().__init__(node)
        node.tree.table.pin(node)

    async def read(self, offset: int, size: int) -> bytes:
        return await self.node.content(offset, size)

    async def release(self) -> None:
        self.node.tree.table.unpin(self.node)


def matrix_node(tree: Tree, collection: str, name: bytes) -> WholeNode | None:
    """The node of the present generation; None where the vectors make no matrix."""
    try:
        snapshot = snapshot_of(tree.store, collection)
    except NotFound:
        return None
    key = ("whole", collection, name, snapshot.generation)
    found = tree.table.find(key)
    if isinstance(found, WholeNode):
        return found
    other = tree.table.find(("whole", collection, HASHES if name == MATRIX else MATRIX, snapshot.generation))
    if isinstance(other, WholeNode):
        snapshot = other.snapshot  # the two agree row by row, and share what was read of the rows
    kind = MatrixNode if name == MATRIX else HashesNode
    return tree.table.intern(kind(tree, key, snapshot, tree.born + snapshot.generation))
