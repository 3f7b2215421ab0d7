"""The hash that follows a file's writes: SHA-256 of the whole, BLAKE3 of each 1 MiB block, in worker threads.

SHA-256 gives the object its name; the block digests let any range be verified later, which the oid alone cannot do.
"""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import trio
from blake3 import blake3

from lfsfs.crew import crew

BLOCK_BYTES = 1 << 20
DIGEST_BYTES = 32
_COMPARED_BYTES = 256 << 10  # so much stays in a processor's own cache between reading and hashing
QUEUE_BYTES = 8 << 20  # how far the writer may run ahead of the hash


class Digest:
    """SHA-256 and block digests of a stream of bytes. Not thread-safe: one thread at a time."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._blocks: list[bytes] = []
        self._block = blake3()
        self._filled = 0

    def update(self, piece: bytes | bytearray | memoryview) -> None:
        self.update_sha256(piece)
        self.update_blocks(piece)

    def update_sha256(self, piece: bytes | bytearray | memoryview) -> None:
        """One half of `update`: two threads may do a half each."""
        self._sha256.update(piece)
        self.size += len(piece)

    def update_blocks(self, piece: bytes | bytearray | memoryview) -> None:
        """The other half."""
        view = memoryview(piece)
        while len(view):
            part = view[: BLOCK_BYTES - self._filled]
            self._block.update(part)
            self._filled += len(part)
            if self._filled == BLOCK_BYTES:
                self._blocks.append(self._block.digest())
                self._block, self._filled = blake3(), 0
            view = view[len(part) :]

    def sha256(self) -> bytes:
        return self._sha256.digest()

    def blocks(self) -> bytes:
        """The digests so far, 32 bytes a block, the last block as far as it is filled."""
        return b"".join(self._blocks) + (self._block.digest() if self._filled else b"")


async def begins_with(descriptor: int, digests: bytes, size: int) -> bool:
    """Whether a file's first `size` bytes are those that have these digests of their blocks. Each half in a thread."""
    blocks = -(-size // BLOCK_BYTES)
    same: list[bool] = []

    async def compare(first: int, stop: int) -> None:
        same.append(await trio.to_thread.run_sync(_same_blocks, descriptor, digests, size, first, stop))

    async with crew(2) as workers:
        await workers.start(partial(compare, 0, blocks // 2))
        await workers.start(partial(compare, blocks // 2, blocks))
    return all(same)


def _same_blocks(descriptor: int, digests: bytes, size: int, first: int, stop: int) -> bool:
    buffer = memoryview(bytearray(_COMPARED_BYTES))
    for number in range(first, stop):
        start = number * BLOCK_BYTES
        block = blake3()
        end = min(start + BLOCK_BYTES, size)
        for at in range(start, end, _COMPARED_BYTES):
            piece = buffer[: min(_COMPARED_BYTES, end - at)]
            if os.preadv(descriptor, [piece], at) != len(piece):
                return False
            block.update(piece)
        if block.digest() != digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
            return False
    return True


def block_digest(*pieces: bytes | memoryview) -> bytes:
    """The BLAKE3 digest of a block, or of what a block came in."""
    if len(pieces) == 1:
        return blake3(pieces[0]).digest()
    digest = blake3()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


class DigestLanes:
    """Feeds one Digest in the order of the pieces given, in threads of a shared pool: SHA-256 beside BLAKE3."""

    def __init__(self, pool: ThreadPoolExecutor, digest: Digest) -> None:
        self._lanes = (Lane(pool, digest.update_sha256), Lane(pool, digest.update_blocks))

    def push(self, piece: bytes | bytearray) -> None:
        for lane in self._lanes:
            lane.push(piece)

    @property
    def full(self) -> bool:
        return any(lane.full for lane in self._lanes)

    async def room(self) -> None:
        """Waits until the writer may go on."""
        for lane in self._lanes:
            await lane.room()

    async def blocks_idle(self) -> None:
        """Waits until the digests of all blocks that were pushed are there: sooner than the SHA-256."""
        await self._lanes[1].idle()

    async def idle(self) -> None:
        """Waits until all that was pushed is fed."""
        for lane in self._lanes:
            await lane.idle()


class Lane:
    """Feeds pieces in the order given, in threads of a shared pool, never two at once."""

    def __init__(self, pool: ThreadPoolExecutor, feed: Callable[[bytes | bytearray], None]) -> None:
        self._pool = pool
        self._feed = feed
        self._pieces: deque[bytes | bytearray] = deque()
        self._lock = threading.Lock()
        self._running = False
        self._queued = 0
        self._waiters: list[tuple[int, Callable[[], None]]] = []
        self._error: BaseException | None = None

    def push(self, piece: bytes | bytearray) -> None:
        with self._lock:
            self._pieces.append(piece)
            self._queued += len(piece)
            if self._running:
                return
            self._running = True
        self._pool.submit(self._drain)

    @property
    def full(self) -> bool:
        return self._queued > QUEUE_BYTES

    async def room(self) -> None:
        """Waits until the writer may go on."""
        await self._wait_below(QUEUE_BYTES // 2)

    async def idle(self) -> None:
        """Waits until all that was pushed is fed."""
        await self._wait_below(0)
        if self._error is not None:
            raise self._error

    async def _wait_below(self, level: int) -> None:
        token, event = trio.lowlevel.current_trio_token(), trio.Event()
        with self._lock:
            if self._queued <= level:
                return
            self._waiters.append((level, lambda: token.run_sync_soon(event.set)))
        await event.wait()

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._pieces:
                    self._running = False
                    return
                piece = self._pieces.popleft()
            try:
                if self._error is None:
                    self._feed(piece)
            except BaseException as error:  # kept for whoever waits for the hash
                self._error = error
            with self._lock:
                self._queued -= len(piece)
                ready = [wake for level, wake in self._waiters if self._queued <= level]
                self._waiters = [(level, wake) for level, wake in self._waiters if self._queued > level]
            for wake in ready:
                wake()
