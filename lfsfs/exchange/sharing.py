"""Sharing: a file of somebody else's as a file of ours on the same disk, with its bytes shared where that harms nobody.

A reflink (FICLONE) is a file of its own whose blocks are copied when either side writes: nothing can go wrong with it.
A hard link is one file with two names: who writes to one of them in place changes the other. So a link is made only of a
file that is ours, that nobody has open for writing, and that is nobody's to write to from then on: as git does with its
own objects, it becomes read-only. Its hash is taken afterwards. In every other case the bytes are copied.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lfsfs.errors import LfsfsError

Way = Literal["reflink", "link", "copy"]
_FICLONE = 0x40049409  # linux/fs.h
_WRITERS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_COPY_BYTES = 4 << 20
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not hold us up


@dataclass(frozen=True, slots=True)
class Taken:
    """A file that is at the target now. `mode`: what a link's was before, to be given back where it is not kept."""

    way: Way
    size: int
    mode: int
    mtime_ns: int


def open_regular(path: Path) -> int:
    """A descriptor to read from. OSError; also for what is no regular file."""
    fd = os.open(path, _OPEN_FLAGS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file", os.fspath(path))
    return fd


def take(fd: int, target: Path, *, may_link: bool, check: Callable[[], None]) -> Taken:
    """The open file's bytes at `target`, where nothing is, shared if that can be. OSError. Blocks.

    `check` is called now and then, and may raise: then nothing is at `target`.
    """
    found = os.fstat(fd)
    way: Way = "copy"
    if reflink(fd, target):
        way = "reflink"
    elif may_link and _link(fd, found, target):
        way = "link"
    else:
        _copy(fd, target, found.st_size, check)
    return Taken(way, found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime_ns)


def is_as_it_was(fd: int, taken: Taken) -> bool:
    """Whether nobody has written to the file since."""
    found = os.fstat(fd)
    return (found.st_size, found.st_mtime_ns) == (taken.size, taken.mtime_ns)


def give_back(fd: int, taken: Taken) -> None:
    """The file was linked, and is not kept: its owner may write to it as before."""
    if taken.way == "link":
        os.fchmod(fd, taken.mode)


def reflink(fd: int, target: Path) -> bool:
    """Whether there is a file at `target` now that shares the blocks of the one that is open."""
    made = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        fcntl.ioctl(made, _FICLONE, fd)
        os.fchmod(made, stat.S_IMODE(os.fstat(fd).st_mode) & 0o777)
    except OSError:  # another file system, one that cannot, another encryption: a reason for each kernel
        os.unlink(target)
        return False
    except BaseException:
        os.unlink(target)
        raise
    finally:
        os.close(made)
    return True


def _link(fd: int, found: os.stat_result, target: Path) -> bool:
    """Whether it is linked now, and read-only."""
    if found.st_uid != os.geteuid() or not _is_quiet(fd):
        return False
    descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # of the file that is open: its name may lead to another one by now. With src_dir_fd, os.link follows
        os.link(str(fd), target, src_dir_fd=descriptors, follow_symlinks=True)
    except OSError:  # another file system, one without links, too many of them
        return False
    finally:
        os.close(descriptors)
    try:
        os.fchmod(fd, stat.S_IMODE(found.st_mode) & ~_WRITERS & 0o777)
        if _is_quiet(fd):
            return True
    except OSError:
        pass
    os.unlink(target)
    with suppress(OSError):
        os.fchmod(fd, stat.S_IMODE(found.st_mode))
    return False


def _is_quiet(fd: int) -> bool:
    """Whether nobody has the file open for writing: else the kernel grants no read lease."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def _copy(fd: int, target: Path, size: int, check: Callable[[], None]) -> None:
    made = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(made, stat.S_IMODE(os.fstat(fd).st_mode) & 0o777)
        offset = 0
        while offset < size:
            check()
            piece = os.pread(fd, min(_COPY_BYTES, size - offset), offset)
            if not piece:
                raise LfsfsError("became shorter while it was read")
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(made, rest) :]
            offset += len(piece)
    except BaseException:
        os.unlink(target)
        raise
    finally:
        os.close(made)
