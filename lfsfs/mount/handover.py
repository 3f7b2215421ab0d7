"""Handover: what a mount knows that its successor must know, as plain values.

The kernel's connection goes on, so every inode number, every lookup that the kernel was told of and every open file
must mean to the successor what it means here. Most nodes can be made again from their keys, once somebody asks for them.
What cannot is described as a whole: files being written, and files that have lost their names and are still open.
"""

import logging
from typing import TYPE_CHECKING

from lfsfs.errors import LfsfsError
from lfsfs.mount.incoming_file import IncomingFile, IncomingHandle
from lfsfs.mount.matrix import WholeHandle
from lfsfs.mount.nodes import Handle, Key, TextHandle
from lfsfs.mount.object_file import ObjectHandle
from lfsfs.mount.reopened import LaterHandle, LostHandle
from lfsfs.mount.vector_file import VectorFile, VectorHandle
from lfsfs.mount.workspace import WorkspaceDirectory, WorkspaceFile, WorkspaceHandle
from lfsfs.oid import Oid

if TYPE_CHECKING:
    from lfsfs.mount.mount import Mount

log = logging.getLogger("lfsfs.mount")
VERSION = 1
"""Of what `collect` says. One that means something else, or says less, has another number."""
Described = dict[str, object]


def collect(mount: "Mount") -> tuple[Described, list[int]]:
    """What there is to know, and descriptors that belong to it (its first is the device's), which stay open here.

    While the session is paused and settled, and nothing is deferred.
    """
    tree, session = mount.tree, mount.session
    nodes = list(tree.table)
    last, handles, listings = mount.operations.opened
    descriptors = [session.descriptor]
    plain = [node for node in nodes if isinstance(node, WorkspaceFile | WorkspaceDirectory)]
    found: Described = {
        "backing": session.backing_files.agreed,
        "workspace": str(tree.workspace),
        "seen": tree.seen,
        "plain": [_plain(node, descriptors) for node in plain],
        "incoming": [_incoming(node) for node in nodes if isinstance(node, IncomingFile) and node.pins],
        "vectors": [
            _vector(node) for node in nodes if isinstance(node, VectorFile) and node.staged is not None
        ],
        "last": last,
        "handles": {fh: _handle(handle) for fh, handle in handles.items()},
        "listings": {fh: (listing.node.number, *listing.state()) for fh, listing in listings.items()},
        "sleepers": [
            (number, _plain_key(key), lookups, mark) for number, key, lookups, mark in tree.table.sleepers()
        ],
    }
    found["memos"] = tree.table.memos()
    return found, descriptors


def _plain(node: WorkspaceFile | WorkspaceDirectory, descriptors: list[int]) -> Described:
    """`descriptor`: the place among the descriptors of that of a file that has no name any more."""
    if isinstance(node, WorkspaceDirectory):
        return {"key": node.key, "path": str(node.path), "fixed": node.fixed}
    found: Described = {"key": node.key, "path": str(node.staged.path), "committed": node.committed}
    if node.key[0] == "retired" and node.staged.users:
        found["descriptor"] = len(descriptors)
        descriptors.append(node.staged.descriptor)
    return found


def _incoming(node: IncomingFile) -> Described:
    failure = node.failure
    return {
        "inode": node.inode._asdict() | {"oid": str(node.inode.oid)},
        "unborn": node.unborn,
        "written": node.written,
        "staged": None if node.staged is None else node.staged.state(),
        "failure": None if failure is None else (failure.errno or 0, str(failure)),
        "passing": None if node.passing is None else str(node.passing),
    }


def _vector(node: VectorFile) -> Described:
    assert node.staged is not None
    return {
        "key": node.key,
        "collection": node.directory.collection.name,
        "name": node.name,
        "found": None if node.found is None else node.found.content_hash,
        "written": node.written,
        "staged": node.staged.state(),
    }


def _handle(handle: Handle) -> tuple[object, ...]:
    """Its kind, the number of its node, and what that does not say."""
    if isinstance(handle, ObjectHandle):
        node = handle.node
        if node is None:
            raise LfsfsError("an object is open without a node")
        passed = node.passage.number if handle.passed else 0
        return ("object", node.number, str(handle.reader.oid), passed)
    if isinstance(handle, LaterHandle):
        return (
            "object",
            handle.node.number,
            str(handle.oid),
            handle.node.passage.number if handle.passed else 0,
        )
    if isinstance(handle, LostHandle):
        return ("lost", 0)
    if isinstance(handle, IncomingHandle):
        return ("incoming", handle.node.number, handle.writing)
    if isinstance(handle, WorkspaceHandle):
        passed = handle.node.passage.number if handle.passed else 0
        return ("plain", handle.node.number, handle.writing, passed)
    if isinstance(handle, VectorHandle):
        return ("vector", handle.node.number, handle.writing, handle.kept)
    if isinstance(handle, WholeHandle):
        return ("whole", handle.node.number)
    if isinstance(handle, TextHandle):
        return ("text", 0, handle.text)
    raise LfsfsError(f"{handle.what} is open, and cannot be handed over")


def _plain_key(key: Key) -> Key:
    """The same with oids as plain strings."""
    return tuple([str(part) if isinstance(part, Oid) else part for part in key])
