"""A pack's file on the local disk, read in large steps: whole blocks, each compared with its digest.

Where a block does not have its digest, each vector in it is compared with its own: what is damaged is told one by one.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from lfsfs.embeddings.part import SPAN_BYTES, Part
from lfsfs.store.hashing import BLOCK_BYTES, DIGEST_BYTES, block_digest

LONE = 8  # so few vectors with no neighbour may lie where a damaged row says, and not where they lie


def read_local(path: os.PathLike[str], digests: bytes, part: Part) -> None:
    """In a worker thread. `part.failed` has what is damaged. FileNotFoundError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        runs = part.runs() if digests else None
        if runs is None:
            _read_spans(fd, digests, part)
        for first, last in runs or ():
            _read_run(fd, digests, part, first, last)
    finally:
        os.close(fd)


# Where the vectors lie as they are wanted: read to where they belong.


def _read_run(fd: int, digests: bytes, part: Part, first: int, last: int) -> None:
    start, target = int(part.offsets[first]), part.target(first, last)
    end = start + len(target)
    for low in range(start // BLOCK_BYTES * BLOCK_BYTES, end, SPAN_BYTES):
        high = min(low + SPAN_BYTES, -(-end // BLOCK_BYTES) * BLOCK_BYTES)
        pieces = [
            memoryview(bytearray(max(0, start - low))),  # of the first block, what comes before
            target[max(low, start) - start : min(high, end) - start],
            memoryview(
                bytearray(max(0, high - end))
            ),  # of the last, what comes after, to the end of the file
        ]
        got = os.preadv(fd, pieces, low)
        pieces[2] = pieces[2][: max(0, got - len(pieces[0]) - len(pieces[1]))]
        for block in range(low, high, BLOCK_BYTES):
            cut = _cut(pieces, block - low, min(block + BLOCK_BYTES, low + got) - low)
            if last - first < LONE or _digest(cut) != _expected(digests, block):
                _check_each(part, first, last, block, target)


def _cut(pieces: list[memoryview], start: int, end: int) -> list[memoryview]:
    """This range of the bytes that the pieces are one after another."""
    found, at = [], 0
    for piece in pieces:
        found.append(piece[max(0, start - at) : max(0, end - at)])
        at += len(piece)
    return found


def _digest(pieces: list[memoryview]) -> bytes:
    hashed = blake3()
    for piece in pieces:
        hashed.update(piece)
    return hashed.digest()


def _expected(digests: bytes, offset: int) -> bytes:
    """The digest of the block that begins there."""
    at = offset // BLOCK_BYTES * DIGEST_BYTES
    return digests[at : at + DIGEST_BYTES]


def _check_each(part: Part, first: int, last: int, block: int, target: memoryview) -> None:
    """Each vector of a run that has bytes in this block, by its own digest."""
    size, start = part.form.nbytes, int(part.offsets[first])
    for at in range(
        max(0, (block - start) // size), min(last - first, -(-(block + BLOCK_BYTES - start) // size))
    ):
        part.take_one(first + at, bytes(target[at * size : (at + 1) * size]))


# Where they do not.


def _read_spans(fd: int, digests: bytes, part: Part) -> None:
    buffer = memoryview(bytearray(SPAN_BYTES + 2 * BLOCK_BYTES)) if len(part.slots) > 1 else memoryview(b"")
    for group in part.spans(np.arange(len(part.slots))):
        if digests and part.is_dense(group):
            _read_blocks(fd, digests, part, group, buffer)
        else:
            _read_each(part, group, lambda offset, size: os.pread(fd, size, offset))


def _read_each(part: Part, group: NDArray[np.intp], read: Callable[[int, int], Any]) -> None:
    for place in group.tolist():
        part.take_one(place, read(int(part.offsets[place]), int(part.sizes[place])))


def _read_blocks(fd: int, digests: bytes, part: Part, group: NDArray[np.intp], buffer: memoryview) -> None:
    start, end = part.bounds(group)
    first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
    if (last - first) * BLOCK_BYTES > len(buffer):
        buffer = memoryview(bytearray((last - first) * BLOCK_BYTES))
    got = os.preadv(fd, [buffer[: (last - first) * BLOCK_BYTES]], first * BLOCK_BYTES)
    content = buffer[:got]
    whole = all(
        block_digest(content[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES])
        == _expected(digests, (first + at) * BLOCK_BYTES)
        for at in range(last - first)
    )
    base = first * BLOCK_BYTES
    if whole and len(content) >= end - base:
        part.take(group, content, base)
    else:
        _read_each(part, group, lambda offset, size: content[offset - base : offset - base + size])
