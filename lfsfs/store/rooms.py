"""Rooms: what every process of a store has reserved of its bounds and the index does not count yet.

A daemon, commands and transfer agents write to one store at once. Each has a slot in a small file that all of them map:
two numbers, which only their owner writes. A slot belongs to whoever holds a lock on its byte; a process that dies
lets go of it, and what it had reserved counts no more. Layout: docs/FORMAT.md.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lfsfs.alone import try_alone

FILE = "rooms"
SLOTS = 128
_SLOT = struct.Struct("=QQ")  # staged, fetching
_SIZE = SLOTS * _SLOT.size
_LOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid
_OFD_GETLK, _OFD_SETLK = 36, 37  # of the open file, not of the process: whoever opens it twice is two


@dataclass(frozen=True, slots=True)
class Reserved:
    """Bytes: of files being written, and of what is being fetched."""

    staged: int = 0
    fetching: int = 0


class Rooms:
    """The slots of the store at `path`, one of which is taken with the first reservation.

    Where no slot is free, or the file cannot be written, this process is not seen by the others.
    """

    def __init__(self, path: Path) -> None:
        self._path = path / FILE
        self._fd = -1
        self._slot = -1
        self._map: mmap.mmap | None = None
        self._tried = False

    def close(self) -> None:
        if self._map is not None:
            if self._slot >= 0:
                self.set(Reserved())
            self._map.close()
            self._map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def set(self, own: Reserved) -> None:
        """What this process has reserved, all in all."""
        if self._slot >= 0 and self._map is not None:
            _SLOT.pack_into(self._map, self._slot * _SLOT.size, own.staged, own.fetching)

    def others(self) -> Reserved:
        """What all other living processes have reserved.

        To be asked before the index: what is entered there is let go of here afterwards, and counts twice for a moment.
        """
        if self._map is None:
            return Reserved()
        staged = fetching = 0
        for number, (one, other) in enumerate(_SLOT.iter_unpack(self._map[:])):
            if (one or other) and number != self._slot and self._is_held(number):
                staged += one
                fetching += other
        return Reserved(staged, fetching)

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Whether it is ours to look at what is left and to take of it; False: it is another's just now."""
        self._join()
        if self._fd < 0:
            yield True
            return
        if not try_alone(self._fd):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _join(self) -> None:
        if self._tried:
            return
        self._tried = True
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError:
            return
        if os.fstat(fd).st_size < _SIZE:
            os.ftruncate(fd, _SIZE)  # whoever else does so at the same time changes nothing
        self._fd = fd
        self._map = mmap.mmap(fd, _SIZE)
        self._slot = next((number for number in range(SLOTS) if self._take(number)), -1)
        self.set(Reserved())

    def _take(self, number: int) -> bool:
        try:
            fcntl.fcntl(self._fd, _OFD_SETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))
        except OSError:  # somebody else's, or a file system without locks
            return False
        return True

    def _is_held(self, number: int) -> bool:
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        found: int = _LOCK.unpack(fcntl.fcntl(self._fd, _OFD_GETLK, asked))[0]
        return found != fcntl.F_UNLCK
