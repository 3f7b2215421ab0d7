"""The compressed form of an object: a head with the size of each frame, then zstd frames of 256 KiB each.

Any frame can be read by itself. All of it is a zstd file: the head is a skippable frame (RFC 8878, 3.1.2), so `zstd -d`
has the object again. The head has the oid in it: no object's own bytes begin with the head of its compressed form.
Layout: docs/FORMAT.md.
"""

import struct
import sys
from array import array
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import trio
import zstandard
from blake3 import blake3

from lfsfs.errors import Corrupt
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


def compress(oid: Oid, source: Source, target: Path) -> bool:
    """Writes the compressed form of a source; whether it is worth it. In a thread of trio's."""
    if source.size < LEAST_BYTES:
        return False
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True)
    sizes = array("I")
    total = head_bytes(source.size)
    with target.open("xb") as file:
        file.seek(total)
        for start in range(0, source.size, FRAME_BYTES):
            trio.from_thread.check_cancelled()
            frame = compressor.compress(source.read_at(start, min(FRAME_BYTES, source.size - start)))
            file.write(frame)
            sizes.append(len(frame))
            total += len(frame)
            if start + FRAME_BYTES == JUDGED_BYTES and total > WORTH * JUDGED_BYTES:
                return False
        head = _encode_head(oid, source.size, sizes)
        file.seek(0)
        file.write(head)
    return total <= WORTH * source.size


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
