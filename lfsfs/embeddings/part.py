"""Part: the vectors that are wanted of one pack, and where they go."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lfsfs.embeddings import rows
from lfsfs.embeddings.forms import Form
from lfsfs.embeddings.pack import decompress, digest_of
from lfsfs.errors import Corrupt, LfsfsError
from lfsfs.store.hashing import BLOCK_BYTES

SPAN_BYTES = 4 << 20  # what is read at once
RUN_BYTES = 4 << 20  # what runs are at least, on average, to be read as such
DENSE = 8  # whole blocks are read where the vectors are at least one part in so many of them
Bytes = NDArray[np.uint8]


class Places:
    """Where vectors of one form lie in their packs, an entry for each: columns of rows of the index."""

    def __init__(self, table: NDArray[np.void]) -> None:
        self.offsets = table["offset"].astype(np.int64)
        self.sizes = table["size"].astype(np.int64)
        self.checks = table["check"]
        self.form = int(table["form"][0]) if len(table) else 0


class Part:
    """The vectors that lie in one pack, in the order in which they lie there."""

    def __init__(
        self, form: Form, places: Places, slots: NDArray[np.intp], out: Bytes, errors: dict[int, LfsfsError]
    ) -> None:
        """`slots`: which of the places, rows of `out`, and keys of `errors`, are those of this pack; ascending."""
        where: slice | NDArray[np.intp] = slots
        if int(slots[-1]) - int(slots[0]) == len(slots) - 1:
            where = slice(int(slots[0]), int(slots[-1]) + 1)  # which copies nothing
        offsets = places.offsets[where]
        if not (np.diff(offsets) >= 0).all():
            slots = where = slots[np.argsort(offsets, kind="stable")]
        self.slots = slots
        self.offsets = places.offsets[where]
        self.sizes = places.sizes[where]
        self.checks = places.checks[where]
        self.form = form
        self.number = places.form
        self.errors = errors
        self.failed: set[int] = set()
        """Places in the part."""
        self._out = out
        self._key = form.key

    def runs(self) -> list[tuple[int, int]] | None:
        """First and last place, exclusive, of vectors that follow one another in the pack and in `out` alike.

        None where they are so short that it does not pay to read each by itself, or none is to be had.
        """
        size = self.form.nbytes
        if not size or not (self.sizes == size).all():
            return None
        broken = (np.diff(self.offsets) != size) | (np.diff(self.slots) != 1)
        ends = [*(np.flatnonzero(broken) + 1).tolist(), len(self.slots)]
        if len(ends) * RUN_BYTES > len(self.slots) * size:
            return None
        return list(zip([0, *ends], ends, strict=False))

    def extent(self, first: int, last: int) -> tuple[int, int]:
        """The bytes of the pack in which this run lies."""
        start = int(self.offsets[first])
        return start, start + (last - first) * self.form.nbytes

    def target(self, first: int, last: int) -> memoryview:
        """Where the bytes of these vectors, which are a run, belong."""
        slot = int(self.slots[first])
        return memoryview(self._out[slot : slot + last - first].reshape(-1))  # type: ignore[arg-type]

    def spans(self, among: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        """Those vectors, in groups that lie within SPAN_BYTES of one another."""
        first = 0
        starts = self.offsets[among]
        while first < len(among):
            last = int(np.searchsorted(starts, starts[first] + SPAN_BYTES))
            last = max(last, first + 1)
            yield among[first:last]
            first = last

    def bounds(self, group: NDArray[np.intp]) -> tuple[int, int]:
        """The bytes of the pack in which the group lies."""
        ends = self.offsets[group] + self.sizes[group]
        return int(self.offsets[group[0]]), int(ends.max())

    def is_dense(self, group: NDArray[np.intp]) -> bool:
        start, end = self.bounds(group)
        return int(self.sizes[group].sum()) * DENSE >= end - start and end - start >= BLOCK_BYTES // 4

    def take(self, group: NDArray[np.intp], content: memoryview | bytes, start: int) -> None:
        """Copies the group's vectors from verified bytes of the pack that begin at `start`."""
        size = self.form.nbytes
        if not size:
            return
        at = self.offsets[group] - start
        if not (self.sizes[group] == size).all():
            self._take_compressed(group, content, at)
            return
        if not self._is_plausible(group):
            self._take_compressed(group, content, at)
            return
        source = np.frombuffer(content, np.uint8)
        slots = self.slots[group]
        first = int(at[0])
        if (np.diff(at) == size).all():
            block = source[first : first + len(group) * size].reshape(len(group), size)
            if (np.diff(slots) == 1).all():
                self._out[int(slots[0]) : int(slots[0]) + len(group)] = block
            else:
                self._out[slots] = block
            return
        numbers = (at - first) // size
        self._out[slots] = source[first : first + (int(numbers[-1]) + 1) * size].reshape(-1, size)[numbers]

    def _is_plausible(self, group: NDArray[np.intp]) -> bool:
        """Whether the rows can be right: vectors of one size, side by side, and no two of them in one place.

        The bytes of the blocks were verified; what a row says of their place was not.
        """
        steps = np.diff(self.offsets[group])
        twice = group[1:][steps == 0]
        return not (steps % self.form.nbytes).any() and bool(
            (self.checks[twice] == self.checks[twice - 1]).all()
        )

    def _take_compressed(
        self, group: NDArray[np.intp], content: memoryview | bytes, at: NDArray[np.int64]
    ) -> None:
        for place, begin in zip(group.tolist(), at.tolist(), strict=True):
            self.take_one(place, memoryview(content)[begin : begin + int(self.sizes[place])])

    def take_one(self, place: int, stored: memoryview | bytes) -> bool:
        """Takes one vector if it has its digest."""
        slot, size = int(self.slots[place]), int(self.sizes[place])
        try:
            raw = stored if size == self.form.nbytes else decompress(stored, self.form)
        except Corrupt:
            return self._fail(place)
        if len(raw) != self.form.nbytes or rows.check_of(digest_of(raw, self._key)) != int(
            self.checks[place]
        ):
            return self._fail(place)
        self._out[slot] = np.frombuffer(raw, np.uint8)
        return True

    def _fail(self, place: int) -> bool:
        self.failed.add(place)
        return False
