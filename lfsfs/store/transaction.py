"""Tx: one transaction of the index, as the functions that are given to `view` and `update` see it.

What they write is kept here until the transaction ends, or until they look through a table: a call into LMDB lets go of
the interpreter, and two threads that do so by turns lose more time to each other than the call takes. So the jobs of one
transaction share what they read and write: a counter that all of them move is read and written once.
"""

import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import lmdb

KEPT_ROWS = 20_000  # of a table, before LMDB gets what has changed
_TREE = struct.Struct("<IHHQQQQQ")  # LMDB's MDB_db: pad, flags, depth, three numbers of pages, entries, root
KEY_LIMIT_BYTES = 511  # LMDB's


class IndexFile(NamedTuple):
    """The file of the index, open. `main`: the table of the tables."""

    fd: int
    page_size: int
    main: Any


class Tree(NamedTuple):
    """Where the pages of a table are in the file, as long as the transaction lasts: none is written over meanwhile."""

    fd: int
    page_size: int
    depth: int
    root: int


class Tx:
    """One transaction, named tables. Keys and values are bytes. This one reads; what it writes goes to LMDB at once."""

    __slots__ = ("_file", "_tables", "_txn")

    def __init__(
        self, txn: "lmdb.Transaction[bytes]", tables: dict[str, Any], file: IndexFile | None = None
    ) -> None:
        """`file`: for a transaction that only reads."""
        self._txn = txn
        self._tables = tables
        self._file = file

    @property
    def number(self) -> int:
        """Its own, or, of a view, that of the last commit before it."""
        return self._txn.id()

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._txn.get(key, db=self._tables[table])

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._tables[table])

    def delete(self, table: str, key: bytes) -> bool:
        """Whether there was such a key."""
        return self._txn.delete(key, db=self._tables[table])

    def tree(self, table: str) -> Tree | None:
        """None in a transaction that writes, whose pages are not all in the file."""
        value = None if self._file is None else self._txn.get(table.encode(), db=self._file.main)
        if self._file is None or value is None:
            return None
        _, _, depth, _, _, _, _, root = _TREE.unpack(value)
        return Tree(self._file.fd, self._file.page_size, depth, root)

    def count(self, table: str) -> int:
        return self._txn.stat(self._tables[table])["entries"]

    def used_bytes(self) -> int:
        """Of the pages of all tables."""
        stats = [self._txn.stat(table) for table in self._tables.values()]
        pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return int(pages * stats[0]["psize"])

    def scan(self, table: str, start: bytes = b"", prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Ascending rows whose key begins with `prefix`, from `start` on (or from the prefix)."""
        with self._txn.cursor(self._tables[table]) as cursor:
            first = max(start, prefix)
            found = cursor.set_range(first) if first else cursor.first()
            while found:
                key, value = cursor.item()
                if not key.startswith(prefix):
                    return
                yield key, value
                found = cursor.next()

    def scan_back(
        self, table: str, before: bytes | None, prefix: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        """Descending rows whose key begins with `prefix` and is less than `before` (None: from the last)."""
        bound = before if before is not None else _after_prefix(prefix)
        with self._txn.cursor(self._tables[table]) as cursor:
            found = cursor.prev() if bound is not None and cursor.set_range(bound) else cursor.last()
            while found:
                key, value = cursor.item()
                if not key.startswith(prefix):
                    return
                yield key, value
                found = cursor.prev()

    def get_many(self, table: str, keys: list[bytes]) -> dict[bytes, bytes]:
        """Those of the keys that are there, with their values. Several times as fast as one after another."""
        with self._txn.cursor(self._tables[table]) as cursor:
            return dict(cursor.getmulti(keys))

    def values(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, None where it is not there. Quicker than `get_many` where the keys are not sorted."""
        get, db = self._txn.get, self._tables[table]
        return [get(key, None, db) for key in keys]

    def put_many(self, table: str, items: list[tuple[bytes, bytes]]) -> None:
        """Quickest where the keys ascend."""
        with self._txn.cursor(self._tables[table]) as cursor:
            cursor.putmulti(items)

    def pages(
        self, table: str, size: int, start: bytes = b"", prefix: bytes = b""
    ) -> Iterator[list[tuple[bytes, bytes]]]:
        """As `scan`, but `size` rows at once: several times as fast."""
        with self._txn.cursor(self._tables[table]) as cursor:
            first = max(start, prefix)
            if not (cursor.set_range(first) if first else cursor.first()):
                return
            rows = cursor.iternext()
            while page := list(itertools.islice(rows, size)):
                if not page[-1][0].startswith(prefix):
                    yield [row for row in page if row[0].startswith(prefix)]
                    return
                yield page

    def seek(self, table: str, start: bytes) -> bytes | None:
        """The first key that is not less than `start`."""
        with self._txn.cursor(self._tables[table]) as cursor:
            return cursor.key() if cursor.set_range(start) else None


def _after_prefix(prefix: bytes) -> bytes | None:
    """The least key greater than every key that begins with `prefix`; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


class WriteTx(Tx):
    """A transaction that writes. `settle` gives LMDB what is kept; whoever commits calls it before."""

    __slots__ = ("_changed", "_empty", "_rows")

    def __init__(self, txn: "lmdb.Transaction[bytes]", tables: dict[str, Any]) -> None:
        super().__init__(txn, tables)
        self._rows: dict[str, dict[bytes, bytes | None]] = {}  # what is known of each table; None: not there
        self._changed: dict[str, set[bytes]] = {}  # keys that LMDB has otherwise
        self._empty: dict[str, bool] = {}  # tables that had no row at all when they were first asked for one

    def get(self, table: str, key: bytes) -> bytes | None:
        rows = self._rows.get(table)
        if rows is None or len(rows) >= KEPT_ROWS:
            self.settle(table)
            rows = self._rows[table] = {}
        elif key in rows:
            return rows[key]
        found = None if self._is_empty(table) else super().get(table, key)
        rows[key] = found
        return found

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._change(table, key, value)

    def delete(self, table: str, key: bytes) -> bool:
        if self.get(table, key) is None:
            return False
        self._change(table, key, None)
        return True

    def _change(self, table: str, key: bytes, value: bytes | None) -> None:
        if not 0 < len(key) <= KEY_LIMIT_BYTES:
            raise lmdb.BadValsizeError(f"{table}: a key of {len(key)} bytes")
        rows, changed = self._rows.get(table), self._changed.get(table)
        if rows is None:
            rows = self._rows[table] = {}
        if changed is None:
            changed = self._changed[table] = set()
        rows[key] = value
        changed.add(key)
        if len(changed) >= KEPT_ROWS:
            self.settle(table)

    def _is_empty(self, table: str) -> bool:
        empty = self._empty.get(table)
        if empty is None:
            empty = self._empty[table] = super().count(table) == 0
        return empty

    def settle(self, *tables: str) -> None:
        """Gives LMDB what is kept of these tables; of all where none is named."""
        for table in tables or tuple(self._changed):
            changed = self._changed.pop(table, None)
            if changed:
                self._write(table, sorted(changed), self._rows.pop(table))
                self._empty.pop(table, None)

    def _write(self, table: str, keys: list[bytes], rows: dict[bytes, bytes | None]) -> None:
        db = self._tables[table]
        present = []
        for key in keys:
            value = rows[key]
            if value is None:
                self._txn.delete(key, db=db)
            else:
                present.append((key, value))
        with self._txn.cursor(db) as cursor:
            cursor.putmulti(present)

    # Whatever looks through a table sees what was written to it.

    def count(self, table: str) -> int:
        self.settle(table)
        return super().count(table)

    def used_bytes(self) -> int:
        self.settle()
        return super().used_bytes()

    def scan(self, table: str, start: bytes = b"", prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        self.settle(table)
        return super().scan(table, start, prefix)

    def scan_back(
        self, table: str, before: bytes | None, prefix: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        self.settle(table)
        return super().scan_back(table, before, prefix)

    def get_many(self, table: str, keys: list[bytes]) -> dict[bytes, bytes]:
        self.settle(table)
        return super().get_many(table, keys)

    def values(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        self.settle(table)
        return super().values(table, keys)

    def put_many(self, table: str, items: list[tuple[bytes, bytes]]) -> None:
        self.settle(table)
        self._rows.pop(table, None)
        self._empty.pop(table, None)
        super().put_many(table, items)

    def pages(
        self, table: str, size: int, start: bytes = b"", prefix: bytes = b""
    ) -> Iterator[list[tuple[bytes, bytes]]]:
        self.settle(table)
        return super().pages(table, size, start, prefix)

    def seek(self, table: str, start: bytes) -> bytes | None:
        self.settle(table)
        return super().seek(table, start)
