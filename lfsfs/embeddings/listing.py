"""Listing: the content hashes and rows of a whole collection, kept while nothing about them changes."""

import time

import numpy as np
from numpy.typing import NDArray

from lfsfs.embeddings import rows
from lfsfs.embeddings.collecting import uncollected
from lfsfs.embeddings.rows import CollectionRow
from lfsfs.store import packs
from lfsfs.store.index import Tx

TEXTS_AT_ONCE = 2_000
KEPT_ROWS = 200_000  # about 25 MB


class Listing:
    """Rows, and their content hashes, which take as long as the rows do: they are made when somebody asks for them."""

    def __init__(self, table: NDArray[np.void], hashes: list[str] | NDArray[np.uint8]) -> None:
        """`hashes`: as texts, or the bytes of each, a row each."""
        self.table = table
        self._hashes = hashes

    @property
    def hashes(self) -> list[str]:
        """In any thread."""
        if not isinstance(self._hashes, list):
            self._hashes = _texts(self._hashes)
        return self._hashes


class Listings:
    """Remembers one listing, that of the collection which was listed last, if it is not too large. In any thread."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[int, int, int], Listing] | None = None

    def get(self, tx: Tx, collection: CollectionRow) -> Listing:
        """As it is in this view. Rows change with the collection, or move, which takes a new pack."""
        state = (collection.number, rows.generation(tx, collection), packs.last_number(tx))
        kept = self._kept
        if kept is not None and kept[0] == state:
            return kept[1]
        found = _read(tx, collection)
        self._kept = (state, found) if len(found.table) <= KEPT_ROWS else None
        return found


@uncollected()
def _read(tx: Tx, collection: CollectionRow) -> Listing:
    columns = rows.columns(tx, collection)
    if columns is not None:
        return Listing(columns[1], columns[0])
    hashes: list[str] = []
    tables: list[NDArray[np.void]] = [rows.table(())]
    for page in rows.pages(tx, collection):
        hashes += [key.hex() for key, _ in page]
        tables.append(rows.table(value for _, value in page))
    cut = 2 * len(collection.prefix)
    return Listing(np.concatenate(tables), [text[cut:] for text in hashes])


@uncollected()
def _texts(hashes: NDArray[np.uint8]) -> list[str]:
    """Some at a time: whoever else works in this process has a turn in between."""
    texts: list[str] = []
    for start in range(0, len(hashes), TEXTS_AT_ONCE):
        some = hashes[start : start + TEXTS_AT_ONCE]
        texts += some.tobytes().hex(" ", some.shape[1]).split(" ")
        time.sleep(0)
    return texts
