"""Growth: how many objects and bytes came in when, of what the store has now. Counted in pages, a view each.

The whole store is counted along `by_created`, where what is new comes last: a count goes on where the one before ended,
and begins anew only where objects were deleted, or came in with an older time, which the totals tell. One repository
is counted along its references, and the time is the reference's: when the object came into the store may be the
business of others.
"""

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from lfsfs.oid import Oid
from lfsfs.store import catalog, rendered
from lfsfs.store.index import Index, Tx

PAGE_ROWS = 2_000
HOUR_NS = 3600 * 10**9
_U64_BYTES = 8
_SIZE = slice(5, 13)
"""Of the row of an object: catalog.py."""


@dataclass(frozen=True, slots=True)
class Series:
    """What came in, by the hour (since 1970)."""

    objects: Counter[int] = field(default_factory=Counter)
    bytes: Counter[int] = field(default_factory=Counter)

    def add(self, at: int, size: int) -> None:
        """`at`: nanoseconds since 1970."""
        hour = at // HOUR_NS
        self.objects[hour] += 1
        self.bytes[hour] += size

    def totals(self) -> tuple[int, int]:
        """Objects and bytes in all."""
        return self.objects.total(), self.bytes.total()

    def copy(self) -> "Series":
        return Series(self.objects.copy(), self.bytes.copy())


class StoreGrowth:
    """The count of the whole store, which can go on later."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._series = Series()
        self._last = b""

    def count(self) -> Generator[None, None, Series]:
        """The series; yields after each page."""
        went_on = self._last != b""
        agrees = yield from self._go_on()
        if went_on and not agrees:
            self._series, self._last = Series(), b""
            yield from self._go_on()
        return self._series.copy()

    def _go_on(self) -> Generator[None, None, bool]:
        """Whether the count agrees with the totals at its end."""
        rows = PAGE_ROWS
        agrees = True
        while rows == PAGE_ROWS:
            rows, agrees = self._index.view(self._page)
            yield
        return agrees

    def _page(self, tx: Tx) -> tuple[int, bool]:
        start = self._last + b"\0" if self._last else b""
        keys = [key for key, _ in next(tx.pages("by_created", PAGE_ROWS, start), [])]
        sizes = sizes_of(tx, [key[_U64_BYTES:] for key in keys])
        for key, size in zip(keys, sizes, strict=True):
            self._series.add(int.from_bytes(key[:_U64_BYTES], "big"), size)
        if keys:
            self._last = keys[-1]
        return len(keys), self._series.totals() == catalog.totals(tx)


def repository_growth(index: Index, repository: int) -> Generator[None, None, Series]:
    """What the repository came to refer to, and still does; yields after each page."""
    series = Series()
    head = repository.to_bytes(4, "big")
    start = head

    def page(tx: Tx) -> list[tuple[bytes, bytes]]:
        rows = next(tx.pages("references", PAGE_ROWS, start, head), [])
        sizes = sizes_of(tx, [key[4:] for key, _ in rows])
        for (_, at), size in zip(rows, sizes, strict=True):
            series.add(int.from_bytes(at, "big"), size)
        return rows

    while rows := index.view(page):
        start = rows[-1][0] + b"\0"
        yield
    return series


def sizes_of(tx: Tx, oids: Sequence[bytes]) -> list[int]:
    """The size of each object; 0 where there is none."""
    rows = tx.get_many("objects", list(oids))
    return [
        int.from_bytes(rows[oid][_SIZE], "big") if oid in rows else _rendered_size(tx, oid) for oid in oids
    ]


def _rendered_size(tx: Tx, oid: bytes) -> int:
    row = rendered.get(tx, Oid.from_bytes(oid))
    return 0 if row is None else row.size
