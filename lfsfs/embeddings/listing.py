"""Listing: the content hashes and rows of a whole collection, kept while nothing about them changes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfsfs.embeddings import rows
from lfsfs.embeddings.collecting import uncollected
from lfsfs.embeddings.rows import CollectionRow
from lfsfs.store import packs
from lfsfs.store.index import Tx

KEPT_ROWS = 200_000  # about 25 MB


class Listing(NamedTuple):
    """Content hashes, ascending, and their rows."""

    hashes: list[str]
    table: NDArray[np.void]


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
        self._kept = (state, found) if len(found.hashes) <= KEPT_ROWS else None
        return found


@uncollected()
def _read(tx: Tx, collection: CollectionRow) -> Listing:
    hashes: list[str] = []
    tables: list[NDArray[np.void]] = [rows.table(())]
    for page in rows.pages(tx, collection):
        hashes += [key.hex() for key, _ in page]
        tables.append(rows.table(value for _, value in page))
    cut = 2 * len(collection.prefix)
    return Listing([text[cut:] for text in hashes], np.concatenate(tables))
