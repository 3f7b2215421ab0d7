"""StagedFile: a file being written, the hash that follows it, and the seal, which is the one gate for hashes.

The hash covers a prefix of the file. A write that begins where the prefix ends extends it, for free; a write inside
the prefix throws it away; a write beyond leaves a gap. The seal reads and hashes what the prefix does not cover, so
any order of writes ends in the right hash, and the usual one costs no read.

A new file lies in memory while it is small: most files stay so, and come to the disk once, as the object.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import trio

from lfsfs.crew import crew
from lfsfs.durable import begin_writing
from lfsfs.errors import LfsfsError
from lfsfs.oid import Oid
from lfsfs.store.gathered import Gathered
from lfsfs.store.hashing import BLOCK_BYTES, Digest, DigestLanes, begins_with, block_digest
from lfsfs.store.limits import Limits
from lfsfs.store.mime import HEAD_BYTES, obvious_type, type_of
from lfsfs.store.space import STAT_BLOCK_BYTES, Grant
from lfsfs.tiers.local import write_new

SLICE_BYTES = 1 << 20  # what the hash worker is handed at once
WRITE_BACK_BYTES = 32 << 20  # of a file so many bytes are begun to be written to the disk while it grows
MEMORY_BYTES = 64 << 10  # a new file that is not larger has no file on disk yet


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file whose bytes are known: what tier and index may trust.

    `content`: all of them, where they are few; then there is no file at `path` yet. `content_type` "": not told yet.
    """

    path: Path
    oid: Oid
    size: int
    blocks: bytes
    content_type: str
    mode: int
    content: bytes | None = None

    def open(self) -> BinaryIO:
        """The bytes, to be read."""
        return self.path.open("rb") if self.content is None else BytesIO(self.content)

    def written_out(self) -> "Sealed":
        """The same with a file at `path`. Blocks."""
        if self.content is None:
            return self
        self.path.unlink(missing_ok=True)  # an earlier seal, with other bytes, may have left one
        write_new(self.path, self.content, self.mode)
        return replace(self, content=None)


class StagedFile:
    """One regular file being written, at `path`, and the hash of its prefix. Used from one trio thread.

    The descriptor is open while `acquire` is ahead of `release`; the hash outlives it. With a `mode`, the file is new
    and empty: it lies in memory until it is larger than MEMORY_BYTES, and only then is there a file of that mode.
    """

    def __init__(
        self, path: Path, pool: ThreadPoolExecutor, *, grant: Grant | None = None, mode: int | None = None,
        limits: Limits | None = None, gathered: Gathered | None = None,
        flusher: ThreadPoolExecutor | None = None,
    ) -> None:  # fmt: skip
        self.path = path
        self._limits = limits
        self._gathered = gathered or Gathered()
        self.size = 0
        self.grant = grant
        self._mode = mode or 0
        self._memory: bytearray | None = None if mode is None else bytearray()
        self._pool = pool
        self._fd = -1
        self._users = 0
        self._lent = False
        self._covered = 0
        self._flusher = flusher
        self._begun = 0
        self._slice: list[bytes | bytearray] = []
        self._slice_bytes = 0
        if self._memory is None:
            self._start_hash()

    def acquire(self) -> int:
        """Opens the file for reading and writing, or once more; the descriptor, -1 while it lies in memory."""
        if self._users == 0 and self._memory is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            self.size = os.fstat(self._fd).st_size
            if self.size < self._covered:  # it was cut behind our back
                self._start_hash()
        self._users += 1
        return self._fd

    def release(self) -> None:
        self._users -= 1
        if self._users == 0 and self._fd >= 0:
            if self.size <= MEMORY_BYTES:
                self._forget_gathered()
            else:
                self.hash_gathered()
            os.close(self._fd)
            self._fd = -1

    def state(self) -> tuple[str, int, bytes | None]:
        """Its path, its mode, and what lies in memory of it: for whoever goes on with it in another process."""
        return str(self.path), self._mode, None if self._memory is None else bytes(self._memory)

    def go_on(self, memory: bytes | None) -> None:
        """With what another process has staged: these bytes, or those at the path, whose hash begins anew."""
        self._memory = None if memory is None else bytearray(memory)
        if memory is None:
            self._start_hash()
        self.size = os.stat(self.path).st_size if memory is None else len(memory)
        if self.grant is not None:
            taken = None if memory is not None else os.stat(self.path).st_blocks * STAT_BLOCK_BYTES
            self.grant.adopt(self.grant.room_of(self.size, taken))

    def take(self, descriptor: int) -> None:
        """Opens by a descriptor the file that has lost its name; its descriptor from now on."""
        self._fd, self._users = descriptor, self._users + 1
        self.size = os.fstat(descriptor).st_size

    @property
    def users(self) -> int:
        return self._users

    @property
    def descriptor(self) -> int:
        """Valid while there are users, and the file does not lie in memory."""
        return self._fd

    @property
    def unbounded(self) -> bool:
        """Whether nothing needs to be asked before it grows."""
        return self.grant is None and self._limits is None

    @property
    def lent(self) -> bool:
        return self._lent

    def lend(self) -> None:
        """From now on bytes are written to the file that `write` is not given.

        `catch_up` hashes them as they come; the seal compares what was hashed with what is there in the end.
        """
        self._lent = True

    def catch_up(self) -> bool:
        """Hashes slices that were written without `write`, as far as the hash keeps pace; whether there is more soon."""
        if self._fd < 0:
            return False
        size = os.fstat(self._fd).st_size
        if size < self._covered:
            self._start_hash()
        grown = False
        while size - self._covered >= SLICE_BYTES:
            if self._lanes.full:
                return True
            piece = bytearray(SLICE_BYTES)
            try:
                if os.preadv(self._fd, [piece], self._covered, os.RWF_NOWAIT) != SLICE_BYTES:
                    break  # not in memory any more: the seal reads it
            except OSError:
                break
            self._follow(piece)
            grown = True
        return grown

    def open(self) -> BinaryIO:
        """What it holds now, to be read."""
        return self.path.open("rb") if self._memory is None else BytesIO(bytes(self._memory))

    def read(self, offset: int, size: int) -> bytes:
        if self._memory is not None:
            return bytes(self._memory[offset : offset + size])
        return os.pread(self._fd, size, offset)

    async def reserve(self, size: int) -> None:
        """Waits until there is room for so many bytes more; NoSpace. Goes on at once where nothing bounds the room."""
        if self.grant is not None:
            await self.grant.cover(self._room, size)

    def _room(self) -> int:
        """The bytes that it takes on disk, or will take, and its object beside it. Where there is a grant."""
        assert self.grant is not None
        if self._memory is not None:
            return self.grant.room_of(len(self._memory), None)
        found = os.fstat(self._fd)
        return self.grant.room_of(found.st_size, found.st_blocks * STAT_BLOCK_BYTES)

    async def write(self, offset: int, piece: bytes) -> None:
        """Writes all of it, or raises OSError; the hash follows. In the file before the first time that this waits.

        TooLarge, NoSpace where limits say so: then nothing of it is written.
        """
        if self._limits is not None:
            self._limits.check_growth(self.size, offset + len(piece))
        if self._memory is not None and self._keep(offset, piece):
            return
        written = os.pwrite(self._fd, piece, offset)
        while written < len(piece):
            written += os.pwrite(self._fd, piece[written:], offset + written)
        self.size = max(self.size, offset + len(piece))
        if offset == self._covered:
            self._follow(piece)
            if self._lanes.full:
                await self._lanes.room()
        elif offset < self._covered:
            self._start_hash()
            if offset == 0:
                self._follow(piece)

    def _keep(self, offset: int, piece: bytes) -> bool:
        """Puts the piece into memory. False: the file is too large for that now, and lies on disk."""
        assert self._memory is not None
        end = offset + len(piece)
        if end > MEMORY_BYTES:
            self._spill()
            return False
        if offset > len(self._memory):
            self._memory.extend(bytes(offset - len(self._memory)))
        self._memory[offset:end] = piece
        self.size = len(self._memory)
        return True

    def _spill(self) -> None:
        """From memory to disk."""
        assert self._memory is not None
        content = bytes(self._memory)
        fd = write_new(self.path, content, self._mode, keep=self._users > 0)
        self._start_hash()
        self._fd, self._memory = fd, None
        if content:
            self._follow(content)

    def truncate(self, size: int) -> None:
        """Cuts it, or makes it longer by zeros. TooLarge."""
        if self._limits is not None:
            self._limits.check_size(size)
        if self._memory is not None and size > MEMORY_BYTES:
            self._spill()
        if self._memory is not None:
            del self._memory[size:]
            self._memory.extend(bytes(size - len(self._memory)))
            self.size = size
            return
        if self._fd >= 0:
            os.ftruncate(self._fd, size)
        else:
            os.truncate(self.path, size)
        self.size = size
        if size < self._covered:
            self._start_hash()

    async def seal(self, *, typed: bool = True, to: Path | None = None) -> Sealed:
        """Hashes what is not hashed yet; the file's oid, block digests and, if asked for, content type. NoSpace.

        The caller holds writers off until it has done with the result. May be repeated after more writes.

        `to`: a path where nothing is; then what is small is sealed as bytes that may get their file there.
        """
        sealed = self.seal_memory()
        if sealed is not None:
            return await _typed(sealed) if typed else sealed
        self.acquire()
        try:
            if self.grant is not None:
                await self.grant.complete(self._room())  # a hole in it takes no room, and sealed it does
            if to is not None and (content := self._small()) is not None:
                sealed = self._seal_bytes(content, to, os.fstat(self._fd).st_mode & 0o777)
                return await _typed(sealed) if typed else sealed
            self.hash_gathered()
            if self._lent:
                await self._hash_lent()
            await self._lanes.idle()
            sealed = await trio.to_thread.run_sync(self._finish, typed)
            if self.grant is not None:
                self.grant.shrink(self._room())
            return sealed
        finally:
            self.release()

    def seal_memory(self) -> Sealed | None:
        """As `seal` of what lies in memory, its type not told; None where it lies on disk.

        At once: so few bytes are hashed sooner than a thread is asked to.
        """
        if self._memory is None:
            return None
        return self._seal_bytes(bytes(self._memory), self.path, self._mode)

    async def _hash_lent(self) -> None:
        """Hashes the rest, and meanwhile compares what was hashed with what is there; all again where they differ."""
        await self._lanes.blocks_idle()
        digests, hashed = self._digest.blocks(), self._covered
        async with crew(1) as workers:
            await workers.start(self._hash_rest)
            same = await begins_with(self._fd, digests, hashed)
        if not same:
            self._start_hash()
            await self._hash_rest()

    async def keep_pace(self) -> None:
        """Waits until what is there is hashed, but for a part of a slice. While there are users."""
        await self._hash_rest()
        await self._lanes.idle()

    async def _hash_rest(self) -> None:
        size = os.fstat(self._fd).st_size
        while size - self._covered >= SLICE_BYTES:
            offset = self._covered
            piece = await trio.to_thread.run_sync(os.pread, self._fd, SLICE_BYTES, offset)
            if not piece:
                return  # it was cut meanwhile
            if self._covered == offset:  # or another task was quicker
                self._follow(piece)
            if self._lanes.full:
                await self._lanes.room()

    def _seal_bytes(self, content: bytes, path: Path, mode: int) -> Sealed:
        if self.grant is not None:
            self.grant.shrink(self._room())
        blocks = block_digest(content) if content else b""
        head = content[:HEAD_BYTES]
        return Sealed(path, Oid.of(content), len(content), blocks, obvious_type(head), mode, content)

    def _small(self) -> bytes | None:
        """All that the file holds, if it is little."""
        if os.fstat(self._fd).st_size > MEMORY_BYTES:
            return None
        content = os.pread(self._fd, MEMORY_BYTES + 1, 0)
        return content if len(content) <= MEMORY_BYTES else None

    def _forget_gathered(self) -> None:
        """What was not hashed yet is read once more when it is."""
        if self._slice:
            self._covered -= self._slice_bytes
            self._drop_slice()

    def _follow(self, piece: bytes | bytearray) -> None:
        self._covered += len(piece)
        if self._flusher is not None and self._covered - self._begun >= WRITE_BACK_BYTES:
            self._flusher.submit(begin_writing, self._fd, self._begun, self._covered - self._begun)
            self._begun = self._covered
        self._slice.append(piece)
        self._slice_bytes += len(piece)
        if self._slice_bytes >= SLICE_BYTES:
            self.hash_gathered()
        else:
            self._gathered.grew(self, len(piece))

    def hash_gathered(self) -> None:
        """Has what was written lately hashed now, in a thread, as little as it may be."""
        if self._slice:
            self._lanes.push(self._slice[0] if len(self._slice) == 1 else b"".join(self._slice))
        self._drop_slice()

    def _drop_slice(self) -> None:
        self._slice, self._slice_bytes = [], 0
        self._gathered.went(self)

    def _start_hash(self) -> None:
        self._begun = 0
        self._digest = Digest()
        self._lanes = DigestLanes(self._pool, self._digest)
        self._covered = 0
        self._drop_slice()

    def _finish(self, typed: bool) -> Sealed:
        stat = os.fstat(self._fd)
        if self._digest.size > stat.st_size:  # somebody cut the file behind our back
            self._start_hash()
        digest = self._digest
        while digest.size < stat.st_size:
            piece = os.pread(self._fd, min(BLOCK_BYTES, stat.st_size - digest.size), digest.size)
            if not piece:
                raise LfsfsError(f"{self.path.name} became shorter while it was hashed")
            digest.update(piece)
        self._covered = digest.size
        head = os.pread(self._fd, HEAD_BYTES, 0)
        content_type = type_of(head) if typed else obvious_type(head)
        oid = Oid.from_bytes(digest.sha256())
        return Sealed(self.path, oid, digest.size, digest.blocks(), content_type, stat.st_mode & 0o777)


async def _typed(sealed: Sealed) -> Sealed:
    """The same with its content type, of what is few bytes."""
    assert sealed.content is not None
    head = sealed.content[:HEAD_BYTES]
    return replace(sealed, content_type=await trio.to_thread.run_sync(type_of, head))
