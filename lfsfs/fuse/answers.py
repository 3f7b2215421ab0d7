"""What handlers answer, and how it is told to the kernel."""

from dataclasses import dataclass

from lfsfs.fuse.protocol import (
    ATTR_OUT,
    DIRENT,
    ENTRY_OUT,
    OPEN_OUT,
    STATFS_OUT,
    OpenFlag,
)
from lfsfs.units import SECOND_NS

_KEEP_CACHE, _NOFLUSH = int(OpenFlag.KEEP_CACHE), int(OpenFlag.NOFLUSH)
_FAMILY_SHIFT = 12  # of st_mode, for the type of a directory's entry


class EntryAttributes:
    """What stat(2) says, and for how many seconds the kernel may believe it. Inode 0: there is no such name."""

    __slots__ = (
        "attr_timeout",
        "entry_timeout",
        "st_atime_ns",
        "st_blksize",
        "st_blocks",
        "st_ctime_ns",
        "st_gid",
        "st_ino",
        "st_mode",
        "st_mtime_ns",
        "st_nlink",
        "st_size",
        "st_uid",
    )

    def __init__(
        self,
        st_ino: int,
        st_mode: int = 0,
        *,
        st_size: int = 0,
        st_blocks: int = 0,
        st_blksize: int = 4096,
        st_nlink: int = 1,
        st_uid: int = 0,
        st_gid: int = 0,
        times: tuple[int, int, int] = (0, 0, 0),
        entry_timeout: float = 0.0,
        attr_timeout: float = 0.0,
    ) -> None:
        """`times`: access, modification, change, in nanoseconds."""
        self.st_ino = st_ino
        self.st_mode = st_mode
        self.st_size = st_size
        self.st_blocks = st_blocks
        self.st_blksize = st_blksize
        self.st_nlink = st_nlink
        self.st_uid = st_uid
        self.st_gid = st_gid
        self.st_atime_ns, self.st_mtime_ns, self.st_ctime_ns = times
        self.entry_timeout = entry_timeout
        self.attr_timeout = attr_timeout

    def entry(self) -> bytes:
        """As the answer to a lookup."""
        entry, attribute = self.entry_timeout, self.attr_timeout
        return ENTRY_OUT.pack(
            self.st_ino, 0, int(entry), int(attribute), _nanoseconds(entry), _nanoseconds(attribute),
            *self._fields(),
        )  # fmt: skip

    def stat(self) -> bytes:
        """As the answer to a getattr."""
        seconds = self.attr_timeout
        return ATTR_OUT.pack(int(seconds), _nanoseconds(seconds), 0, *self._fields())

    def _fields(self) -> tuple[int, ...]:
        access, access_ns = divmod(self.st_atime_ns, SECOND_NS)
        change, change_ns = divmod(self.st_mtime_ns, SECOND_NS)
        status, status_ns = divmod(self.st_ctime_ns, SECOND_NS)
        wrap = 0xFFFF_FFFF_FFFF_FFFF  # a time before 1970 is a negative number of 64 bits
        return (
            self.st_ino, self.st_size, self.st_blocks, access & wrap, change & wrap, status & wrap,
            access_ns, change_ns, status_ns, self.st_mode, self.st_nlink, self.st_uid, self.st_gid,
            0, self.st_blksize, 0,
        )  # fmt: skip


def _nanoseconds(seconds: float) -> int:
    return int(seconds % 1 * SECOND_NS)


@dataclass(slots=True)
class FileInfo:
    """An open file or directory: its number, and how the kernel treats it.

    `keep_cache`: pages of an earlier open stay. `cache_list`: of a directory, the kernel keeps its list.
    `direct_io`: there are no pages. `flushes`: close(2) is told of.
    `backing`: the backing file that the kernel reads; 0: it asks for what is read. All open files of an inode stand
    for the same backing file, or none does; with `direct_io`, only what is mapped is read from it.
    """

    fh: int
    keep_cache: bool = False
    direct_io: bool = False
    flushes: bool = True
    backing: int = 0
    cache_list: bool = False

    def pack(self) -> bytes:
        flags = _KEEP_CACHE if self.keep_cache else 0
        if self.backing:
            flags = OpenFlag.PASSTHROUGH
        if self.direct_io:
            flags |= OpenFlag.DIRECT_IO
        if not self.flushes:
            flags |= _NOFLUSH
        if self.cache_list:
            flags |= OpenFlag.CACHE_DIR
        return OPEN_OUT.pack(self.fh, flags, self.backing)


@dataclass(slots=True)
class StatfsData:
    """What statvfs(3) says; blocks are of `frsize` bytes."""

    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int
    frsize: int
    namemax: int

    def pack(self) -> bytes:
        return STATFS_OUT.pack(
            self.blocks, self.bfree, self.bavail, self.files, self.ffree, self.bsize, self.namemax, self.frsize, 0
        )  # fmt: skip


class ListingPage:
    """The answer to one read of a directory: as many entries as fit into so many bytes.

    With attributes (`plus`) each entry counts as a lookup of its name.
    """

    def __init__(self, size: int, *, plus: bool) -> None:
        self.plus = plus
        self.content = bytearray()
        self._left = size

    def add(self, name: bytes, attributes: EntryAttributes, position: int) -> bool:
        """False: it does not fit. `position`: where the listing goes on after it."""
        entry = DIRENT.pack(attributes.st_ino, position, len(name), attributes.st_mode >> _FAMILY_SHIFT)
        padding = -len(name) % 8
        if self.plus:
            entry = attributes.entry() + entry
        size = len(entry) + len(name) + padding
        if size > self._left:
            return False
        self._left -= size
        self.content += entry
        self.content += name
        self.content += bytes(padding)
        return True
