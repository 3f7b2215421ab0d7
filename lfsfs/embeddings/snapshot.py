"""Snapshot: a collection as it was at one moment, as the bytes of one .npy file and of the list of its content hashes.

Made for whoever shows it as files that are open for long: it is read as far as it is asked for, does not change while
the collection does, and says its size at once. The rows are read in one view of the index, in a thread; whoever wants
the first of them does not wait for the last. A vector that has moved since is found where it is now; one that was
replaced or deleted and whose bytes are gone is an error.
"""

import threading
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from lfsfs.embeddings import codec, reading, rows
from lfsfs.embeddings.forms import Form
from lfsfs.embeddings.reading import Moved, Wanted
from lfsfs.embeddings.rows import CollectionRow
from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.store.index import Tx
from lfsfs.store.store import Store

FIRST_ROWS = 2_000  # read at once, before all the others
PAUSE_SECONDS = (
    0.05  # between pages that nobody waits for: reading rows leaves little of the interpreter to others
)
TRIES = 4
Table = NDArray[np.void]


class Snapshot:
    """Generation `generation` of one collection, with `count` vectors of one `form`. Used from one trio thread."""

    def __init__(
        self, store: Store, collection: CollectionRow, generation: int, form: Form, count: int
    ) -> None:
        self.generation = generation
        self.form = form
        self.count = count
        self.header = codec.npy_header(form, count)
        self._store = store
        self._collection = collection
        self._pages: list[tuple[list[bytes], Table]] = []
        self._starts = [0]
        self._loading = False
        self._failure: LfsfsError | None = None
        self._grew = trio.lowlevel.ParkingLot()
        self._hurry = threading.Event()

    @property
    def size(self) -> int:
        """The bytes of the .npy file."""
        return len(self.header) + self.count * self.form.nbytes

    async def read(self, offset: int, size: int) -> bytes:
        """A range of the .npy file. Corrupt where a vector of it cannot be read any more."""
        end = min(offset + size, self.size)
        head = self.header[offset:end]
        if end <= len(self.header) or offset >= end:
            return head
        nbytes = self.form.nbytes
        start = max(offset, len(self.header)) - len(self.header)
        stop = end - len(self.header)
        first, last = start // nbytes, (stop - 1) // nbytes + 1
        found = (await self._vectors(first, last)).reshape(-1)
        return head + found[start - first * nbytes : stop - first * nbytes].tobytes()

    async def hashes(self) -> list[str]:
        """The content hash of each row."""
        await self._loaded(self.count)
        return [key.hex() for keys, _ in self._pages for key in keys]

    async def _vectors(self, first: int, last: int) -> NDArray[np.uint8]:
        keys, table = await self._rows(first, last)
        for _ in range(TRIES):
            wanted = self._store.index.view(lambda tx, table=table: reading.look_up(tx, table, self.form))  # type: ignore[misc]
            try:
                found = await reading.gather(self._store, wanted)
            except Moved:
                wanted.errors[0] = Corrupt("its pack is being rewritten")
            else:
                if not wanted.errors:
                    return found
            table = self._store.index.view(lambda tx, table=table: self._followed(tx, keys, table))  # type: ignore[misc]
        raise self._lost(keys, wanted)

    def _followed(self, tx: Tx, keys: list[bytes], table: Table) -> Table:
        """The rows with the places where the same vectors lie now."""
        found = table.copy()
        present = tx.get_many("vectors", [self._collection.prefix + key for key in keys])
        for number, key in enumerate(keys):
            value = present.get(self._collection.prefix + key)
            if value is not None:
                row = rows.table([value])[0]
                if (row["check"], row["form"]) == (table[number]["check"], table[number]["form"]):
                    found[number] = row
        return found

    def _lost(self, keys: list[bytes], wanted: Wanted) -> Corrupt:
        place, error = min(wanted.errors.items())
        return Corrupt(f"embedding {keys[place].hex()} of an older state of {self._collection.name}: {error}")

    async def _rows(self, first: int, last: int) -> tuple[list[bytes], Table]:
        await self._loaded(last)
        keys: list[bytes] = []
        tables: list[Table] = []
        for (page_keys, page), start in zip(self._pages, self._starts, strict=False):
            low, high = max(first - start, 0), min(last - start, len(page_keys))
            if low < high:
                keys += page_keys[low:high]
                tables.append(page[low:high])
        return keys, np.concatenate(tables) if len(tables) != 1 else tables[0]

    # Loading.

    async def _loaded(self, rows_wanted: int) -> None:
        """Returns when so many rows are there."""
        if not self._loading:
            self._loading = True
            trio.lowlevel.spawn_system_task(self._load)
        while self._starts[-1] < rows_wanted:
            if self._failure is not None:
                raise self._failure
            if self._starts[-1]:
                self._hurry.set()
            await self._grew.park()

    async def _load(self) -> None:
        token = trio.lowlevel.current_trio_token()
        try:
            await trio.to_thread.run_sync(self._store.index.view, lambda tx: self._scan(tx, token))
            if self._starts[-1] < self.count:
                self._failure = Corrupt(
                    f"the collection {self._collection.name} changed while it was being opened"
                )
        except LfsfsError as failed:
            self._failure = failed
        except Exception as unexpected:
            self._failure = LfsfsError(str(unexpected))
        self._grew.unpark_all()

    def _scan(self, tx: Tx, token: trio.lowlevel.TrioToken) -> None:
        """In a thread. What was read is handed over page by page."""
        if rows.generation(tx, self._collection) != self.generation:
            return
        after, size = b"", FIRST_ROWS
        while page := next(rows.pages(tx, self._collection, after, size), []):
            keys = [key[4:] for key, _ in page]
            token.run_sync_soon(self._take, keys, rows.table(value for _, value in page))
            after, size = keys[-1], rows.PAGE
            self._hurry.wait(PAUSE_SECONDS)

    def _take(self, keys: list[bytes], table: Any) -> None:
        self._pages.append((keys, table))
        self._starts.append(self._starts[-1] + len(keys))
        self._grew.unpark_all()


def snapshot_of(store: Store, name: str) -> Snapshot:
    """The collection as it is now. NotFound where it has no vectors, or vectors of more than one form."""

    def look(tx: Tx) -> Snapshot:
        collection = rows.need(tx, name)
        counts = {form: count for form, count in rows.form_counts(tx, collection).items() if count}
        if len(counts) != 1:
            raise NotFound(
                f"the vectors of {name} are not all of one dtype and shape" if counts else f"{name} is empty"
            )
        number, count = next(iter(counts.items()))
        generation = rows.generation(tx, collection)
        return Snapshot(store, collection, generation, rows.find_form(tx, number), count)

    return store.index.view(look)
