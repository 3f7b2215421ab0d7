"""FetchReader: what reads an object while it is being fetched."""

from collections.abc import Awaitable, Callable

from lfsfs.errors import Corrupt
from lfsfs.oid import Oid
from lfsfs.store.fetch import Fetch
from lfsfs.store.hashing import BLOCK_BYTES

AHEAD_BLOCKS = 64  # as far as a sequential reader is read ahead of, where the cache is large
AHEAD_SHARE = 8  # of the cache, at most one part in so many
FIRST_AHEAD_BLOCKS = 2
AHEAD_GROWTH = 4


class FetchReader:
    """One open of an object that comes from the remote tier. Reads ahead of a reader that goes on where it stopped.

    `ended` is called when it is closed, `damaged` when the remote tier's bytes turn out to be wrong.
    """

    def __init__(
        self, fetch: Fetch, cache_limit: int,
        *, ended: Callable[[Fetch], None], damaged: Callable[[Oid], Awaitable[None]],
    ) -> None:  # fmt: skip
        self.oid = fetch.oid
        self.size = fetch.size
        self.fetch = fetch
        self._ended = ended
        self._damaged = damaged
        self._most_ahead = min(AHEAD_BLOCKS, cache_limit // AHEAD_SHARE // BLOCK_BYTES)
        self._next = 0
        self._ahead = 0
        self._open = True
        fetch.acquire()

    async def __aenter__(self) -> "FetchReader":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Repeating is harmless."""
        if self._open:
            self._open = False
            self.fetch.users -= 1
            self._ended(self.fetch)

    def is_verified(self, offset: int, size: int) -> bool:
        """There is no local file to read around us."""
        return False

    def open_file(self) -> None:
        """There is none."""

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; short only at the end of the object."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        try:
            return await self.fetch.read(offset, size, self._window(offset, size))
        except Corrupt:
            await self._damaged(self.oid)
            raise

    def _window(self, offset: int, size: int) -> int:
        """How many blocks to read ahead: more each time that the reader has gone on, none at first and after a jump."""
        here, end = offset // BLOCK_BYTES, (offset + size - 1) // BLOCK_BYTES
        if self._next and abs(here - self._next) <= 1:
            if end >= self._next:
                self._ahead = min(max(FIRST_AHEAD_BLOCKS, self._ahead * AHEAD_GROWTH), self._most_ahead)
        else:
            self._ahead = 0
        self._next = end + 1
        return self._ahead
