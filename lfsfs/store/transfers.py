"""Bytes in and out of the store: the verified reader, the upload stream."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

import trio

from lfsfs.errors import Corrupt, HashMismatch, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.hashing import BLOCK_BYTES, DIGEST_BYTES, block_digest
from lfsfs.store.object_file import ObjectFile
from lfsfs.store.staged_file import Sealed, StagedFile
from lfsfs.store.staging import Staging
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.tier import Tier

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and, where it is known, the bytes in all."""


class Reader(Protocol):
    """Random access to one object's verified bytes. To be closed, best by `async with`."""

    oid: Oid
    size: int

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; short only at the end of the object."""

    def is_verified(self, offset: int, size: int) -> bool:
        """Whether the local file's bytes of this range were compared already."""

    def open_file(self) -> ObjectFile | None:
        """The local file whose bytes it reads, for the caller to close; None where there is none."""

    def close(self) -> None:
        """Repeating is harmless."""

    async def __aenter__(self) -> "Reader": ...

    async def __aexit__(self, *_: object) -> None: ...


class ObjectReader:
    """Random access to one object; every byte of it was compared with its block's digest before it is returned.

    A block is verified once in the life of the reader. `Corrupt` where it does not match: nothing of it is served.
    """

    def __init__(self, tier: Tier, oid: Oid, size: int, digests: bytes) -> None:
        self.oid = oid
        self.size = size
        self._tier = tier
        self._digests = digests
        self._verified = bytearray(len(digests) // DIGEST_BYTES)

    async def __aenter__(self) -> "ObjectReader":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to give back."""

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; short only at the end of the object."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        if all(self._verified[first : last + 1]):
            return await self._read_exactly(offset, end - offset)
        pieces = [await self._block(number) for number in range(first, last + 1)]
        whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        start = offset - first * BLOCK_BYTES
        return whole[start : start + end - offset]

    def is_verified(self, offset: int, size: int) -> bool:
        """Whether every block of the range was compared already."""
        if size <= 0:
            return True
        first, last = offset // BLOCK_BYTES, (min(offset + size, self.size) - 1) // BLOCK_BYTES
        return all(self._verified[first : last + 1])

    def read_file(self, descriptor: int, offset: int, size: int) -> bytes:
        """As `read`, through a descriptor of the local file. Blocks; from any thread."""
        end = min(offset + size, self.size)
        start = offset - offset % BLOCK_BYTES
        stop = min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, self.size)
        content = os.pread(descriptor, stop - start, start)
        if len(content) != stop - start:
            raise Corrupt(
                f"object {self.oid}: {len(content)} bytes at {start} where {stop - start} are due: not served"
            )
        view = memoryview(content)
        for at in range(0, stop - start, BLOCK_BYTES):
            self._compare((start + at) // BLOCK_BYTES, view[at : at + BLOCK_BYTES])
        return content if (start, stop) == (offset, end) else content[offset - start : end - start]

    def open_file(self) -> ObjectFile | None:
        """None also where the file is gone: reading says what that means; and where it may be encrypted."""
        if not isinstance(self._tier, LocalTier) or not self._tier.plain:
            return None
        try:
            return ObjectFile(self._tier.path(self.oid), self.oid, self.size, self._digests)
        except NotFound:
            return None

    async def _block(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        block = await self._read_exactly(start, min(BLOCK_BYTES, self.size - start))
        self._compare(number, block)
        return block

    def _compare(self, number: int, block: bytes | memoryview) -> None:
        """Notes that the block is as it should be. Corrupt."""
        if self._verified[number]:
            return
        if block_digest(block) != self._digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
            start = number * BLOCK_BYTES
            raise Corrupt(f"object {self.oid}: the block at {start} does not match its digest: not served")
        self._verified[number] = 1

    async def _read_exactly(self, offset: int, size: int) -> bytes:
        piece = await self._tier.read(self.oid, offset, size)
        if len(piece) != size:
            raise Corrupt(
                f"object {self.oid}: {len(piece)} bytes at {offset} where {size} are due: not served"
            )
        return piece


class HealingReader:
    """Reads the local bytes until they turn out to be damaged or gone, and from then on what `heal` returns."""

    def __init__(self, local: ObjectReader, heal: Callable[[], Awaitable[Reader]]) -> None:
        self.oid = local.oid
        self.size = local.size
        self._reader: Reader = local
        self._local: Reader = local
        self._heal = heal
        self._healing = trio.Lock()

    async def __aenter__(self) -> "HealingReader":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    def is_verified(self, offset: int, size: int) -> bool:
        return self._reader.is_verified(offset, size)

    def open_file(self) -> ObjectFile | None:
        return self._reader.open_file()

    async def read(self, offset: int, size: int) -> bytes:
        """As ObjectReader's. Corrupt, Unavailable where healing fails. Of several reads at once, one heals for all."""
        reader = self._reader
        try:
            return await reader.read(offset, size)
        except (Corrupt, NotFound):
            if reader is not self._local:
                raise
        async with self._healing:
            if self._reader is self._local:
                self._reader = await self._heal()
        return await self._reader.read(offset, size)


async def chunks(reader: Reader, size: int, progress: Progress | None) -> AsyncIterator[bytes]:
    """The object's bytes in order."""
    offset = 0
    while offset < reader.size:
        piece = await reader.read(offset, size)
        offset += len(piece)
        if progress is not None:
            progress(offset, reader.size)
        yield piece


class Upload:
    """One object being written as a stream. Nothing of it is visible before `finalize` returns.

    An async context manager: leaving it without `finalize`, also by cancellation, leaves nothing behind.
    """

    def __init__(
        self,
        staging: Staging,
        commit: Callable[[Sealed], Awaitable[ObjectStat]],
        *,
        oid: Oid | None,
        size: int | None,
        progress: Progress | None,
        file: StagedFile | None = None,
    ) -> None:
        """`file`: what is there of it already; None: nothing."""
        self._staging = staging
        self._commit = commit
        self._oid = oid
        self._size = size
        self._progress = progress
        self._file = file
        if file is not None:
            file.acquire()

    @property
    def size(self) -> int:
        """The bytes that are there."""
        return 0 if self._file is None else self._file.size

    async def __aenter__(self) -> "Upload":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.abort()

    def begin(self) -> None:
        """It is one of the files being written from now on, not only when the first bytes are there. TooManyUploads."""
        self._open()

    async def write(self, piece: bytes) -> None:
        """Appends. HashMismatch as soon as there is more than the promised size."""
        file = self._open()
        if self._size is not None and file.size + len(piece) > self._size:
            raise HashMismatch(f"more bytes than the {self._size} that were announced")
        await file.reserve(len(piece))
        await file.write(file.size, piece)
        if self._progress is not None:
            self._progress(file.size, self._size)

    async def finalize(self) -> ObjectStat:
        """Seals and commits. HashMismatch if oid or size are not what was announced."""
        file = self._open()
        try:
            if self._size is not None and file.size != self._size:
                raise HashMismatch(f"{file.size} bytes where {self._size} were announced")
            sealed = await file.seal()
            if self._oid is not None and sealed.oid != self._oid:
                raise HashMismatch(f"the bytes have the oid {sealed.oid}, announced was {self._oid}")
            return await self._commit(sealed)
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Drops what was written. After `finalize` or `abort` there is nothing to drop."""
        if self._file is not None and self._file.users:
            self._file.release()
            self._staging.discard(self._file)

    def park(self) -> None:
        """Ends it, and leaves what was written where it is: only for one that was resumed."""
        if self._file is not None and self._file.users:
            self._file.release()

    def _open(self) -> StagedFile:
        if self._file is None:
            self._file = self._staging.new_file()
            self._file.acquire()
        elif not self._file.users:
            raise LfsfsError("the upload has ended")
        return self._file


async def write_file(reader: Reader, target: Path, progress: Progress | None) -> None:
    """Writes the object to `target`: whole, under its name, or not at all."""
    fresh = target.with_name(f".{target.name[:200]}.{os.getpid()}.lfsfs")
    try:
        async with await trio.open_file(fresh, "wb") as file:
            async for piece in chunks(reader, 4 * BLOCK_BYTES, progress):
                await file.write(piece)
        fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
