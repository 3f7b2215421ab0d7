"""The index compared with itself: rows with their entries, entries with their rows. A page of a table at a time, so that
each is looked at in one view, or looked at and repaired in one transaction.
"""

from collections.abc import Callable

import trio

from lfsfs import steps
from lfsfs.integrity.fault import Fault
from lfsfs.integrity.mirrors import MIRRORED, UNREADABLE, Entry, Mirrored, Source
from lfsfs.oid import Oid
from lfsfs.store import names
from lfsfs.store.index import Index, Tx

PAGE = 5_000
Check = Callable[[Tx, bytes, bytes, bool], list[Fault]]
"""Looks at one key and value, and repairs what is wrong where that is asked for."""


async def check_tables(index: Index, *, repair: bool) -> list[Fault]:
    """What does not agree. Safe beside a daemon where nothing is to be repaired."""
    faults: list[Fault] = []
    for table, check in _checks():
        faults += await walk(index, table, check, repair=repair)
    return faults


async def walk(index: Index, table: str, check: Check, *, repair: bool) -> list[Fault]:
    """Runs `check` over every row of a table."""
    faults: list[Fault] = []
    after: bytes | None = None
    while True:

        def look(
            tx: Tx, after: bytes | None = after, fix: bool = False
        ) -> tuple[bytes | None, int, list[Fault]]:
            start = b"" if after is None else after + b"\0"
            page = next(tx.pages(table, PAGE, start=start), [])
            found = [fault for key, value in page for fault in check(tx, key, value, fix)]
            return (page[-1][0] if page else None), len(page), found

        last, looked, found = index.view(look)
        if found and repair:
            last, looked, found = await index.update(lambda tx, look=look: look(tx, fix=True))  # type: ignore[misc]
        faults += found
        if last is None:
            return faults
        after = last
        steps.add(looked)
        await trio.lowlevel.checkpoint()


COMPARED = (
    *(table for one in MIRRORED for table in (one.table, *one.mirrors)),
    "by_name",
    "entries",
    "inodes",
)
"""The tables that `check_tables` walks through."""


def _checks() -> list[tuple[str, Check]]:
    checks: list[tuple[str, Check]] = []
    for mirrored in MIRRORED:
        checks.append((mirrored.table, _check_row(mirrored)))
        checks += [
            (table, _check_entry(mirrored, table, source)) for table, source in mirrored.mirrors.items()
        ]
    return [*checks, ("by_name", _check_search), ("entries", _check_inode_of), ("inodes", _check_has_name)]


def _check_row(mirrored: Mirrored) -> Check:
    def check(tx: Tx, key: bytes, value: bytes, fix: bool) -> list[Fault]:
        try:
            entries = mirrored.entries(key, value)
        except UNREADABLE as error:
            if fix:
                tx.delete(mirrored.table, key)
            return [Fault("row", f"{mirrored.table}/{key.hex()}", f"it cannot be read: {error}", fix)]
        return [_put(tx, entry, fix, key) for entry in entries if tx.get(entry[0], entry[1]) != entry[2]]

    return check


def _put(tx: Tx, entry: Entry, fix: bool, row: bytes) -> Fault:
    table, key, value = entry
    if fix:
        tx.put(table, key, value)
    return Fault("entry", f"{table}/{key.hex()}", f"it is missing, or wrong, of the row {row.hex()}", fix)


def _check_entry(mirrored: Mirrored, table: str, source: Source) -> Check:
    def check(tx: Tx, key: bytes, value: bytes, fix: bool) -> list[Fault]:
        row = source.row(key, value)
        found = tx.get(mirrored.table, row)
        try:
            if found is not None and (table, key, value) in mirrored.entries(row, found):
                return []
        except UNREADABLE:
            pass  # told by the row
        what = f"{table}/{key.hex()}"
        restored = source.restore(tx, key) if found is None and source.restore is not None else None
        if fix and restored is not None:
            tx.put(mirrored.table, row, restored)
        elif fix:
            tx.delete(table, key)
        why = "its row is lost, and comes back" if restored is not None else "no row has such an entry"
        return [Fault("entry", what, why, fix)]

    return check


# The tree below incoming/.


def _check_search(tx: Tx, key: bytes, value: bytes, fix: bool) -> list[Fault]:
    wanted, number = key[:-9], key[-8:]
    if any(names.search_key(entry[16:]) == wanted for entry, _ in tx.scan("parents", prefix=number)):
        return []
    if fix:
        tx.delete("by_name", key)
    return [Fault("entry", f"by_name/{key.hex()}", "no name is like that", fix)]


def _check_inode_of(tx: Tx, key: bytes, value: bytes, fix: bool) -> list[Fault]:
    """A name that leads to no inode."""
    if tx.get("inodes", value) is not None:
        return []
    if fix:
        tx.delete("entries", key)
        tx.delete("parents", value + key)
    return [Fault("entry", f"entries/{key.hex()}", "the name leads to nothing", fix)]


def _check_has_name(tx: Tx, key: bytes, value: bytes, fix: bool) -> list[Fault]:
    """An inode that no name leads to gets one in the top directory."""
    number = int.from_bytes(key, "big")
    found = tx.seek("parents", key)
    if number == names.ROOT or (found is not None and found.startswith(key)):
        return []
    name = f"lost-{number}".encode()
    try:
        inode = names.get(tx, number)
    except UNREADABLE:
        return []  # told by the row
    if fix and inode is not None:
        names.enter(tx, names.ROOT, name, inode)
    what = f"{Oid(inode.oid)}" if inode is not None and inode.kind == "file" else f"inode {number}"
    return [Fault("entry", what, f"no name in incoming/ leads to it; it gets the name {name.decode()}", fix)]
