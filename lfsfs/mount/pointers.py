"""pointers/<any/path>: the LFS pointer of each name in incoming/: copy it into a repository instead of the file."""

import stat
from typing import ClassVar

from lfsfs.errors import NotFound
from lfsfs.fuse import EntryAttributes
from lfsfs.mount.nodes import Directory, Key, Node, Opened, TextHandle, Tree, error, wants_write
from lfsfs.pointer import Pointer
from lfsfs.store import names
from lfsfs.store.names import Inode


class PointerNode(Directory):
    """The mirror of one inode of incoming/, as the index knows it: a file shows its last committed content."""

    entry_seconds: float = 0.0
    attribute_seconds: ClassVar[float] = 0.0

    def __init__(self, tree: Tree, inode: Inode) -> None:
        super().__init__(tree, ("pointer", inode.number))
        self.inode = inode

    def _refresh(self) -> Inode:
        self.inode = self.tree.store.index.view(lambda tx: names.get(tx, self.inode.number)) or self.inode
        return self.inode

    def _text(self) -> bytes:
        inode = self._refresh()
        return Pointer.for_object(inode.oid, inode.size).encode()

    def attributes(self) -> EntryAttributes:
        inode = self._refresh()
        times, owner = (inode.atime, inode.mtime, inode.ctime), (inode.uid, inode.gid)
        if inode.kind == "directory":
            return self.tree.attributes(self, stat.S_IFDIR | 0o555, times=times, owner=owner)
        if inode.kind == "symlink":
            return self.tree.attributes(self, stat.S_IFLNK | 0o777, size=inode.size, times=times, owner=owner)
        mode = stat.S_IFREG | inode.mode & 0o444
        return self.tree.attributes(self, mode, size=len(self._text()), times=times, owner=owner)

    async def open(self, flags: int) -> Opened:
        if wants_write(flags):
            raise error(30, "pointers are made from incoming/")
        return Opened(TextHandle(self._text()))

    async def readlink(self) -> bytes:
        return self.inode.target

    async def lookup(self, name: bytes) -> Node | None:
        found = self.tree.store.index.view(lambda tx: names.find(tx, self.inode.number, name))
        if found is None:
            raise NotFound(f"no {name!r} here")
        return pointer_node(self.tree, found)

    async def entries(self) -> list[tuple[bytes, Key]]:
        found = self.tree.store.index.view(lambda tx: names.children(tx, self.inode.number))
        return [(name, (number,)) for name, number in found]

    def child(self, name: bytes, key: Key) -> Node | None:
        found = self.tree.store.index.view(lambda tx: names.get(tx, int(str(key[0]))))
        return None if found is None else pointer_node(self.tree, found)


def pointer_node(tree: Tree, inode: Inode) -> PointerNode:
    found = tree.table.find(("pointer", inode.number))
    return found if isinstance(found, PointerNode) else tree.table.intern(PointerNode(tree, inode))
