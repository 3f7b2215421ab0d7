"""incoming/<any/path>: an ordinary tree to write into, whose files become objects when they are closed."""

import errno
import os
import time
from typing import ClassVar

from lfsfs.errors import Exists, NotFound
from lfsfs.fuse import RENAME_NOREPLACE, Caller, Changes, EntryAttributes
from lfsfs.mount.incoming_file import IncomingFile, IncomingHandle, IncomingNode
from lfsfs.mount.nodes import Handle, Key, Node, Opened, Tree, error
from lfsfs.mount.remembered import Remembered
from lfsfs.store import names
from lfsfs.store.index import Tx
from lfsfs.store.names import Inode

RESERVED_NUMBERS = 1_000
FRESH_SECONDS = 0.25  # what another process has changed shows within this time, as everywhere (watching.py)


class Incoming:
    """The view: the names that no commit has written yet, and the inode numbers set aside for new ones."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.unborn: dict[tuple[int, bytes], IncomingFile] = {}
        self._next = 0
        self._end = 0

    async def number(self) -> int:
        while self._next == self._end:
            first = await self.tree.store.index.update(lambda tx: names.reserve(tx, RESERVED_NUMBERS))
            self._next, self._end = first, first + RESERVED_NUMBERS
        self._next += 1
        return self._next - 1

    def node(self, inode: Inode) -> IncomingNode:
        found = self.tree.table.find(("incoming", inode.number))
        if isinstance(found, IncomingNode):
            return found
        kinds = {"directory": IncomingDirectory, "file": IncomingFile, "symlink": IncomingNode}
        return self.tree.table.intern(kinds[inode.kind](self, inode))

    def unborn_in(self, parent: int) -> list[tuple[bytes, IncomingFile]]:
        return [(name, node) for (above, name), node in self.unborn.items() if above == parent]


class IncomingDirectory(IncomingNode):
    """A directory of the tree."""

    attribute_seconds: ClassVar[float] = 1.0

    def __init__(self, view: Incoming, inode: Inode) -> None:
        super().__init__(view, inode)
        self._absent = b""  # the last name that was looked up and not there
        self._commits = -1
        self._fresh_until = 0.0
        self.remembered = Remembered()

    @property
    def inode_number(self) -> int:
        return self.inode.number

    def attributes(self) -> EntryAttributes:
        self._refresh()
        found = super().attributes()
        if self.inode.number == names.ROOT:
            found.st_mode = found.st_mode & ~self.tree.options.umask
        return found

    def _refresh(self) -> None:
        """The kernel asks anew after each name that is made here: the index knows more only after a commit."""
        index, now = self.tree.store.index, time.monotonic()
        commits = index.commits
        if commits != self._commits or now >= self._fresh_until:
            self._commits, self._fresh_until = commits, now + FRESH_SECONDS
            self.inode = index.view(lambda tx: names.get(tx, self.inode.number)) or self.inode

    async def setattr(self, changes: Changes, handle: Handle | None) -> None:
        await super().setattr(changes, handle)
        await self.tree.store.index.flush()

    async def lookup(self, name: bytes) -> Node | None:
        unborn = self.view.unborn.get((self.inode.number, name))
        if unborn is not None:
            return unborn
        names.check_name(name)
        inode = self.tree.store.index.view(lambda tx: names.find(tx, self.inode.number, name))
        if inode is None:
            self._absent = name
            raise NotFound(f"no {name!r} here")
        self._absent = b""
        return self.view.node(inode)

    def list_version(self) -> object:
        """The index changes the directory's ctime with each name; names that it does not have yet come and go."""
        if self.view.unborn_in(self.inode.number):
            return None
        inode = self.tree.store.index.view(lambda tx: names.get(tx, self.inode.number))
        return None if inode is None else inode.ctime

    async def entries(self) -> list[tuple[bytes, Key]]:
        found: dict[bytes, Key] = {
            name: (number,)
            for name, number in self.tree.store.index.view(lambda tx: names.children(tx, self.inode.number))
        }
        found.update((name, (node.inode.number,)) for name, node in self.view.unborn_in(self.inode.number))
        return list(found.items())

    def child(self, name: bytes, key: Key) -> Node | None:
        number = int(str(key[0]))
        known = self.tree.table.find(("incoming", number))
        if known is not None:
            return known
        inode = self.tree.store.index.view(lambda tx: names.get(tx, number))
        return None if inode is None else self.view.node(inode)

    async def create(self, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Node, Opened]:
        self.tree.require_writable()
        present = await self._present(name)
        if present is not None:
            if flags & os.O_EXCL:
                raise error(errno.EEXIST)
            return present, await present.open(flags)
        self._check_room(name)
        inode = names.new_inode(await self.view.number(), "file", mode & 0o7777, caller.uid, caller.gid)
        node = self.view.node(inode)
        assert isinstance(node, IncomingFile)
        node.unborn = (self.inode.number, name)
        self.view.unborn[node.unborn] = node
        node.stage_anew()
        return node, Opened(IncomingHandle(node, True), keep_cache=True)

    def _check_room(self, name: bytes) -> None:
        """Whether a new file may be here: before it is made, as far as that is known then."""
        store = self.tree.store
        limits = store.limits
        if limits is None:
            return
        limits.check_uploads()
        limits.check_disk(0)

        def check(tx: Tx) -> None:
            limits.check_names(tx, len(self.view.unborn))
            limits.check_path(tx, self.inode.number, name)

        store.index.view(check)

    async def _present(self, name: bytes) -> Node | None:
        """The node of the name, if there is one. The kernel has just asked, and holds the directory since then."""
        if name == self._absent and (self.inode.number, name) not in self.view.unborn:
            self._absent = b""
            return None
        try:
            return await self.lookup(name)
        except NotFound:
            return None

    async def mkdir(self, name: bytes, mode: int, caller: Caller) -> Node:
        return await self._enter(name, "directory", mode, caller)

    async def symlink(self, name: bytes, target: bytes, caller: Caller) -> Node:
        return await self._enter(name, "symlink", 0o777, caller, target)

    async def _enter(
        self, name: bytes, kind: names.Kind, mode: int, caller: Caller, target: bytes = b""
    ) -> Node:
        self.tree.require_writable()
        self._absent = b""
        if (self.inode.number, name) in self.view.unborn:
            raise Exists(f"{name!r} is there already")
        number = await self.view.number()
        inode = names.new_inode(number, kind, mode & 0o7777, caller.uid, caller.gid, target)
        limits, unborn = self.tree.store.limits, len(self.view.unborn)

        def enter(tx: Tx) -> None:
            if names.find(tx, self.inode.number, name) is not None:
                raise Exists(f"{name!r} is there already")
            if limits is not None:
                limits.check_names(tx, unborn)
                limits.check_path(tx, self.inode.number, name)
            names.enter(tx, self.inode.number, name, inode)

        await self.tree.store.index.update(enter)
        return self.view.node(inode)

    async def link(self, node: Node, name: bytes) -> Node:
        self.tree.require_writable()
        if not isinstance(node, IncomingNode):
            raise error(errno.EXDEV)
        self._absent = b""
        if (self.inode.number, name) in self.view.unborn:
            raise Exists(f"{name!r} is there already")
        if isinstance(node, IncomingFile):
            await node.commit()
        number, parent = node.inode.number, self.inode.number
        limits, unborn = self.tree.store.limits, len(self.view.unborn)

        def enter(tx: Tx) -> Inode:
            if limits is not None:
                limits.check_names(tx, unborn)
                limits.check_path(tx, parent, name)
            return names.link(tx, number, parent, name)

        linked = await self.tree.store.index.update(enter)
        node.inode = node.inode._replace(links=linked.links, ctime=linked.ctime)
        return node

    async def unlink(self, name: bytes) -> None:
        self.tree.require_writable()
        place = (self.inode.number, name)
        unborn = self.view.unborn.get(place)
        if unborn is not None:
            async with unborn.lock:
                if unborn.unborn == place:
                    self._unlink_unborn(unborn)
                    return
        gone = await self.tree.store.index.update(lambda tx: names.unlink(tx, *place))
        self._lost_name(gone)

    def _unlink_unborn(self, node: IncomingFile) -> None:
        node.born()
        node.inode = node.inode._replace(links=0)

    def _lost_name(self, gone: Inode | None) -> None:
        node = self.tree.table.find(("incoming", gone.number)) if gone is not None else None
        if gone is not None and isinstance(node, IncomingNode):
            node.inode = node.inode._replace(links=gone.links, ctime=gone.ctime)

    async def rmdir(self, name: bytes) -> None:
        self.tree.require_writable()
        found = await self.lookup(name)
        if isinstance(found, IncomingDirectory) and self.view.unborn_in(found.inode.number):
            raise error(errno.ENOTEMPTY)
        self._lost_name(
            await self.tree.store.index.update(lambda tx: names.rmdir(tx, self.inode.number, name))
        )

    async def receive(self, source: Node, old: bytes, new: bytes, flags: int) -> None:
        self.tree.require_writable()
        if not isinstance(source, IncomingDirectory):
            raise error(errno.EXDEV)
        names.check_name(new)
        self._absent = b""
        here, there = (source.inode.number, old), (self.inode.number, new)
        for place in (here, there):  # an unborn file is born first: then one transaction decides it all
            unborn = self.view.unborn.get(place)
            if unborn is not None:
                await unborn.commit()
        replaced = self.tree.store.index.view(lambda tx: names.find(tx, *there))
        if replaced is not None and replaced.kind == "directory" and self.view.unborn_in(replaced.number):
            raise error(errno.ENOTEMPTY)
        replacing = not flags & RENAME_NOREPLACE
        limits = self.tree.store.limits

        def rename(tx: Tx) -> Inode | None:
            if limits is not None:
                moved = names.find(tx, *here)
                limits.check_path(tx, there[0], new, None if moved is None else moved.number)
            return names.rename(tx, here, there, replacing=replacing)

        self._lost_name(await self.tree.store.index.update(rename))
