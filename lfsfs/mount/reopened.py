"""Open files that another daemon has opened and this one has taken over, where there is something special about them."""

import errno

import trio

from lfsfs.mount.nodes import Handle, Tree, error
from lfsfs.mount.object_file import ObjectNode, open_object
from lfsfs.oid import Oid


class LostHandle(Handle):
    """An open file of something that is gone by now, and that could not be handed over."""

    async def read(self, offset: int, size: int) -> bytes:
        raise error(errno.ESTALE)


class LaterHandle(Handle):
    """An open object whose bytes are elsewhere: they are asked for when they are read."""

    def __init__(self, tree: Tree, oid: Oid, node: ObjectNode) -> None:
        self._tree = tree
        self.oid = oid
        self.node = node
        self._opening = trio.Lock()
        self._opened: Handle | None = None

    @property
    def what(self) -> str:
        return self.node.what

    async def read(self, offset: int, size: int) -> bytes:
        async with self._opening:
            if self._opened is None:
                self._opened = await open_object(self._tree, self.oid, self.node)
        return await self._opened.read(offset, size)

    async def release(self) -> None:
        self.node.passage.leave(self, self._tree.backing_files)
        if self._opened is not None:
            await self._opened.release()
