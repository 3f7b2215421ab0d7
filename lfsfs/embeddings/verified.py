"""Verified: which blocks of which files this process has compared with their digests a short while ago.

Whoever reads a pack again within VERIFIED_SECONDS need not compare them again, as long as the file is the same: a write
to it changes its times. What the disk itself may do to the bytes meanwhile does not reach who reads them from memory.
"""

import os
import threading
import time
from collections import OrderedDict

VERIFIED_SECONDS = 300.0
FILES = 4_096  # remembered; some 300 bytes each
_Identity = tuple[int, int, int, int, int]


class Verified:
    """Of any number of files. Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[_Identity, tuple[float, bytearray]] = OrderedDict()

    def blocks(self, fd: int, block_size: int) -> bytearray:
        """A byte for each block of the file: whether it has been compared. Whoever compares one sets it."""
        found = os.fstat(fd)
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        now = time.monotonic()
        with self._lock:
            since, blocks = self._files.pop(identity, (now, bytearray()))
            if not blocks or now - since > VERIFIED_SECONDS:
                since, blocks = now, bytearray(-(-found.st_size // block_size))
            self._files[identity] = since, blocks
            while len(self._files) > FILES:
                self._files.popitem(last=False)
        return blocks


VERIFIED = Verified()
