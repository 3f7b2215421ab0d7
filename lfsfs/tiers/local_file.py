"""LocalFile: an object's file on the local disk, open, with the object's own bytes; and a part of one."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lfsfs.errors import Corrupt, LocalDamage
from lfsfs.oid import Oid

PIECE_BYTES = 1 << 20
DISK_BLOCK_BYTES = 4096
Buffers = Sequence[memoryview]


class LocalFile:
    """Any number of threads may read from it. To be closed by whoever opened it.

    `descriptor` is that of the file as it lies on the disk, `size` that of the object.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def __enter__(self) -> "LocalFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Repeating is harmless."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; short only at the end. OSError."""
        return read_all(self.descriptor, offset, size)

    def read_into(self, buffers: Buffers, offset: int) -> int:
        """Fills them, one after another; how many bytes there were. OSError."""
        return os.preadv(self.descriptor, buffers, offset)

    def pieces(self) -> Iterator[bytes]:
        """All of it, in order."""
        offset = 0
        while piece := self.read_at(offset, PIECE_BYTES):
            offset += len(piece)
            yield piece


class LocalSource:
    """The bytes of an object's file on their way into a tier: a Source."""

    exact = True

    def __init__(self, file: LocalFile, oid: Oid, *, over: bool) -> None:
        self.size = file.size
        self.sha256 = oid.to_bytes()
        self.over = over
        self._file = file

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            piece = self._file.read_at(offset, size)
        except LocalDamage:
            raise
        except Corrupt as damaged:
            raise LocalDamage(str(damaged)) from damaged
        if len(piece) < size:
            raise LocalDamage("the file changed while it was stored: it ends early")
        return piece


class Part:
    """A new file at `path` that gets the pieces of an object of `size` bytes, in any order. To be closed.

    It takes no room on the disk before the first piece is written.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(self._descriptor, size)
        except BaseException:
            self.close()
            raise

    def write(self, offset: int, pieces: Sequence[bytes | memoryview]) -> bool:
        """Whether the disk took them. What is written to one place is always the same."""
        try:
            return os.pwritev(self._descriptor, pieces, offset) == sum(map(len, pieces))
        except OSError:
            return False

    def room_of(self, size: int) -> int:
        """The bytes that a piece of so many takes on disk, at most, as it begins where a disk block does."""
        return -(-size // DISK_BLOCK_BYTES) * DISK_BLOCK_BYTES

    def read(self, offset: int, size: int) -> bytes:
        """What was written there. Corrupt where that can be told not to be it."""
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        """Gives up the file, and its name if it has it still. Repeating is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self.path.unlink(missing_ok=True)


def read_all(descriptor: int, offset: int, size: int) -> bytes:
    """`size` bytes, however many calls it takes; short only where the file ends."""
    piece = os.pread(descriptor, size, offset)
    if len(piece) == size:
        return piece
    pieces = [piece]
    while piece and size > len(piece):
        size, offset = size - len(piece), offset + len(piece)
        piece = os.pread(descriptor, size, offset)
        pieces.append(piece)
    return b"".join(pieces)
