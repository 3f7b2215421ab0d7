"""ObjectFile: an object's local file, open, for whoever hands its bytes to the kernel once they were compared."""

import os
import stat
from pathlib import Path

import trio
from blake3 import blake3

from lfsfs.errors import Corrupt, NotFound
from lfsfs.oid import Oid
from lfsfs.store.hashing import BLOCK_BYTES, DIGEST_BYTES, block_digest

PIECE_BYTES = 64 << 10
"""What is read and hashed at once: so much stays in a processor's own cache in between."""


class ObjectFile:
    """One open of the file; `descriptor` is to be read from only where `verify` has returned. To be closed."""

    def __init__(self, path: Path, oid: Oid, size: int, digests: bytes) -> None:
        """NotFound if the file is not there, or is none."""
        self._oid = oid
        self._size = size
        self._digests = digests
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise NotFound(f"no object {oid}") from error
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            self.close()
            raise NotFound(f"no object {oid}: not a regular file")

    def close(self) -> None:
        """Repeating is harmless."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    async def verify(self, offset: int, size: int) -> None:
        """Compares the blocks in which these bytes lie with their digests. Corrupt."""
        await trio.to_thread.run_sync(self._verify, offset, size)

    async def read(self, offset: int, size: int) -> bytes:
        """These bytes, up to the end of the object, compared with their digests. Corrupt."""
        return await trio.to_thread.run_sync(self._read, offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        start = offset - offset % BLOCK_BYTES
        end = min(offset + size, self._size)
        content = os.pread(
            self.descriptor, min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, self._size) - start, start
        )
        view = memoryview(content)
        for at in range(0, len(content), BLOCK_BYTES):
            self._compare((start + at) // BLOCK_BYTES, block_digest(view[at : at + BLOCK_BYTES]))
        if len(content) < end - start:
            raise Corrupt(f"object {self._oid}: {start + len(content)} bytes are there of {self._size}")
        return (
            content
            if start == offset and len(content) == end - start
            else content[offset - start : end - start]
        )

    def _compare(self, number: int, digest: bytes) -> None:
        if digest != self._digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
            start = number * BLOCK_BYTES
            raise Corrupt(f"object {self._oid}: the block at {start} does not match its digest: not served")

    def _verify(self, offset: int, size: int) -> None:
        buffer = memoryview(bytearray(PIECE_BYTES))
        end = min(offset + size, self._size)
        for number in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            start = number * BLOCK_BYTES
            digest = blake3()
            for at in range(start, min(start + BLOCK_BYTES, self._size), PIECE_BYTES):
                digest.update(buffer[: os.preadv(self.descriptor, [buffer], at)])
            self._compare(number, digest.digest())
