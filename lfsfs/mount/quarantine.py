"""bad/: where `git lfs fsck` moves what it takes for corrupt. It may, if the object truly is."""

import errno
import os

from lfsfs.mount.nodes import Node, error
from lfsfs.mount.objects import SHARED, ObjectsDirectory
from lfsfs.mount.workspace import BAD, WorkspaceDirectory
from lfsfs.oid import Oid
from lfsfs.tiers.local import LocalTier


async def quarantine(source: Node, old: bytes, target: WorkspaceDirectory, new: bytes) -> None:
    """A rename out of objects/: EPERM unless it leads to bad/ and the object's bytes do not match its oid."""
    if not isinstance(source, ObjectsDirectory):
        raise error(errno.EXDEV)
    tree = source.tree
    found = await source.lookup(old)
    if target.path.name != BAD or found is None:
        raise error(errno.EPERM, "an object leaves objects/ only for bad/, and only when it is corrupt")
    tree.require_writable()
    oid = Oid(old.decode())
    if await tree.store.check(oid):
        raise error(errno.EPERM, f"object {oid} is whole: it stays")
    if isinstance(tree.store.tier, LocalTier):
        try:
            os.link(tree.store.tier.path(oid), target.path / os.fsdecode(new))
        except (FileExistsError, FileNotFoundError):
            pass  # moved there before, or nothing left to keep
    if source.repository != SHARED:
        tree.store.references.drop_soon(source.repository, oid)
    await tree.store.delete(oid, force=True)
