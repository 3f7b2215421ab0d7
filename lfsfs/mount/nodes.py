"""Nodes and handles: what an inode and an open file of the mount can do, and the table that finds them.

A view of the tree is a few subclasses. A method that a subclass does not override refuses with the errno that fits a
read-only, virtual tree. Methods raise LfsfsError or OSError; operations.py translates.
"""

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pyfuse3

from lfsfs.config import MountOptions
from lfsfs.errors import NotFound

if TYPE_CHECKING:
    from lfsfs.store.store import Store

FOREVER_SECONDS = 86_400.0  # how long the kernel may keep what only it can change
BLOCK_SIZE = 1 << 20  # st_blksize: what readers and writers are asked to use
STAT_BLOCK_BYTES = 512
Key = tuple[object, ...]


def error(number: int, what: str = "") -> OSError:
    return OSError(number, what or os.strerror(number))


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file for the kernel: the handle, and how its pages are to be cached."""

    handle: "Handle"
    keep_cache: bool = False
    direct_io: bool = False


class Handle:
    """An open file."""

    async def read(self, offset: int, size: int) -> bytes:
        raise error(errno.EBADF)

    async def write(self, offset: int, piece: bytes) -> int:
        raise error(errno.EBADF)

    async def flush(self) -> None:
        """At each close(2) of a descriptor: an error is seen by whoever closes."""

    async def fsync(self) -> None:
        return

    async def release(self) -> None:
        """After the last close: nobody sees an error."""


class TextHandle(Handle):
    """A file whose text was made when it was opened."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    async def read(self, offset: int, size: int) -> bytes:
        return self._text[offset : offset + size]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    uid: int
    gid: int
    umask: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What a setattr is to change; None: as it is. Times in nanoseconds."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None


class Node:
    """An inode. `lookups`: how often the kernel was told of it; `pins`: who else needs it to stay."""

    entry_seconds: float = FOREVER_SECONDS
    attribute_seconds: ClassVar[float] = FOREVER_SECONDS

    def __init__(self, tree: "Tree", key: Key) -> None:
        self.tree = tree
        self.key = key
        self.number = 0
        self.lookups = 0
        self.pins = 0

    def attributes(self) -> pyfuse3.EntryAttributes:
        """What goes with an entry: a lookup's answer, a line of a listing."""
        raise NotImplementedError

    def stat(self) -> pyfuse3.EntryAttributes:
        """What stat(2) is told."""
        return self.attributes()

    async def setattr(self, changes: Changes, handle: Handle | None) -> None:
        raise error(errno.EPERM)

    async def open(self, flags: int) -> Opened:
        raise error(errno.EACCES)

    async def readlink(self) -> bytes:
        raise error(errno.EINVAL)

    def xattrs(self) -> dict[bytes, bytes]:
        """Extended attributes, where the mount has them."""
        return {}

    # Directories.

    async def lookup(self, name: bytes) -> "Node | None":
        """The node of that name; None: there is none, and the kernel may remember that there is none."""
        raise error(errno.ENOTDIR)

    async def entries(self) -> list[tuple[bytes, Key]]:
        """Names with something that `child` makes a node from."""
        raise error(errno.ENOTDIR)

    def child(self, name: bytes, key: Key) -> "Node | None":
        """The node of an entry of `entries`; None if it is gone."""
        raise error(errno.ENOTDIR)

    async def create(self, name: bytes, mode: int, flags: int, caller: Caller) -> "tuple[Node, Opened]":
        raise error(errno.EROFS)

    async def mkdir(self, name: bytes, mode: int, caller: Caller) -> "Node":
        raise error(errno.EROFS)

    async def symlink(self, name: bytes, target: bytes, caller: Caller) -> "Node":
        raise error(errno.EPERM)

    async def link(self, node: "Node", name: bytes) -> "Node":
        raise error(errno.EXDEV)

    async def unlink(self, name: bytes) -> None:
        raise error(errno.EPERM)

    async def rmdir(self, name: bytes) -> None:
        raise error(errno.EPERM)

    async def receive(self, source: "Node", old: bytes, new: bytes, flags: int) -> None:
        """A rename of `old` in the directory `source` to `new` in this one."""
        raise error(errno.EXDEV)


N = TypeVar("N", bound=Node)


class NodeTable:
    """Every node that the kernel or an open file knows, by inode number and by key.

    The number of a key is a keyed hash of it: the same after a remount, and not to be guessed. Two keys that hash
    alike get numbers next to each other, so that one can never be taken for the other.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._by_number: dict[int, Node] = {}
        self._by_key: dict[Key, Node] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self._by_number.values()))

    def get(self, number: int) -> Node:
        node = self._by_number.get(number)
        if node is None:
            raise error(errno.ESTALE)
        return node

    def find(self, key: Key) -> Node | None:
        return self._by_key.get(key)

    def intern(self, node: N) -> N:
        """Takes in a node whose key is not in the table yet."""
        number = pyfuse3.ROOT_INODE if node.key == ("root",) else self._hash(node.key)
        while number in self._by_number:
            number += 1
        node.number = number
        self._by_number[number] = node
        self._by_key[node.key] = node
        return node

    def forget(self, number: int, lookups: int) -> None:
        node = self._by_number.get(number)
        if node is not None:
            node.lookups -= lookups
            self._drop_idle(node)

    def pin(self, node: Node) -> None:
        node.pins += 1

    def unpin(self, node: Node) -> None:
        node.pins -= 1
        self._drop_idle(node)

    def rekey(self, node: Node, key: Key) -> None:
        """The node stands for something else from now on; the kernel knows it by the same number."""
        if self._by_key.get(node.key) is node:
            del self._by_key[node.key]
        node.key = key
        self._by_key.setdefault(key, node)

    def _drop_idle(self, node: Node) -> None:
        if node.lookups <= 0 and node.pins <= 0 and node.key != ("root",):
            self._by_number.pop(node.number, None)
            if self._by_key.get(node.key) is node:
                del self._by_key[node.key]

    def _hash(self, key: Key) -> int:
        text = "\0".join(part.decode("latin-1") if isinstance(part, bytes) else str(part) for part in key)
        digest = hashlib.blake2b(text.encode(), digest_size=8, key=self._secret).digest()
        return int.from_bytes(digest, "big") >> 2 | 1 << 61


class Tree:
    """What all nodes of one mount share."""

    def __init__(self, store: "Store", options: MountOptions, workspace: Path) -> None:
        self.store = store
        self.options = options
        self.workspace = workspace
        self.table = NodeTable(store.layout.id.encode())
        self.uid = os.getuid() if options.uid is None else options.uid
        self.gid = os.getgid() if options.gid is None else options.gid
        self.passing: Counter[str] = Counter()  # oids that unfinished files have made, and of how many files
        self.withdrawn: set[str] = set()  # oids that are being taken back: nobody may find them any more
        self.born = (store.layout.path / "lfsfs.json").stat().st_mtime_ns

    def attributes(
        self,
        node: Node,
        mode: int,
        *,
        size: int = 0,
        times: tuple[int, int, int] | None = None,
        links: int = 1,
        owner: tuple[int, int] | None = None,
        blocks: int | None = None,
    ) -> pyfuse3.EntryAttributes:
        """What stat(2) says. `times`: access, modification, change in nanoseconds; by default the store's birth."""
        found = pyfuse3.EntryAttributes()
        uid, gid = owner or (self.uid, self.gid)
        found.st_ino = pyfuse3.InodeT(node.number)
        found.generation = 0
        found.entry_timeout = node.entry_seconds
        found.attr_timeout = node.attribute_seconds
        found.st_mode = pyfuse3.ModeT(mode)
        found.st_nlink = links
        found.st_uid = self.options.uid if self.options.uid is not None else uid
        found.st_gid = self.options.gid if self.options.gid is not None else gid
        found.st_size = size
        found.st_blksize = BLOCK_SIZE
        found.st_blocks = -(-size // STAT_BLOCK_BYTES) if blocks is None else blocks
        found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns = times or (self.born, self.born, self.born)
        return found

    def require_writable(self) -> None:
        if self.options.read_only:
            raise error(errno.EROFS, "the mount is read-only")


class Directory(Node):
    """A directory that is always there."""

    mode: ClassVar[int] = 0o777

    def attributes(self) -> pyfuse3.EntryAttributes:
        return self.tree.attributes(self, stat.S_IFDIR | self.mode & ~self.tree.options.umask)

    async def lookup(self, name: bytes) -> Node | None:
        for present, key in await self.entries():
            if present == name and (found := self.child(name, key)) is not None:
                return found
        raise NotFound(f"no {name!r} here")

    async def setattr(self, changes: Changes, handle: Handle | None) -> None:
        """Times of a virtual directory are nobody's: tar and cp -a may set them, to no effect. The mode stays."""
        if changes.size is not None or changes.mode is not None:
            raise error(errno.EPERM)


def wants_write(flags: int) -> bool:
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)
