"""A pack's file on the local disk: whole blocks, each compared with its digest, or single vectors, with theirs.

Where a block does not have its digest, each vector in it is compared with its own: what is damaged is told one by one.
What the disk refuses to give is damaged. A block is hashed as soon as it was read, while the processor's cache has it,
and not again by the same process soon after.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from lfsfs.embeddings.part import SPAN_BYTES, Part
from lfsfs.embeddings.verified import VERIFIED
from lfsfs.errors import Corrupt
from lfsfs.store.hashing import BLOCK_BYTES, DIGEST_BYTES
from lfsfs.tiers.local_file import LocalFile

LONE = 8  # so few vectors with no neighbour may lie where a damaged row says, and not where they lie
JOB_BLOCKS = 8  # so many in a row are one job
JOB_SPANS = 4
Job = Callable[[], None]
_SCRATCH_BYTES = SPAN_BYTES + 2 * BLOCK_BYTES


class PackFile:
    """The file of one pack, for any number of threads. To be closed by whoever made it, which closes `file`."""

    def __init__(self, file: LocalFile, digests: Callable[[], bytes]) -> None:
        """`digests`: those of the blocks, which are asked for where whole blocks are read; b"" where there are none."""
        self._file = file
        self._verified = VERIFIED.blocks(file.descriptor, BLOCK_BYTES)
        self._load = digests
        self._loaded: bytes | None = None

    def close(self) -> None:
        self._file.close()

    def jobs(self, part: Part) -> list[Job]:
        """What reads the part, in any order and any threads; `part.failed` then has what is damaged."""
        runs = part.runs()
        if runs is None or not self._digests:
            groups = part.spans(np.arange(len(part.slots)))
            return [partial(self._read_spans, part, some) for some in _batched(groups, JOB_SPANS)]
        return [
            partial(self._read_run, part, first, last, low, min(low + JOB_BLOCKS * BLOCK_BYTES, end))
            for first, last in runs
            for start, end in [part.extent(first, last)]
            for low in range(start // BLOCK_BYTES * BLOCK_BYTES, end, JOB_BLOCKS * BLOCK_BYTES)
        ]

    @property
    def _digests(self) -> bytes:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _is_whole(self, offset: int, *pieces: memoryview) -> bool:
        """Whether the block that begins there has its digest."""
        number = offset // BLOCK_BYTES
        if number < len(self._verified) and self._verified[number]:
            return True
        hashed = blake3(pieces[0])
        for piece in pieces[1:]:
            hashed.update(piece)
        if hashed.digest() != self._digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
            return False
        self._verified[number] = 1
        return True

    def _read(self, pieces: list[memoryview], offset: int) -> int:
        try:
            return self._file.read_into(pieces, offset)
        except (OSError, Corrupt):
            return 0

    def _vector(self, part: Part, place: int) -> bytes:
        try:
            return self._file.read_at(int(part.offsets[place]), int(part.sizes[place]))
        except (OSError, Corrupt):
            return b""

    # Where the vectors lie as they are wanted: read to where they belong.

    def _read_run(self, part: Part, first: int, last: int, low: int, high: int) -> None:
        """The bytes from `low`, where a block begins, to `high` of a run of vectors."""
        start, end = part.extent(first, last)
        target = part.target(first, last)
        for block in range(low, high, BLOCK_BYTES):
            here, there = max(block, start), min(block + BLOCK_BYTES, end)
            before = memoryview(bytearray(here - block))
            after = memoryview(bytearray(block + BLOCK_BYTES - there))  # as far as the file goes
            wanted = target[here - start : there - start]
            rest = self._read([before, wanted, after], block) - len(before) - len(wanted)
            if last - first < LONE or rest < 0 or not self._is_whole(block, before, wanted, after[:rest]):
                self._check_each(part, first, last, block)

    def _check_each(self, part: Part, first: int, last: int, block: int) -> None:
        """Each vector of a run that has bytes in this block, by its own digest."""
        size, start = part.form.nbytes, int(part.offsets[first])
        end = -(-(block + BLOCK_BYTES - start) // size)
        for at in range(max(0, (block - start) // size), min(last - first, end)):
            part.take_one(first + at, self._vector(part, first + at))

    # Where they do not.

    def _read_spans(self, part: Part, groups: list[NDArray[np.intp]]) -> None:
        scratch: memoryview | None = None
        for group in groups:
            if not part.is_dense(group) or not self._digests:
                self._read_each(part, group)
                continue
            if scratch is None:
                scratch = memoryview(np.empty(_SCRATCH_BYTES, np.uint8))  # type: ignore[arg-type]
            if not self._read_blocks(part, group, scratch):
                self._read_each(part, group)

    def _read_each(self, part: Part, group: NDArray[np.intp]) -> None:
        for place in group.tolist():
            part.take_one(place, self._vector(part, place))

    def _read_blocks(self, part: Part, group: NDArray[np.intp], scratch: memoryview) -> bool:
        """Whether the blocks in which the group lies are whole, and the vectors were taken from them."""
        start, end = part.bounds(group)
        first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        size = (last - first) * BLOCK_BYTES
        buffer = scratch[:size] if size <= len(scratch) else memoryview(bytearray(size))
        base = first * BLOCK_BYTES
        for at in range(0, size, BLOCK_BYTES):
            got = self._read([buffer[at : at + BLOCK_BYTES]], base + at)
            due = min(BLOCK_BYTES, end - base - at)
            if got < due or not self._is_whole(base + at, buffer[at : at + got]):
                return False
        part.take(group, buffer[: end - base], base)
        return True


def _batched(groups: Iterator[NDArray[np.intp]], count: int) -> Iterator[list[NDArray[np.intp]]]:
    while some := list(itertools.islice(groups, count)):
        yield some
