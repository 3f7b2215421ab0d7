"""The compressed form of an object: a head with the size of each frame, then zstd frames of 256 KiB each.

Any frame can be read by itself. All of it is a zstd file: the head is a skippable frame (RFC 8878, 3.1.2), so `zstd -d`
has the object again. The head has the oid in it: no object's own bytes begin with the head of its compressed form.
Layout: docs/FORMAT.md.
"""

import struct
import sys
from array import array
from bisect import bisect_right
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import trio
import zstandard
from blake3 import blake3

from lfsfs.errors import Corrupt, LocalDamage
from lfsfs.oid import Oid
from lfsfs.tiers.remote import Sink, Source

MAGIC = b"lfsfs-zstd-0001\n"
FRAME_BYTES = 256 << 10
LEVEL = 3
LEAST_BYTES = 512  # of an object that is worth it
WORTH = 0.95  # of its size is what an object must shrink to, or it is stored as it is
JUDGED_BYTES = 8 << 20  # after which it is seen whether it will
_SKIPPABLE = 0x184D2A5D
_SKIP = struct.Struct("<II")  # as zstd has it: magic, bytes that follow
_HEAD = struct.Struct(
    ">16s32sQI"
)  # magic, oid, size, bytes of a frame; then u32 for each, BLAKE3 of all before
_DIGEST_BYTES = 32
FIXED_BYTES = _SKIP.size + _HEAD.size


@dataclass(frozen=True, slots=True)
class Table:
    """What a head says. `starts`: where each frame begins, and where the last one ends."""

    size: int
    starts: "array[int]"

    def frames_of(self, offset: int, end: int) -> tuple[int, int]:
        """The first frame with bytes of this range, and the one after the last."""
        return offset // FRAME_BYTES, -(-end // FRAME_BYTES)


def head_bytes(size: int) -> int:
    """Of the head of an object of so many bytes."""
    return FIXED_BYTES + 4 * _count(size) + _DIGEST_BYTES


def size_of(beginning: bytes, oid: Oid) -> int | None:
    """The object's size, of FIXED_BYTES of its compressed form or more; None where it is not that."""
    if len(beginning) < FIXED_BYTES:
        return None
    skippable, follows = _SKIP.unpack_from(beginning)
    magic, name, size, frame = _HEAD.unpack_from(beginning, _SKIP.size)
    head = (skippable, magic, name, frame) == (_SKIPPABLE, MAGIC, oid.to_bytes(), FRAME_BYTES)
    return int(size) if head and follows == head_bytes(size) - _SKIP.size else None


def decode_head(head: bytes, oid: Oid) -> Table:
    """Of all of a head, whose fixed part size_of knows. Corrupt."""
    size = size_of(head, oid)
    if (
        size is None
        or len(head) != head_bytes(size)
        or blake3(head[:-_DIGEST_BYTES]).digest() != head[-_DIGEST_BYTES:]
    ):
        raise Corrupt(f"object {oid}: the head of its compressed form is damaged: not served")
    sizes = struct.unpack_from(f">{_count(size)}I", head, FIXED_BYTES)
    return Table(size, array("Q", accumulate(sizes, initial=len(head))))


def most_bytes(size: int) -> int:
    """No object of so many bytes is stored compressed where its compressed form has more."""
    return int(WORTH * size)


def compress(oid: Oid, source: Source, target: Path | None) -> bytes | None:
    """The head of the compressed form of a source, and all of that form in a new file, of `most_bytes` at most.

    None where it is not worth it. With no `target` nothing is written. In a thread of trio's.
    """
    if source.size < LEAST_BYTES:
        return None
    with nullcontext() if target is None else target.open("xb") as file:
        sizes = _compress_frames(source, file)
        if sizes is None:
            return None
        head = _encode_head(oid, source.size, sizes)
        if file is not None:
            file.seek(0)
            file.write(head)
    return head


def _compress_frames(source: Source, file: BinaryIO | None) -> "array[int] | None":
    """The sizes of the frames, which go into the file behind the place of the head. None where it is not worth it."""
    total, sizes = head_bytes(source.size), array("I")
    compressor = _compressor()
    if file is not None:
        file.seek(total)
    for start in range(0, source.size, FRAME_BYTES):
        trio.from_thread.check_cancelled()
        frame = compressor.compress(_plain(source, start))
        total += len(frame)
        if total > most_bytes(source.size):
            return None
        if start + FRAME_BYTES == JUDGED_BYTES and total > WORTH * JUDGED_BYTES:
            return None
        if file is not None:
            file.write(frame)
        sizes.append(len(frame))
    return sizes


class Compressing:
    """The compressed form of a source, as a Source that lies nowhere: each frame is compressed when it is read.

    `head` is what `compress` has made of it. Of a frame that is read in pieces the last one is remembered.
    """

    sha256 = None
    exact = False

    def __init__(self, oid: Oid, source: Source, head: bytes) -> None:
        self.over = source.over
        self._starts = decode_head(head, oid).starts
        self.size = self._starts[-1]
        self._head = head
        self._source = source
        self._last = (-1, b"")

    def read_at(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.size)
        pieces = [self._head[offset:end]]
        number = max(0, bisect_right(self._starts, offset) - 1)
        while number < len(self._starts) - 1 and (start := self._starts[number]) < end:
            pieces.append(self._frame(number)[max(0, offset - start) : end - start])
            number += 1
        return b"".join(pieces)

    def _frame(self, number: int) -> bytes:
        known, frame = self._last
        if known != number:
            frame = _compressor().compress(_plain(self._source, number * FRAME_BYTES))
            if len(frame) != self._starts[number + 1] - self._starts[number]:
                raise LocalDamage("the file changed while it was stored: it compresses to another size")
            self._last = (number, frame)
        return frame


def _compressor() -> zstandard.ZstdCompressor:
    """One for each thread: of the same bytes all of them make the same frame."""
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)


def _plain(source: Source, start: int) -> bytes:
    return source.read_at(start, min(FRAME_BYTES, source.size - start))


def _encode_head(oid: Oid, size: int, sizes: "array[int]") -> bytes:
    if sys.byteorder == "little":
        sizes.byteswap()
    head = _SKIP.pack(_SKIPPABLE, head_bytes(size) - _SKIP.size)
    head += _HEAD.pack(MAGIC, oid.to_bytes(), size, FRAME_BYTES) + sizes.tobytes()
    return head + blake3(head).digest()


def _count(size: int) -> int:
    return -(-size // FRAME_BYTES)


class Decoding:
    """A sink for the frames of one object from `first` on, of which it hands `size` plain bytes on.

    `skip`: bytes of the first frame that nobody wants.
    """

    def __init__(self, oid: Oid, table: Table, first: int, skip: int, size: int, sink: Sink) -> None:
        self._oid = oid
        self._table = table
        self._number = first
        self._skip = skip
        self._left = size
        self._sink = sink
        self._waiting = bytearray()
        self._decompressor = zstandard.ZstdDecompressor()

    def __call__(self, piece: bytes) -> None:
        self._waiting += piece
        while self._left and len(self._waiting) >= (needed := self._due()):
            frame = bytes(self._waiting[:needed])
            del self._waiting[:needed]
            plain = self._decoded(frame)
            self._number += 1
            wanted = plain[self._skip : self._skip + self._left]
            self._skip = 0
            self._left -= len(wanted)
            self._sink(wanted)

    def end(self) -> None:
        """Nothing follows. Corrupt where something should."""
        if self._left:
            raise Corrupt(f"object {self._oid}: its compressed form is cut short: not served")

    def _due(self) -> int:
        starts = self._table.starts
        return starts[self._number + 1] - starts[self._number]

    def _decoded(self, frame: bytes) -> bytes:
        due = min(FRAME_BYTES, self._table.size - self._number * FRAME_BYTES)
        try:
            if zstandard.frame_content_size(frame) == due:
                plain = self._decompressor.decompress(frame, max_output_size=due)
                if len(plain) == due:
                    return plain
        except zstandard.ZstdError:
            pass
        raise Corrupt(f"object {self._oid}: the compressed frame {self._number} is damaged: not served")
