"""Strings: many strings of bytes, by number, of which any may be had one after another in one piece."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Strings(Protocol):
    """So many strings of bytes; `sizes` of each."""

    @property
    def sizes(self) -> NDArray[np.int64]: ...

    def __getitem__(self, at: int) -> bytes | memoryview: ...

    def joined(self, chosen: NDArray[np.intp]) -> bytes:
        """These, one after another."""

    def chosen(self, chosen: NDArray[np.intp]) -> "Strings":
        """These alone, in this order."""


class Whole:
    """Each an object of its own."""

    def __init__(self, strings: Sequence[bytes]) -> None:
        self._strings = strings
        self.sizes = np.fromiter(map(len, strings), np.int64, len(strings))

    def __getitem__(self, at: int) -> bytes:
        return self._strings[at]

    def joined(self, chosen: NDArray[np.intp]) -> bytes:
        return b"".join([self._strings[at] for at in chosen.tolist()])

    def chosen(self, chosen: NDArray[np.intp]) -> "Whole":
        return Whole([self._strings[at] for at in chosen.tolist()])


class Cut:
    """The rows of an array of bytes, all of one size, which is not copied."""

    def __init__(self, table: NDArray[np.uint8], order: NDArray[np.intp] | None = None) -> None:
        """`order`: which row is which string; each its own unless it is told."""
        self._table = table
        self._order = np.arange(len(table)) if order is None else order
        self._size = table.shape[1]

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.full(len(self._order), self._size, np.int64)

    def __getitem__(self, at: int) -> memoryview:
        return memoryview(self._table[self._order[at]])

    def __iter__(self) -> Iterator[memoryview]:
        """All of them; several times as fast as one by one."""
        flat, size = memoryview(self._table.reshape(-1)), self._size  # type: ignore[arg-type]
        return (flat[at * size : (at + 1) * size] for at in self._order.tolist())

    def joined(self, chosen: NDArray[np.intp]) -> bytes:
        return np.take(self._table, self._order[chosen], axis=0).tobytes()

    def chosen(self, chosen: NDArray[np.intp]) -> "Cut":
        return Cut(self._table, self._order[chosen])
