"""EncryptedTier: a tier whose objects are sealed before they go into another one, and opened on the way out.

What the other tier has from before, plain, stays readable; `is_sealed` tells, and `seal` converts one object. A range is
still a range: only the frames that it touches are read.
"""

import errno
import fcntl
import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from lfsfs.errors import Corrupt, LfsfsError, NoSpace, NotFound
from lfsfs.oid import Oid
from lfsfs.tiers.encryption import frames
from lfsfs.tiers.encryption.frames import FRAME_BYTES, HEAD_BYTES, SEALED_FRAME_BYTES, Frames
from lfsfs.tiers.encryption.ring import Ring
from lfsfs.tiers.local import LOCK_FILE
from lfsfs.tiers.tier import Tier, Wrapper, check_range

REMEMBERED = 4_096  # objects whose keys need not be read again
PIECE_BYTES = 1 << 20
PARALLEL = 4
ATTEMPTS = 3  # of a read of what others seal, or put anew, meanwhile


@dataclass(frozen=True, slots=True)
class _Object:
    """What lies in the other tier. `frames`: None where it is plain. `size` of the object itself."""

    frames: Frames | None
    size: int


class EncryptedTier(Wrapper):
    """`temp`: a directory for sealed files on their way into `inner`, best on its file system.

    `inner` takes an object of another length than the one that is put for a damaged one, and replaces it at once, as
    LocalTier does.
    """

    def __init__(self, inner: Tier, ring: Ring, temp: Path) -> None:
        super().__init__(inner)
        self._ring = ring
        self._temp = temp
        self._known: OrderedDict[Oid, Frames] = OrderedDict()
        self._threads = trio.CapacityLimiter(PARALLEL)

    async def put(self, oid: Oid, source: Path) -> None:
        """An object that is there already, sealed, stays as it is; one that is there plain is sealed."""
        with _translated(f"cannot store {oid}"):
            size = os.stat(source).st_size
            try:
                present = await self._look(oid)
                if present.frames is not None and present.size == size:
                    return
            except (NotFound, Corrupt):
                pass
            with self._temporary() as sealed:
                await trio.to_thread.run_sync(self._seal_file, oid, source, sealed, limiter=self._threads)
                await self.inner.put(oid, sealed)
        self._known.pop(oid, None)

    async def read(self, oid: Oid, offset: int, size: int) -> bytes:
        """Corrupt where a frame is not what was sealed: nothing of it is returned."""
        check_range(offset, size)
        for _ in range(ATTEMPTS - 1):
            found = await self._look(oid)
            try:
                plain = await self._read(oid, found, offset, size)
            except Corrupt:
                plain = None  # another process may have put it anew, with another key
            if plain is not None:
                return plain
            self._known.pop(oid, None)
        found = await self._look(oid)
        plain = await self._read(oid, found, offset, size)
        if plain is None:
            raise Corrupt(f"object {oid} changes all the time: not served")
        return plain

    async def _read(self, oid: Oid, found: _Object, offset: int, size: int) -> bytes | None:
        """None where it was plain, and is sealed by now."""
        end = min(offset + size, found.size)
        if offset >= end:
            return b""
        if found.frames is None:
            plain = await self.inner.read(oid, offset, end - offset)
            return plain if await self.inner.size(oid) == found.size else None
        first, count = offset // FRAME_BYTES, frames.frame_count(found.size)
        number = (end - 1) // FRAME_BYTES - first + 1
        sealed = await self.inner.read(oid, frames.offset_of(first), number * SEALED_FRAME_BYTES)
        if len(sealed) <= PIECE_BYTES:
            plain = _open(found.frames, sealed, first, count)
        else:
            plain = await trio.to_thread.run_sync(
                _open, found.frames, sealed, first, count, limiter=self._threads
            )
        start = offset - first * FRAME_BYTES
        wanted = plain[start : start + end - offset]
        if len(wanted) != end - offset:
            raise Corrupt(f"object {oid}: its sealed form is cut short: not served")
        return wanted

    async def size(self, oid: Oid) -> int:
        return (await self._look(oid)).size

    async def delete(self, oid: Oid) -> None:
        self._known.pop(oid, None)
        await self.inner.delete(oid)

    async def is_sealed(self, oid: Oid) -> bool:
        """NotFound if there is no such object."""
        return (await self._look(oid)).frames is not None

    async def seal(self, oid: Oid) -> bool:
        """Seals an object that lies there plain; whether it did. Corrupt, and nothing changed, where it is not whole.

        May be cut off at any point: the object is there, plain or sealed.
        """
        if await self.is_sealed(oid):
            return False
        with _translated(f"cannot seal {oid}"), self._temporary() as plain:
            await self._copy_plain(oid, plain)
            with self._temporary() as sealed:
                await trio.to_thread.run_sync(self._seal_file, oid, plain, sealed, limiter=self._threads)
                await self.inner.put(oid, sealed)
                if await self.inner.size(oid) != sealed.stat().st_size:
                    raise LfsfsError(f"object {oid} was not replaced by its sealed form")
        return True

    async def _copy_plain(self, oid: Oid, target: Path) -> None:
        digest, offset = hashlib.sha256(), 0
        async with await trio.open_file(target, "wb") as file:
            while piece := await self.inner.read(oid, offset, PIECE_BYTES):
                digest.update(piece)
                offset += len(piece)
                await file.write(piece)
        if digest.digest() != oid.to_bytes():
            raise Corrupt(f"object {oid} is damaged: not sealed")

    async def _look(self, oid: Oid) -> _Object:
        """What lies there now. Only keys are remembered: what is plain may be sealed at any time, by others too."""
        length = await self.inner.size(oid)
        opening = self._known.get(oid)
        if opening is None:
            opening = await self._find_key(oid, await self.inner.read(oid, 0, HEAD_BYTES))
        if opening is None:
            return _Object(None, length)
        self._known[oid] = opening
        self._known.move_to_end(oid)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return _Object(opening, frames.plain_size(length))

    async def _find_key(self, oid: Oid, beginning: bytes) -> Frames | None:
        """None where it is plain."""
        head = frames.decode_head(beginning)
        if head is None:
            return None
        try:
            return Frames(oid, frames.unwrap(head, oid, self._ring.find(head.key_id)))
        except Corrupt:
            if await self._is_plain(oid):  # somebody has stored a sealed object of another store, plain
                return None
            raise

    async def _is_plain(self, oid: Oid) -> bool:
        digest, offset = hashlib.sha256(), 0
        while piece := await self.inner.read(oid, offset, PIECE_BYTES):
            digest.update(piece)
            offset += len(piece)
        return digest.digest() == oid.to_bytes()

    def _seal_file(self, oid: Oid, source: Path, target: Path) -> None:
        """In a thread."""
        newest, data_key = self._ring.newest, os.urandom(frames.KEY_BYTES)
        nonce = os.urandom(frames.NONCE_BYTES)
        sealing = Frames(oid, data_key)
        with source.open("rb") as reader, target.open("wb") as writer:
            count = frames.frame_count(os.fstat(reader.fileno()).st_size)
            writer.write(frames.encode_head(oid, newest.id, newest.key, data_key, nonce))
            for number in range(count):
                trio.from_thread.check_cancelled()
                plain = reader.read(FRAME_BYTES)
                writer.write(sealing.seal(number, plain, last=number == count - 1))
            if reader.read(1):
                raise Corrupt(f"object {oid}: its file grew while it was sealed")
            os.fchmod(writer.fileno(), os.fstat(reader.fileno()).st_mode & 0o777)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A name for a temporary file; whatever it names is gone in the end. The lock keeps others from sweeping it."""
        self._temp.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-seal-", dir=self._temp) as directory,
            (Path(directory) / LOCK_FILE).open("w") as lock,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(directory) / "object"


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turns the operating system's errors into ours."""
    try:
        yield
    except OSError as error:
        kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else LfsfsError
        raise kind(f"{what}: {error.strerror or error}") from error


def _open(opening: Frames, sealed: bytes, first: int, count: int) -> bytes:
    """The plain bytes of whole sealed frames, of which the first has this number; `count`: of all of the object."""
    view = memoryview(sealed)
    pieces = []
    for at in range(0, len(view), SEALED_FRAME_BYTES):
        number = first + at // SEALED_FRAME_BYTES
        piece = bytes(view[at : at + SEALED_FRAME_BYTES])
        pieces.append(opening.open(number, piece, last=number == count - 1))
    return b"".join(pieces)
