"""Trimming: pages of the index that nothing uses go back to the file system, as holes in its file.

A transaction writes each page that it changes anew, and the old ones are free afterwards: one that touches all of the
index leaves it twice as large. LMDB uses free pages again and never gives them back. It does not read them either, so
that they may as well be holes. Which pages those are is its own rule (mdb.c, mdb_find_oldest): freed by a transaction
that is older than the last one, and than whatever any reader looks at. While we hold the lock of writers no page is
taken, and whoever begins to read reads the last transaction.
"""

import ctypes
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import lmdb

from lfsfs.store.free_pages import free_pages

LEAST_BYTES = 16 << 20
LEAST_SHARE = 0.25
STAT_BLOCK_BYTES = 512
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def is_due(data: Path, used: int) -> bool:
    """Whether much of the file is free; `used`: the bytes of it that are not."""
    return data.stat().st_blocks * STAT_BLOCK_BYTES - used > max(LEAST_BYTES, LEAST_SHARE * used)


def trim(env: lmdb.Environment, data: Path) -> bool:
    """Makes holes of the free pages. False where the file system cannot. Waits for who is writing, lets nobody write."""
    size = env.stat()["psize"]
    transaction = env.begin(write=True)
    try:
        last = env.info()["last_txnid"]
        oldest = min([last, *_read_by(env)])
        with data.open("r+b") as file:
            free = free_pages(lambda at, n: os.pread(file.fileno(), n, at), last, size, before=oldest)
            for first, count in _runs(free):
                if _libc.fallocate(file.fileno(), _KEEP_SIZE | _PUNCH_HOLE, first * size, count * size):
                    if ctypes.get_errno() == errno.EOPNOTSUPP:
                        return False
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(data))
    finally:
        transaction.abort()
    return True


def _read_by(env: lmdb.Environment) -> list[int]:
    """The transactions that somebody looks at, in whatever process."""
    lines = (line.split() for line in env.readers().splitlines()[1:])
    return [int(line[-1]) for line in lines if line[-1].isdecimal()]


def _runs(numbers: set[int]) -> Iterator[tuple[int, int]]:
    """First number and length of each run."""
    for _, run in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        pages = [number for _, number in run]
        yield pages[0], len(pages)
