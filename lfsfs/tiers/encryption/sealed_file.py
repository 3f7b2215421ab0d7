"""SealedFile: an object's file in its sealed form, and a part of one, with the object's own bytes for whoever reads."""

import os
from collections.abc import Sequence
from pathlib import Path

from lfsfs.errors import Corrupt
from lfsfs.oid import Oid
from lfsfs.tiers.encryption import frames
from lfsfs.tiers.encryption.frames import FRAME_BYTES, HEAD_BYTES, SEALED_FRAME_BYTES, Frames
from lfsfs.tiers.local_file import DISK_BLOCK_BYTES, Buffers, LocalFile, Part, read_all


class SealedFile(LocalFile):
    """Every frame is authenticated before a byte of it is returned: Corrupt."""

    def __init__(self, descriptor: int, oid: Oid, opening: Frames) -> None:
        """Corrupt where it is cut short."""
        super().__init__(descriptor)
        self._oid = oid
        self._frames = opening
        self.size = frames.plain_size(self.size)
        if not self.size:
            open_range(descriptor, oid, opening, 0, 0, 1)

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        return open_range(
            self.descriptor, self._oid, self._frames, offset, size, frames.frame_count(self.size)
        )

    def read_into(self, buffers: Buffers, offset: int) -> int:
        content = memoryview(self.read_at(offset, sum(map(len, buffers))))
        at = 0
        for buffer in buffers:
            piece = content[at : at + len(buffer)]
            buffer[: len(piece)] = piece
            at += len(piece)
        return len(content)


class SealedPart(Part):
    """As Part, sealed frame by frame. Pieces begin where a frame does, and end so, or with the object.

    A frame that is written twice has the same bytes both times: no nonce of it is used for two of them.
    """

    def __init__(self, path: Path, oid: Oid, size: int, head: bytes, sealing: Frames) -> None:
        super().__init__(path, frames.sealed_size(size))
        self._oid = oid
        self._frames = sealing
        self._count = frames.frame_count(size)
        self._head = head

    def room_of(self, size: int) -> int:
        """A sealed piece begins anywhere in a disk block, and the first that is written brings the head."""
        sealed = size + frames.TAG_BYTES * frames.frame_count(size)
        return super().room_of(sealed) + 2 * DISK_BLOCK_BYTES

    def write(self, offset: int, pieces: Sequence[bytes | memoryview]) -> bool:
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        sealed = seal_frames(self._frames, content, offset // FRAME_BYTES, self._count)
        try:
            if self._head:
                os.pwrite(self._descriptor, self._head, 0)
                self._head = b""  # several threads at once write it more than once, the same each time
            return os.pwrite(self._descriptor, sealed, _place_of(offset)) == len(sealed)
        except OSError:
            return False

    def read(self, offset: int, size: int) -> bytes:
        return open_range(self._descriptor, self._oid, self._frames, offset, size, self._count)


def seal_frames(sealing: Frames, content: bytes | memoryview, first: int, count: int) -> bytes:
    """Whole frames of an object of `count`, from the one with the number `first` on."""
    view = memoryview(content)
    return b"".join(
        sealing.seal(number, view[at : at + FRAME_BYTES], last=number == count - 1)
        for number, at in enumerate(range(0, max(1, len(view)), FRAME_BYTES), first)
    )


def open_range(descriptor: int, oid: Oid, opening: Frames, offset: int, size: int, count: int) -> bytes:
    """These bytes of an object of `count` frames; only the frames that they touch are read. Corrupt; OSError."""
    first = offset // FRAME_BYTES
    number = max(1, -(-(offset + size) // FRAME_BYTES) - first)
    sealed = memoryview(read_all(descriptor, frames.offset_of(first), number * SEALED_FRAME_BYTES))
    plain = b"".join(
        opening.open(first + place, sealed[at : at + SEALED_FRAME_BYTES], last=first + place == count - 1)
        for place, at in enumerate(range(0, len(sealed), SEALED_FRAME_BYTES))
    )
    start = offset - first * FRAME_BYTES
    wanted = plain if start == 0 and len(plain) == size else plain[start : start + size]
    if len(wanted) != size or not sealed:
        raise Corrupt(f"object {oid}: its sealed form is cut short: not served")
    return wanted


def _place_of(offset: int) -> int:
    """Where the frame begins in the file that begins there in the object."""
    return frames.offset_of(offset // FRAME_BYTES)


def head_of(descriptor: int) -> frames.Head | None:
    """None where the file is plain. OSError."""
    return frames.decode_head(os.pread(descriptor, HEAD_BYTES, 0))
