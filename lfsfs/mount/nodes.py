"""Nodes and handles: what an inode and an open file of the mount can do.

A view of the tree is a few subclasses. A method that a subclass does not override refuses with the errno that fits a
read-only, virtual tree. Methods raise LfsfsError or OSError; operations.py translates.
"""

import errno
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import trio

from lfsfs.config import MountOptions
from lfsfs.errors import NotFound
from lfsfs.fuse import BackingFiles, Caller, Changes, Ended, EntryAttributes, Notifier
from lfsfs.mount.absences import Absences
from lfsfs.mount.lent import LentFiles
from lfsfs.mount.remembered import Remembered
from lfsfs.mount.table import Key as Key
from lfsfs.mount.table import Memo
from lfsfs.mount.table import NodeTable as NodeTable

if TYPE_CHECKING:
    from lfsfs.store.store import Store

FOREVER_SECONDS = 86_400.0  # how long the kernel may keep what only it can change
BLOCK_SIZE = 1 << 20  # st_blksize: what readers and writers are asked to use
SMALL_BLOCK_SIZE = (
    4096  # of what is small, or read here and there: Python makes a buffer of it whenever it opens a file
)
STAT_BLOCK_BYTES = 512
VERIFYING_THREADS = 16  # reads at once that wait for the disk and compare what they got with its digests
Entry = tuple[bytes, Key]
"""A name, and what the directory makes the node from."""


def error(number: int, what: str = "") -> OSError:
    return OSError(number, what or os.strerror(number))


@dataclass(slots=True)
class Opened:
    """An open file for the kernel: the handle, and how its pages are to be cached (see FileInfo)."""

    handle: "Handle"
    keep_cache: bool = False
    direct_io: bool = False
    backing: int = 0


class Absent(NotFound):
    """There is no such name, and the kernel may remember that for so many seconds."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(what)
        self.seconds = seconds


class Handle:
    """An open file."""

    counted: ClassVar[bool] = True
    """Whether what is read of it is traffic: what the mount says of itself is not."""
    passed: bool = False
    """Whether the kernel takes it to a local file by itself."""

    @property
    def flushes(self) -> bool:
        """Whether its close(2) matters: to learn of it the kernel makes one more request."""
        return False

    @property
    def what(self) -> str:
        """What it is open on, for a person."""
        return "a file that is made when it is opened"

    async def read(self, offset: int, size: int) -> bytes:
        raise error(errno.EBADF)

    async def write(self, offset: int, piece: bytes) -> int:
        raise error(errno.EBADF)

    async def flush(self) -> None:
        """At each close(2) of a descriptor: an error is seen by whoever closes."""

    def flush_later(self, ended: Ended) -> bool:
        """As `flush`, without anybody who waits: `ended` is told. False: not now, and nothing was done."""
        return False

    async def fsync(self) -> None:
        return

    async def release(self) -> None:
        """After the last close: nobody sees an error."""

    def release_at_once(self) -> bool:
        """As `release`, where nothing has to be waited for. False: not so, and nothing was done."""
        return False


class TextHandle(Handle):
    """A file whose text was made when it was opened."""

    counted: ClassVar[bool] = False

    def __init__(self, text: bytes) -> None:
        self.text = text

    async def read(self, offset: int, size: int) -> bytes:
        return self.text[offset : offset + size]


class Node:
    """An inode. `lookups`: how often the kernel was told of it; `pins`: who else needs it to stay.

    `mark`: a number that is kept for the node as long as the kernel knows it.
    """

    remembered: "Remembered | None" = None
    """What the kernel keeps of a directory's list, where it may."""
    entry_seconds: float = FOREVER_SECONDS
    attribute_seconds: ClassVar[float] = FOREVER_SECONDS

    def __init__(self, tree: "Tree", key: Key) -> None:
        self.tree = tree
        self.key = key
        self.number = 0
        self.lookups = 0
        self.pins = 0
        self.mark = 0

    @property
    def what(self) -> str:
        """What it is, for a person."""
        return "/".join(os.fsdecode(part) if isinstance(part, bytes) else str(part) for part in self.key)

    @property
    def remakeable(self) -> bool:
        """Whether `memo` says all that there is to know of it now."""
        return False

    def memo(self) -> Memo | None:
        """What its directory can make it from again; None for what must stay as long as the kernel knows it."""
        return None

    def attributes(self) -> EntryAttributes:
        """What goes with an entry: a lookup's answer, a line of a listing."""
        raise NotImplementedError

    def stat(self) -> EntryAttributes:
        """What stat(2) is told."""
        return self.attributes()

    async def setattr(self, changes: Changes, handle: Handle | None) -> None:
        raise error(errno.EPERM)

    async def open(self, flags: int) -> Opened:
        raise error(errno.EACCES)

    def open_at_once(self, flags: int) -> Opened | None:
        """As `open`, where nothing has to be waited for. None: not so, and nothing was done."""
        return None

    async def readlink(self) -> bytes:
        raise error(errno.EINVAL)

    def xattrs(self) -> dict[bytes, bytes]:
        """Extended attributes, where the mount has them."""
        return {}

    # Directories.

    def list_version(self) -> object:
        """Another one whenever the list of names is another one. None: nobody can say."""
        return None

    async def lookup(self, name: bytes) -> "Node | None":
        """The node of that name; None: there is none, and the kernel may remember that there is none."""
        raise error(errno.ENOTDIR)

    async def entries(self) -> list[Entry]:
        """All names, of a directory that has few."""
        raise error(errno.ENOTDIR)

    async def page(self, after: object) -> tuple[list[Entry], object]:
        """The next names, and what goes on from there: None after the last ones, and before the first."""
        return await self.entries(), None

    def child(self, name: bytes, key: Key) -> "Node | None":
        """The node of an entry; None if it is gone. One that can be made again need not be in the table."""
        raise error(errno.ENOTDIR)

    def remake(self, token: bytes) -> "Node | None":
        """The node of which a memo says this, not in the table yet; None if it is gone."""
        return None

    def name_of(self, token: bytes) -> bytes:
        """The name of a node of which a memo says this."""
        raise NotImplementedError

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


class NodeHandle(Handle, Generic[N]):
    """An open file that stands for its node."""

    def __init__(self, node: N) -> None:
        self.node = node

    @property
    def what(self) -> str:
        return self.node.what


class Tree:
    """What all nodes of one mount share."""

    def __init__(self, store: "Store", options: MountOptions, workspace: Path) -> None:
        self.store = store
        self.options = options
        self.workspace = workspace
        self.table = NodeTable(store.layout.id.encode())
        self.uid = os.getuid() if options.uid is None else options.uid
        self.gid = os.getgid() if options.gid is None else options.gid
        self.verifying = trio.CapacityLimiter(VERIFYING_THREADS)
        self.passing: Counter[str] = Counter()  # oids that unfinished files have made, and of how many files
        self.withdrawn: set[str] = set()  # oids that are being taken back: nobody may find them any more
        self.absences = Absences()
        self.kernel: Notifier | None = None  # while it is mounted
        self.backing_files: BackingFiles | None = None  # while it is mounted
        self.lent = LentFiles()
        self.seen: tuple[int, int] | None = (
            None  # the last event, and row of a vector, that the kernel was told of
        )
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
    ) -> EntryAttributes:
        """What stat(2) says. `times`: access, modification, change in nanoseconds; by default the store's birth."""
        uid, gid = owner or (self.uid, self.gid)
        options = self.options
        return EntryAttributes(
            node.number,
            mode,
            st_size=size,
            st_blocks=-(-size // STAT_BLOCK_BYTES) if blocks is None else blocks,
            st_blksize=BLOCK_SIZE,
            st_nlink=links,
            st_uid=uid if options.uid is None else options.uid,
            st_gid=gid if options.gid is None else options.gid,
            times=times or (self.born, self.born, self.born),
            entry_timeout=node.entry_seconds,
            attr_timeout=node.attribute_seconds,
        )

    def require_writable(self) -> None:
        if self.options.read_only:
            raise error(errno.EROFS, "the mount is read-only")


class Directory(Node):
    """A directory that is always there."""

    mode: ClassVar[int] = 0o777

    def attributes(self) -> EntryAttributes:
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
