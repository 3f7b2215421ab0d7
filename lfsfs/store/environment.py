"""The LMDB environment of the index: made, opened, looked over, and its errors in our words."""

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import lmdb

from lfsfs import durable
from lfsfs.errors import InUse, LfsfsError, NoSpace, ReadOnly, StoreFormat
from lfsfs.store import page_sums
from lfsfs.store.free_pages import META_PAGES, free_pages

MAP_SIZE_BYTES = 1 << 30  # the first map; it doubles whenever it is full
MAX_READERS = 1024
NONSENSE = (struct.error, UnicodeDecodeError, json.JSONDecodeError, OverflowError, LookupError)
"""What comes of bytes that are no row, where rows are read."""
_REBUILD = "move its directory away, and the next mount rebuilds it from the objects"


def open_environment(path: Path, *, tables: int, synchronous: bool, read_only: bool) -> lmdb.Environment:
    """The environment at `path`, made where there is none; StoreFormat where what is there cannot be used."""
    data = path / "data.mdb"

    def opened(read_only: bool) -> lmdb.Environment:
        try:
            return lmdb.open(
                str(path),
                map_size=max(MAP_SIZE_BYTES, size),
                max_dbs=tables,
                max_readers=MAX_READERS,
                max_spare_txns=4,
                sync=synchronous,
                readonly=read_only,
                lock=not read_only or os.access(path, os.W_OK),
                readahead=False,
            )
        except lmdb.Error as error:
            if "already open in this process" in str(error):
                raise InUse(
                    f"the store at {path.parent} is open in this process already: use that one"
                ) from error
            raise

    try:
        if not path.exists():
            _create(path, tables)
        size = data.stat().st_size if data.exists() else 0
        if size == 0:
            raise StoreFormat(f"the index at {data} is empty or gone: {_REBUILD}")
        env = _compared(opened, data, read_only=read_only)
    except OSError as error:
        if error.errno == errno.EROFS:
            raise ReadOnly(f"cannot open the index at {path}: {error.strerror}") from error
        raise LfsfsError(f"cannot open the index at {path}: {error.strerror}") from error
    except lmdb.Error as error:
        raise StoreFormat(f"the index at {data} cannot be read ({error}): {_REBUILD}") from error
    except page_sums.Differs as error:
        raise StoreFormat(f"the index at {data} is damaged ({error}): {_REBUILD}") from error
    try:
        _check_whole(env, data)
        env.reader_check()
    except BaseException:
        env.close()
        raise
    return env


def _compared(opened: Callable[[bool], lmdb.Environment], data: Path, *, read_only: bool) -> lmdb.Environment:
    """The environment, its pages compared with their sums before LMDB reads any but the first two."""
    if page_sums.agree(data):
        return opened(read_only)
    try:
        env = opened(not os.access(data, os.W_OK))
    except lmdb.Error:  # nobody can open it: nobody writes
        page_sums.mend(data)
        return opened(read_only)
    try:
        with env.begin(write=True) if os.access(data, os.W_OK) else nullcontext():  # nobody writes meanwhile
            page_sums.mend(data)
    finally:
        env.close()
    return opened(read_only)


def _create(path: Path, tables: int) -> None:
    """A new index, whole under its name or not there, after a power cut too: a file that is empty later was damaged."""
    _sweep(path)
    fresh = path.with_name(f"{path.name}.new-{os.getpid()}")
    fresh.mkdir()
    lmdb.open(str(fresh), map_size=MAP_SIZE_BYTES, max_dbs=tables).close()
    durable.fsync_path(fresh / "data.mdb", "fsync-index")
    durable.fsync_path(fresh, "fsync-index")
    try:
        durable.rename(fresh, path, "rename-index")
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(fresh)  # another process was quicker
    durable.fsync_path(path.parent, "fsync-index")


def _sweep(path: Path) -> None:
    """Removes what processes left that were killed while they made the index."""
    for left in path.parent.glob(f"{path.name}.new-*"):
        pid = left.name.rpartition("-")[2]
        if pid == str(os.getpid()) or not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(left, ignore_errors=True)


def _check_whole(env: lmdb.Environment, data: Path) -> None:
    """A page that is in use and not in the file would end the process with SIGBUS: found out here instead."""
    size = env.stat()["psize"]
    with env.begin():  # no page of this snapshot is written over while it is looked at
        info = env.info()
        expected = max(info["last_pgno"] + 1, META_PAGES) * size
        actual = data.stat().st_size
        if actual >= expected:
            return
        with data.open("rb") as file:
            missing = set(range(actual // size, expected // size))
            try:
                free = free_pages(lambda at, n: os.pread(file.fileno(), n, at), info["last_txnid"], size)
            except (ValueError, struct.error):
                free = set()
    if not missing <= free:
        raise StoreFormat(f"the index at {data} is truncated ({actual} of {expected} bytes): {_REBUILD}")


def translated(error: Exception, path: Path) -> Exception:
    """What LMDB says, or what comes of a row that is none of ours, as one of our errors."""
    text = str(error)
    if isinstance(error, NONSENSE):
        kind = type(error).__name__
        return StoreFormat(f"a row of the index at {path} makes no sense ({kind}: {text}): {_REBUILD}")
    if "No space left" in text:
        return NoSpace(f"the index at {path} cannot grow: the disk is full")
    if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.InvalidError)):
        return StoreFormat(f"the index at {path} is damaged ({text}): {_REBUILD}")
    return LfsfsError(f"the index at {path}: {text}")
