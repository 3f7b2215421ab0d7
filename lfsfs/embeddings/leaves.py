"""Leaves: rows of a table taken from the pages of the index's file, all at once: many times as fast as by a cursor.

For rows whose keys are of one size and whose values are of one size, as those of a collection of vectors. Only for a
transaction that reads: no page of what it sees is written over while it lasts. Where a page is not as expected nothing
is told, and the caller takes the cursor. Format of the file: LMDB 0.9, mdb.c (MDB_db, MDB_page, MDB_node).
"""

import os
import struct
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lfsfs.store.transaction import Tree

_PAGE = np.dtype([("number", "<u8"), ("pad", "<u2"), ("flags", "<u2"), ("lower", "<u2"), ("upper", "<u2")])
_HEAD = struct.Struct("<HHHH")  # of a node: size of the value (low half, high half), flags, size of the key
_KINDS, _BRANCH, _LEAF = 0x77, 0x01, 0x02
_DEEPEST = 32
Bytes = NDArray[np.uint8]


class Strange(Exception):
    """A page is not what it should be, or rows are not all of the one size."""


def columns(tree: Tree, prefix: bytes, key_size: int, value_size: int) -> tuple[Bytes, Bytes]:
    """The keys that begin with `prefix`, without it, and their values, ascending: an array each, a row for each.

    Strange where a key is not of that size, or a value.
    """
    low, high = prefix, _after(prefix)
    pages = _read(tree, _leaves(tree, tree.root, tree.depth, low, high))
    found = pages.keys_between(low, high)
    head = int.from_bytes(_HEAD.pack(value_size, 0, 0, key_size), sys.byteorder)
    if not (pages.take(found, 0, _HEAD.size).view(np.uint64) == head).all():
        raise Strange("rows of several sizes")
    keys = pages.take(found, _HEAD.size + len(prefix), key_size - len(prefix))
    return keys, pages.take(found, _HEAD.size + key_size, value_size)


def _leaves(tree: Tree, number: int, depth: int, low: bytes, high: bytes | None) -> list[int]:
    """The numbers of the leaves that may have keys from `low` on, and before `high`, in order."""
    if not 0 < depth < _DEEPEST:
        raise Strange("a tree without a depth")
    if depth == 1:
        return [number]
    children = _read(tree, [number], _BRANCH).children(low, high)
    if depth == 2:
        return children
    return [found for child in children for found in _leaves(tree, child, depth - 1, low, high)]


def _read(tree: Tree, numbers: Sequence[int], kind: int = _LEAF) -> "_Nodes":
    wanted, size = np.array(numbers, np.int64), tree.page_size
    content = np.zeros((len(numbers) + 1) * size, np.uint8)  # one more: nodes are taken in equal pieces
    ends = [*(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), len(numbers)]
    for first, last in zip([0, *ends], ends, strict=False):
        piece = memoryview(content[first * size : last * size])  # type: ignore[arg-type]
        if os.preadv(tree.fd, [piece], numbers[first] * size) != len(piece):
            raise Strange("a page is not in the file")
    return _Nodes(content, size, wanted, kind)


class _Nodes:
    """All nodes of some pages of one kind, in order."""

    def __init__(self, content: Bytes, page_size: int, numbers: NDArray[np.int64], kind: int) -> None:
        pages = content[:-page_size].reshape(-1, page_size)
        heads = np.ascontiguousarray(pages[:, : _PAGE.itemsize]).view(_PAGE).reshape(-1)
        if not (heads["number"] == numbers).all() or not (heads["flags"] & _KINDS == kind).all():
            raise Strange("another page than the one looked for")
        counts = (heads["lower"].astype(np.int64) - _PAGE.itemsize) // 2
        if counts.min() < 0 or counts.max() > (page_size - _PAGE.itemsize) // 2:
            raise Strange("a page of too many nodes")
        first, most = _PAGE.itemsize // 2, int(counts.max())
        present = np.arange(most) < counts[:, None]
        at = pages.view("<u2")[:, first : first + most].astype(np.int64)
        if (at[present] > page_size - _HEAD.size).any():
            raise Strange("a node that is not in its page")
        self._starts = (at + np.arange(len(pages))[:, None] * page_size)[present]
        self._content = content

    def take(self, which: slice, offset: int, size: int) -> Bytes:
        """So many bytes of each of these, from there on: a row each."""
        kind = np.dtype((np.void, size))
        pieces = np.ndarray((len(self._content) - size - offset,), kind, self._content, offset, strides=(1,))
        taken: Bytes = pieces[self._starts[which]].view(np.uint8).reshape(-1, size)
        return taken

    def keys_between(self, low: bytes, high: bytes | None) -> slice:
        """Those whose keys are not less than `low`, and less than `high`."""
        every = range(len(self._starts))
        last = len(every) if high is None else bisect_left(every, high, key=self._key)
        return slice(bisect_left(every, low, key=self._key), last)

    def children(self, low: bytes, high: bytes | None) -> list[int]:
        """Of a branch: the pages below that may have keys from `low` on, and before `high`."""
        others = range(1, len(self._starts))  # the first has no key: what is less than the second's is there
        first = bisect_right(others, low, key=self._key)
        last = len(self._starts) if high is None else 1 + bisect_left(others, high, key=self._key)
        low_half, high_half, flags = self.take(slice(first, last), 0, 6).view("<u2").astype(np.int64).T
        return list((low_half | high_half << 16 | flags << 32).tolist())

    def _key(self, node: int) -> bytes:
        start = int(self._starts[node])
        head = self._content[start : start + _HEAD.size].tobytes()
        return self._content[start + _HEAD.size : start + _HEAD.size + _HEAD.unpack(head)[3]].tobytes()


def _after(prefix: bytes) -> bytes | None:
    """The least key greater than every key that begins with `prefix`; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
