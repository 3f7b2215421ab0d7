"""Pace: how fast a verification may read, and who may stop it."""

import threading
import time
from collections.abc import Callable, Iterator

import trio

from lfsfs.tiers.local_file import LocalFile

PIECE_BYTES = 1 << 20
PAUSE_SECONDS = 0.1  # how soon a verification that is to stand aside looks whether it still is


class Pace:
    """Shared by the threads of one verification.

    `rate`: bytes a second of all together; None: as fast as the disk. `stands_aside`: whether nothing is to be read
    just now, asked before each piece. `read` counts the bytes so far, `reads` the calls.
    """

    def __init__(self, rate: int | None = None, stands_aside: Callable[[], bool] | None = None) -> None:
        self.read = 0
        self.reads = 0
        self._rate = rate
        self._stands_aside = stands_aside
        self._lock = threading.Lock()
        self._due = 0.0  # when the next piece may be read

    def count(self, size: int) -> None:
        """So many bytes were read."""
        with self._lock:
            self.read += size
            self.reads += 1
            if self._rate is not None:
                self._due = max(self._due, time.monotonic()) + size / self._rate

    def wait(self) -> None:
        """Returns when the next piece may be read. To be called in a thread of trio's: ends where that is cancelled."""
        trio.from_thread.check_cancelled()
        while self._stands_aside is not None and self._stands_aside():
            time.sleep(PAUSE_SECONDS)
            trio.from_thread.check_cancelled()
        while (left := self._due - time.monotonic()) > 0:
            time.sleep(min(left, PAUSE_SECONDS))
            trio.from_thread.check_cancelled()

    def pieces(self, file: LocalFile) -> Iterator[bytes]:
        """The object's bytes, in order."""
        offset = 0
        while True:
            self.wait()
            piece = file.read_at(offset, PIECE_BYTES)
            if not piece:
                return
            offset += len(piece)
            self.count(len(piece))
            yield piece
