"""The protocol's numbers and structures, as in the kernel's include/uapi/linux/fuse.h, in native byte order."""

import errno
import struct
from enum import IntEnum

MAJOR, LEAST_MINOR, MINOR = 7, 31, 40
ROOT_INODE = 1
RENAME_NOREPLACE = 1
LARGEST_WRITE_BYTES = 1 << 20  # what a request carries: max_pages of 4 KiB
LARGEST_PAGES = 256
REQUEST_BYTES = LARGEST_WRITE_BYTES + 4096  # the kernel reads a request into no smaller buffer


class Opcode(IntEnum):
    """What the kernel asks."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    READDIRPLUS = 44
    RENAME2 = 45


class InitFlag(IntEnum):
    """What kernel and file system agree on."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    MAX_PAGES = 1 << 22
    INIT_EXT = 1 << 30  # there are more flags: those from bit 32 on, in a field of their own
    PASSTHROUGH = 1 << 37


class OpenFlag(IntEnum):
    """FOPEN_*: how the kernel treats an open file."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5  # since 7.36; an older kernel goes on asking
    PASSTHROUGH = 1 << 7  # since 7.40; goes with no other flag but DIRECT_IO and NOFLUSH


class SetattrFlag(IntEnum):
    """FATTR_*: what a setattr changes."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


class Notification(IntEnum):
    """What the kernel is told unasked."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3


IN_HEADER = struct.Struct("=IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extensions, padding
OUT_HEADER = struct.Struct("=IiQ")  # length, -errno, unique
INIT_IN = struct.Struct("=IIII")  # major, minor, max_readahead, flags
INIT_MORE_FLAGS = struct.Struct("=16xI")  # the flags from bit 32 on, where there are any
# major, minor, max_readahead, flags, max_background, congestion, max_write, granularity, max_pages, alignment,
# flags from bit 32 on, max_stack_depth, 6 unused
INIT_OUT = struct.Struct("=IIIIHHIIHHII24x")
# ino, size, blocks; atime, mtime, ctime; their nanoseconds; mode, nlink, uid, gid, rdev, blksize, flags
_ATTRIBUTES = "QQQQQQIIIIIIIIII"
ENTRY_OUT = struct.Struct(
    "=QQQQII" + _ATTRIBUTES
)  # node, generation, entry and attribute seconds, their nanoseconds
ATTR_OUT = struct.Struct("=QII" + _ATTRIBUTES)  # seconds, nanoseconds, unused
OPEN_OUT = struct.Struct("=QII")  # file handle, flags, backing file
WRITE_OUT = struct.Struct("=II")
STATFS_OUT = struct.Struct(
    "=QQQQQIIII24x"
)  # blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, unused
XATTR_OUT = struct.Struct("=II")
DIRENT = struct.Struct(
    "=QQII"
)  # ino, position of the next, length of the name, type; the name, to a multiple of 8
GETATTR_IN = struct.Struct("=IIQ")
# valid, -, handle, size, lock owner; atime, mtime, ctime, their nanoseconds; mode, -, uid, gid, -
SETATTR_IN = struct.Struct("=IIQQQQQQIIIIIIII")
MKNOD_IN = struct.Struct("=IIII")  # mode, rdev, umask, -
MKDIR_IN = struct.Struct("=II")  # mode, umask
RENAME_IN = struct.Struct("=Q")
RENAME2_IN = struct.Struct("=QII")
LINK_IN = struct.Struct("=Q")
OPEN_IN = struct.Struct("=II")
CREATE_IN = struct.Struct("=IIII")  # flags, mode, umask, -
HANDLE_IN = struct.Struct("=QII")  # release, flush, fsync: file handle, flags
READ_IN = struct.Struct("=QQI")  # file handle, offset, size
READ_IN_BYTES = 40
WRITE_IN_BYTES = 40
XATTR_IN = struct.Struct("=II")  # size, flags
FORGET_IN = struct.Struct("=Q")
BATCH_FORGET_IN = struct.Struct("=II")  # how many
FORGET_ONE = struct.Struct("=QQ")  # node, lookups
INVAL_INODE_OUT = struct.Struct("=Qqq")  # node, offset, length
INVAL_ENTRY_OUT = struct.Struct("=QII")  # parent, length of the name, flags

TOO_SMALL = errno.ERANGE
NOT_IMPLEMENTED = errno.ENOSYS
"""The answer to what is not here: for most requests the kernel then stops asking."""


def answer(unique: int, content: bytes = b"") -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(content), 0, unique) + content


def refusal(unique: int, number: int) -> bytes:
    """`number`: of errno."""
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)


def notification(kind: Notification, content: bytes) -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(content), kind, 0) + content
