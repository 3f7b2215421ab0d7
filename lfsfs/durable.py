"""The system calls that make bytes durable, each with the name of the step that it is.

Every fsync, rename, link, unlink and index commit of a write goes through here, and every request that changes a bucket.
A test can then kill the process exactly before or after the Nth of them, or fail one by name, and know that no step was
missed:

- LFSFS_FAULT=kill:N      the process kills itself (SIGKILL) at the Nth point; points lie before and after each step
- LFSFS_FAULT=kill:STEP:before, or :after: there
- LFSFS_FAULT=fail:STEP   every step of that name raises OSError(EIO)
- LFSFS_FAULT_LOG=FILE    each step is appended to FILE as it is taken, a line each
"""

import ctypes
import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

_lock = threading.Lock()
_UNWATCHED = nullcontext()
_libc = ctypes.CDLL(None, use_errno=True)
_SYNC_FILE_RANGE_WRITE = 2  # include/uapi/linux/fs.h
_fault = _log = _fail = _kill_there = ""
_kill_at = _points = 0


def read_environment() -> None:
    """Looks again which fault is asked for, and counts points from none on: a process that was forked."""
    global _fault, _log, _kill_at, _kill_there, _fail, _points
    _fault = os.environ.get("LFSFS_FAULT", "")
    _log = os.environ.get("LFSFS_FAULT_LOG", "")
    place = _fault.removeprefix("kill:") if _fault.startswith("kill:") else ""
    _kill_at, _kill_there = (int(place), "") if place.isdigit() else (0, place)
    _fail = _fault.removeprefix("fail:") if _fault.startswith("fail:") else ""
    _points = 0


read_environment()


def step(name: str) -> AbstractContextManager[None]:
    """Names one durable step, so that a test can cut it off before or after."""
    return _watched(name) if _fault or _log else _UNWATCHED


@contextmanager
def _watched(name: str) -> Iterator[None]:
    _point(f"{name}:before")
    if name == _fail:
        raise OSError(errno.EIO, f"fault injected at {name}")
    yield
    _point(f"{name}:after")


def _point(label: str) -> None:
    global _points
    with _lock:
        _points += 1
        if _log:
            fd = os.open(_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(fd, f"{label}\n".encode())
            os.close(fd)
        if _kill_at == _points or _kill_there == label:
            os.kill(os.getpid(), signal.SIGKILL)


def fsync(fd: int, name: str) -> None:
    with step(name):
        os.fsync(fd)


def fsync_path(path: str | os.PathLike[str], name: str) -> None:
    """fsync of a file or a directory by its path."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fsync(fd, name)
    finally:
        os.close(fd)


def begin_writing(fd: int, offset: int, size: int) -> None:
    """Has the kernel begin to write these bytes to the disk, so that an fsync finds less to do. No promise of any kind.

    May wait for a busy disk. A descriptor that is closed by now does no harm, nor does a file system that cannot.
    """
    _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)


def sync_file_system(path: str | os.PathLike[str], name: str) -> None:
    """syncfs(2): all that was written to the file system of this path, files and names."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with step(name):
            if _libc.syncfs(fd) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)


def rename(source: str | os.PathLike[str], target: str | os.PathLike[str], name: str) -> None:
    with step(name):
        os.rename(source, target)


def link(source: str | os.PathLike[str], target: str | os.PathLike[str], name: str) -> None:
    """A hard link; FileExistsError where the target is there."""
    with step(name):
        os.link(source, target, follow_symlinks=False)


def unlink(path: str | os.PathLike[str], name: str) -> None:
    """Removes a name; absent is success."""
    with step(name):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
