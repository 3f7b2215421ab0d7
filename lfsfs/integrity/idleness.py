"""Idleness: whether anybody uses a store just now, told from what this process does beside verifying, and from commits.

Reads that the kernel answers from its own pages do not come here, and need no disk.
"""

import logging
import time
from pathlib import Path

import trio

from lfsfs.integrity.pace import Pace
from lfsfs.store.index import Index

log = logging.getLogger("lfsfs.integrity")
SAMPLE_SECONDS = 1.0
BYTES = 2 << 20  # in a sample: less is what a daemon reads and writes for itself
CALLS = 64  # reads and writes in a sample: a request of the kernel is one of both. To look at .lfsfs/status takes fewer
_COUNTERS = Path("/proc/self/io")


class Idleness:
    """Of one store that this process serves. `pace`: what it reads for verifying, which is no use.

    `seconds`: so long nobody must have used it. Its opening counts as use.
    """

    def __init__(self, index: Index, pace: Pace, seconds: float) -> None:
        self._index = index
        self._pace = pace
        self._seconds = seconds
        self._used = time.monotonic()
        self._transaction = index.last_transaction()
        self._before = self._counted()

    def is_used(self) -> bool:
        """From any thread."""
        return time.monotonic() - self._used < self._seconds

    async def wait(self) -> None:
        """Returns when nobody uses the store. `run` must be running."""
        while self.is_used():  # noqa: ASYNC110 - it is told by other processes' doings
            await trio.sleep(min(SAMPLE_SECONDS, self._seconds))

    def excuse(self) -> None:
        """The last commit was our own."""
        self._transaction = self._index.last_transaction()

    async def run(self) -> None:
        """Looks, for ever."""
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            if self._look():
                self._used = time.monotonic()

    def _look(self) -> bool:
        before, self._before = self._before, self._counted()
        transaction, self._transaction = self._transaction, self._index.last_transaction()
        size, calls = (now - then for now, then in zip(self._before, before, strict=True))
        return transaction != self._transaction or size > BYTES or calls > CALLS

    def _counted(self) -> tuple[int, int]:
        """Bytes and calls of reads and writes of this process so far, but for those of verifying."""
        reads, size = self._pace.reads, self._pace.read
        try:
            lines = (line.split(": ") for line in _COUNTERS.read_text().splitlines())
            found = {name: int(value) for name, value in lines}
        except OSError:  # a kernel that does not count: commits are all that tells
            return 0, 0
        return found["rchar"] + found["wchar"] - size, found["syscr"] + found["syscw"] - reads
