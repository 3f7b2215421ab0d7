"""Takeover: a mount goes on with what another daemon has described (handover.py).

Nothing here takes anything from the other daemon: until it is told that this one serves it can go on by itself.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfsfs.errors import LfsfsError, NotFound
from lfsfs.mount.control import ControlDirectory, WhyDirectory
from lfsfs.mount.embeddings import CollectionDirectory
from lfsfs.mount.handover import VERSION, Described
from lfsfs.mount.incoming_file import IncomingFile, IncomingHandle
from lfsfs.mount.listing import Listing
from lfsfs.mount.matrix import WholeHandle, WholeNode, matrix_node
from lfsfs.mount.nodes import Handle, Key, Node, TextHandle, Tree
from lfsfs.mount.object_file import ObjectNode, object_node, open_object
from lfsfs.mount.objects import SHARED, ObjectsDirectory
from lfsfs.mount.pointers import pointer_node
from lfsfs.mount.reopened import LaterHandle, LostHandle
from lfsfs.mount.roots import RootDirectory
from lfsfs.mount.vector_file import VectorFile, VectorHandle
from lfsfs.mount.workspace import WorkspaceDirectory, WorkspaceFile, WorkspaceHandle, plain_node
from lfsfs.oid import Oid
from lfsfs.store import names, references
from lfsfs.store.names import Inode

if TYPE_CHECKING:
    from lfsfs.mount.mount import Mount

log = logging.getLogger("lfsfs.mount")
__all__ = ["VERSION", "take_over"]
_BELOW_ROOT = {("repos",): "repos", ("embeddings",): "embeddings", ("control",): ".lfsfs"}


async def take_over(mount: "Mount", described: Described, descriptors: list[int]) -> None:
    """Everything that the other daemon knew and had open means the same here. Once, into a new mount's empty table."""
    found: dict[str, Any] = described
    tree, root, table = mount.tree, mount.root, mount.tree.table
    plain = {entry["key"]: entry for entry in found["plain"]}
    maker = _Maker(root, plain)
    tree.seen = found["seen"]
    table.sleep((entry for entry in found["sleepers"] if entry[1] != root.key), found["memos"])
    table.remake = maker.make
    for entry in found["incoming"]:
        _resume_incoming(root, entry)
    for entry in found["plain"]:
        if "descriptor" in entry:
            _resume_retired(tree, entry, descriptors[entry["descriptor"]])
    for kinds in (("repository", "collection"), ("objects", "plain")):  # which are looked for one by one
        table.wake(*kinds)
    for entry in found["vectors"]:
        _resume_vector(tree, entry)
    handles = {fh: await _reopened(tree, entry) for fh, entry in found["handles"].items()}
    for entry in found["plain"]:
        _settle_retired(tree, entry)
    for entry in found["incoming"]:
        if entry["passing"] is not None:
            maker.incoming(entry["inode"]["number"]).pass_by(Oid(entry["passing"]))
    listings = {}
    for fh, (number, starts, page, page_names) in found["listings"].items():
        listings[fh] = await _listing(tree, number, starts, page, page_names)
    mount.operations.reopen(found["last"], handles, {fh: one for fh, one in listings.items() if one})


class _Maker:
    """Makes nodes of their keys. A key that says where its node is, and what it is."""

    def __init__(self, root: RootDirectory, plain: dict[Key, Any]) -> None:
        self._root = root
        self._tree = root.tree
        self._plain = plain
        self._kinds: dict[object, Callable[[Key], Node | None]] = {
            "object": lambda key: object_node(self._tree, Oid(str(key[1]))),
            "incoming": self._incoming,
            "pointer": self._pointer,
            "repository": self._repository,
            "objects": lambda key: self._tree.table.intern(
                ObjectsDirectory(self._tree, int(str(key[1])), str(key[2]))
            ),
            "control": self._control,
            "collection": self._collection,
            "plain": self._plain_node,
            "whole": self._whole,
        }

    def make(self, key: Key) -> Node | None:
        """None where it is gone. Interned."""
        try:
            if key in _BELOW_ROOT:
                return self._root.child(b"", (_BELOW_ROOT[key],))
            maker = self._kinds.get(key[0])
            return None if maker is None else maker(key)
        except (LfsfsError, OSError) as failed:
            log.debug("%s: not known any more: %s", key, failed)
            return None

    def incoming(self, number: int) -> IncomingFile:
        node = self._tree.table.find(("incoming", number))
        if not isinstance(node, IncomingFile):
            raise NotFound(f"inode {number} is no file any more")
        return node

    def _inode(self, key: Key) -> Inode | None:
        return self._tree.store.index.view(lambda tx: names.get(tx, int(str(key[1]))))

    def _incoming(self, key: Key) -> Node | None:
        inode = self._inode(key)
        return None if inode is None else self._root.incoming.node(inode)

    def _pointer(self, key: Key) -> Node | None:
        inode = self._inode(key)
        return None if inode is None else pointer_node(self._tree, inode)

    def _below(self, key: Key) -> Node:
        """A directory that is always there."""
        node = self._tree.table.find(key) or self.make(key)
        if node is None:
            raise NotFound(f"no {key[0]}")
        return node

    def _repository(self, key: Key) -> Node | None:
        found = self._tree.store.index.view(references.roots)
        wanted = next((one for one in found if one.id == key[1] and one.id != SHARED), None)
        return None if wanted is None else self._below(("repos",)).child(b"", (wanted,))

    def _control(self, key: Key) -> Node | None:
        control = self._below(("control",))
        if not isinstance(control, ControlDirectory):
            return None
        child = control.child(b"", (key[1],))
        if len(key) == 2 or not isinstance(child, WhyDirectory):
            return child
        return child.report(Oid(str(key[2])))

    def _collection(self, key: Key) -> Node | None:
        if key[1] not in self._tree.store.embeddings.collections():
            return None
        return self._below(("embeddings",)).child(b"", (key[1],))

    def _plain_node(self, key: Key) -> Node | None:
        entry = self._plain.get(key)
        if entry is None:
            return None
        node = plain_node(self._tree, Path(entry["path"]))
        if node.key != key:
            return None
        if isinstance(node, WorkspaceDirectory):
            node.fixed = entry["fixed"]
        elif isinstance(node, WorkspaceFile):
            node.committed = entry["committed"]
        return node

    def _whole(self, key: Key) -> Node | None:
        name = key[2]
        node = matrix_node(self._tree, str(key[1]), name) if isinstance(name, bytes) else None
        return node if node is not None and node.key == key else None


# Files being written, and those that have lost their names.


def _resume_incoming(root: RootDirectory, entry: Any) -> None:
    fields = entry["inode"]
    inode = Inode(**fields | {"oid": Oid(fields["oid"])})
    node = IncomingFile(root.incoming, inode)
    root.tree.table.intern(node)
    if entry["unborn"] is not None:
        node.unborn = entry["unborn"]
        root.incoming.unborn[entry["unborn"]] = node
    if entry["staged"] is not None:
        node.staged = root.tree.store.staging.take_over(entry["staged"])
        node.staged.acquire()
        root.tree.table.pin(node)
    node.written = entry["written"]
    if entry["failure"] is not None:
        node.failure = OSError(*entry["failure"])


def _resume_retired(tree: Tree, entry: Any, descriptor: int) -> None:
    node = WorkspaceFile(tree, entry["key"], Path(entry["path"]))
    node.committed = entry["committed"]
    node.staged.take(os.dup(descriptor))
    tree.table.intern(node)
    tree.table.pin(node)


def _settle_retired(tree: Tree, entry: Any) -> None:
    """From now on only its open files hold it."""
    node = tree.table.find(entry["key"]) if "descriptor" in entry else None
    if isinstance(node, WorkspaceFile):
        node.staged.release()
        tree.table.unpin(node)


def _resume_vector(tree: Tree, entry: Any) -> None:
    directory = tree.table.find(("collection", entry["collection"]))
    if not isinstance(directory, CollectionDirectory):
        raise NotFound(f"no collection {entry['collection']!r}")
    found = None if entry["found"] is None else directory.collection.stat(entry["found"])
    node = directory.file_kind(directory, entry["name"], found)
    node.key = entry["key"]
    tree.table.intern(node)
    node.staged = tree.store.staging.take_over(entry["staged"])
    node.staged.acquire()
    node.written = entry["written"]
    directory.drafts[node.name] = node
    tree.table.pin(node)


# Open files and directories.


async def _reopened(tree: Tree, entry: tuple[Any, ...]) -> Handle:
    kind, number, *rest = entry
    if kind == "text":
        return TextHandle(*rest)
    if kind == "lost":
        return LostHandle()
    try:
        return await _reopen(tree, kind, tree.table.get(number), rest)
    except (LfsfsError, OSError) as failed:
        log.warning("an open file (%s) could not be taken over, and answers ESTALE: %s", kind, failed)
        return LostHandle()


async def _reopen(tree: Tree, kind: str, node: Node, rest: list[Any]) -> Handle:
    if kind == "object" and isinstance(node, ObjectNode):
        return await _reopen_object(tree, node, *rest)
    if kind == "incoming" and isinstance(node, IncomingFile):
        return IncomingHandle(node, *rest)
    if kind == "plain" and isinstance(node, WorkspaceFile):
        writing, passed = rest
        plain = WorkspaceHandle(node, writing)
        node.passage.rejoin(plain, passed)
        if passed and writing:
            node.lend()
        return plain
    if kind == "vector" and isinstance(node, VectorFile):
        writing, kept = rest
        handle = VectorHandle(node, writing)
        handle.kept = kept
        return handle
    if kind == "whole" and isinstance(node, WholeNode):
        await node.prepare()
        return WholeHandle(node)
    raise NotFound(f"{node.what} is something else by now")


async def _reopen_object(tree: Tree, node: ObjectNode, oid: str, passed: int) -> Handle:
    remote = tree.store.remote
    if remote is not None and not remote.cache.has(Oid(oid)):
        later = LaterHandle(tree, Oid(oid), node)
        node.passage.rejoin(later, passed)
        return later
    handle = await open_object(tree, Oid(oid), node)
    handle.node = node
    node.passage.rejoin(handle, passed)
    return handle


async def _listing(
    tree: Tree, number: int, starts: list[object], page: int, page_names: list[bytes]
) -> Listing | None:
    try:
        node = tree.table.get(number)
        listing = Listing(node)
        await listing.resume(starts, page, page_names)
    except (LfsfsError, OSError) as failed:
        log.warning("an open directory could not be taken over: %s", failed)
        return None
    tree.table.pin(node)
    if (
        node.remembered is not None
    ):  # the kernel may keep what it goes on to read, which is no version that we know
        node.remembered.opened(listing, object())
    return listing
