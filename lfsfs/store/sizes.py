"""Sizes: how many objects there are of which size. Counted in pages, a view each."""

from collections import Counter
from collections.abc import Generator

from lfsfs.store.growth import PAGE_ROWS, sizes_of
from lfsfs.store.index import Index, Tx

STEP_BITS = 2
"""A class of sizes goes up to four times where it begins."""


def class_of(size: int) -> int:
    """The number of its class: 0 for nothing, 1 for 1 to 3 bytes, 2 for 4 to 15…"""
    return -(-size.bit_length() // STEP_BITS)


def least_of(number: int) -> int:
    """The smallest size of a class."""
    return 0 if number == 0 else 1 << STEP_BITS * (number - 1)


def count(index: Index) -> Generator[None, None, tuple[Counter[int], Counter[int]]]:
    """Objects and bytes, by class; yields after each page."""
    objects: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    start = b""

    def page(tx: Tx) -> list[bytes]:
        keys = [key for key, _ in next(tx.pages("objects", PAGE_ROWS, start), [])]
        for size in sizes_of(tx, keys):
            objects[class_of(size)] += 1
            sizes[class_of(size)] += size
        return keys

    while keys := index.view(page):
        start = keys[-1] + b"\0"
        yield
    return objects, sizes
