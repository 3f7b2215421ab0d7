"""The mountpoint and repos/NAME: storage roots of git-lfs, and what the mountpoint has beside."""

import errno
import os
from pathlib import Path

from lfsfs.errors import NotFound
from lfsfs.fuse import Caller
from lfsfs.mount.control import ControlDirectory, Render
from lfsfs.mount.embeddings import EmbeddingsDirectory
from lfsfs.mount.incoming import Incoming
from lfsfs.mount.nodes import Directory, Key, Node, Opened, Tree, error
from lfsfs.mount.objects import SHARED, ObjectsDirectory
from lfsfs.mount.pointers import pointer_node
from lfsfs.mount.workspace import WorkspaceDirectory, create_plain, plain_node
from lfsfs.store import names
from lfsfs.store.layout import WORKSPACE_DIRECTORIES, WORKSPACE_FILES, check_repository_name
from lfsfs.store.references import Repository

VIEWS = ("incoming", "pointers", "repos", "embeddings", ".lfsfs")


class StorageRoot(Directory):
    """A git-lfs storage directory: objects/ and git-lfs's own files, which lie at `path`."""

    def __init__(self, tree: Tree, key: Key, repository: int, path: Path) -> None:
        super().__init__(tree, key)
        self.repository = repository
        self.path = path
        self._files = WorkspaceDirectory(tree, key, path)  # for those of its files that are git-lfs's

    async def entries(self) -> list[tuple[bytes, Key]]:
        present = [name for name in WORKSPACE_FILES if (self.path / name).is_file()]
        return [(name.encode(), (name,)) for name in ("objects", *WORKSPACE_DIRECTORIES, *present)]

    def child(self, name: bytes, key: Key) -> Node | None:
        text = str(key[0])
        if text == "objects":
            found = self.tree.table.find(("objects", self.repository, ""))
            return found or self.tree.table.intern(ObjectsDirectory(self.tree, self.repository, ""))
        try:
            if text in WORKSPACE_DIRECTORIES:
                (self.path / text).mkdir(parents=True, exist_ok=True)
            node = plain_node(self.tree, self.path / text)
        except (FileNotFoundError, FileExistsError, NotFound):
            return None  # somebody put something else in its place, or took it away just now
        if isinstance(node, WorkspaceDirectory):
            node.fixed = True
        return node

    async def create(self, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Node, Opened]:
        if os.fsdecode(name) not in WORKSPACE_FILES:
            raise error(errno.EPERM, "files go into incoming/; git-lfs has its own directories")
        node = create_plain(self.tree, self.path / os.fsdecode(name), mode, flags, caller)
        return node, await node.open(flags)

    async def mkdir(self, name: bytes, mode: int, caller: Caller) -> Node:
        raise error(errno.EPERM, "directories go into incoming/; a repository root is made in repos/")

    async def unlink(self, name: bytes) -> None:
        if os.fsdecode(name) not in WORKSPACE_FILES:
            raise error(errno.EPERM)
        await self._files.unlink(name)

    async def rmdir(self, name: bytes) -> None:
        """What is always there stays, but `rm -r repos/NAME` is told that what is empty went."""
        if self.repository == SHARED:
            raise error(errno.EBUSY, "part of the mount")
        node = await self.lookup(name)
        if node is None or await node.entries():
            raise error(errno.ENOTEMPTY)

    async def receive(self, source: Node, old: bytes, new: bytes, flags: int) -> None:
        if isinstance(source, WorkspaceDirectory) and os.fsdecode(new) in WORKSPACE_FILES:
            return await self._files.receive(source, old, new, flags)
        raise error(errno.EPERM)

    def is_empty(self) -> bool:
        files = any(found for _, _, found in os.walk(self.path))
        return not files and not self.tree.store.references.oids(self.repository, "")


class RootDirectory(StorageRoot):
    """The mountpoint: the shared storage root, and the views."""

    def __init__(self, tree: Tree, reports: dict[str, Render]) -> None:
        super().__init__(tree, ("root",), SHARED, tree.workspace)
        self.incoming = Incoming(tree)
        self._reports = reports

    async def entries(self) -> list[tuple[bytes, Key]]:
        views = [(name.encode(), (name,)) for name in VIEWS]
        return [*views, *await super().entries()]

    def child(self, name: bytes, key: Key) -> Node | None:
        table, text = self.tree.table, str(key[0])
        if text in ("incoming", "pointers"):
            top = self.tree.store.index.view(lambda tx: names.get(tx, names.ROOT))
            if top is None:
                raise error(errno.ENOENT)
            return self.incoming.node(top) if text == "incoming" else pointer_node(self.tree, top)
        if text == "repos":
            return table.find(("repos",)) or table.intern(RepositoriesDirectory(self.tree, ("repos",)))
        if text == "embeddings":
            found = table.find(("embeddings",))
            return found or table.intern(EmbeddingsDirectory(self.tree, self.tree.store.embeddings))
        if text == ".lfsfs":
            return table.find(("control",)) or table.intern(ControlDirectory(self.tree, self._reports))
        return super().child(name, key)


class RepositoriesDirectory(Directory):
    """repos/: `mkdir` makes a repository root, `rmdir` of one that holds nothing removes it."""

    async def entries(self) -> list[tuple[bytes, Key]]:
        return [(found.name.encode(), (found,)) for found in await self.tree.store.repositories()]

    async def lookup(self, name: bytes) -> Node | None:
        return self._node(self.tree.store.repository(_name(name, NotFound)))

    def child(self, name: bytes, key: Key) -> Node | None:
        found = key[0]
        return self._node(found) if isinstance(found, Repository) else None

    def _node(self, found: Repository) -> Node:
        key = ("repository", found.id)
        path = self.tree.workspace / "repos" / found.name
        return self.tree.table.find(key) or self.tree.table.intern(
            StorageRoot(self.tree, key, found.id, path)
        )

    async def mkdir(self, name: bytes, mode: int, caller: Caller) -> Node:
        self.tree.require_writable()
        text = check_repository_name(_name(name, ValueError))
        if any(found.name == text for found in await self.tree.store.repositories()):
            raise error(errno.EEXIST)
        return self._node(await self.tree.store.add_repository(text))

    async def create(self, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Node, Opened]:
        raise error(errno.EPERM, "repos/ holds directories, one a repository")

    async def rmdir(self, name: bytes) -> None:
        self.tree.require_writable()
        found = self.tree.store.repository(_name(name, NotFound))
        node = self._node(found)
        if not isinstance(node, StorageRoot) or not node.is_empty():
            raise error(errno.ENOTEMPTY)
        await self.tree.store.remove_repository(found.name)

    async def receive(self, source: Node, old: bytes, new: bytes, flags: int) -> None:
        raise error(errno.EPERM, "a repository root is not renamed: clones point at it")


def _name(name: bytes, otherwise: type[Exception]) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as undecodable:
        if otherwise is NotFound:
            raise NotFound(f"no {name!r} here") from undecodable
        raise error(errno.EINVAL, "a repository name must be valid UTF-8") from undecodable
