"""Which pages of an LMDB file are in use by nothing, read from the file itself.

A transaction may allocate pages at the end of the file and free them again: LMDB counts them, and never writes them.
Such a file is shorter than its last page, and whole. Format of the file: LMDB 0.9, mdb.c (MDB_meta, MDB_page, MDB_node).
"""

import struct
from collections.abc import Callable, Iterator

META_PAGES = 2
_MAGIC = 0xBEEFC0DE
_PAGE = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
_META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
_TREE = struct.Struct(
    "<IHHQQQQQ"
)  # pad (page size), flags, depth, branches, leaves, overflow pages, entries, root
_LAST = struct.Struct("<QQ")  # last page, transaction
_NODE = struct.Struct("<HHHH")  # low and high half of the size, flags, size of the key
_BRANCH, _LEAF, _BIG_DATA, _NO_PAGE = 0x01, 0x02, 0x01, 2**64 - 1

Read = Callable[[int, int], bytes]
"""Up to so many bytes of the file from this offset."""


def free_pages(read: Read, transaction: int, page_size: int, before: int | None = None) -> set[int]:
    """The numbers of the pages that are free after this transaction; those that a transaction `before` this one freed.

    ValueError where the file does not tell.
    """
    for number in range(META_PAGES):
        meta = read(number * page_size, page_size)
        if len(meta) < page_size or _META.unpack_from(meta, _PAGE.size)[0] != _MAGIC:
            continue
        trees = _PAGE.size + _META.size
        _, found = _LAST.unpack_from(meta, trees + 2 * _TREE.size)
        if found == transaction:
            root = _TREE.unpack_from(meta, trees)[-1]
            return set(_free_below(read, page_size, root, before)) if root != _NO_PAGE else set()
    raise ValueError("no such transaction in the file")


def last_transaction(read: Read, page_size: int) -> int:
    """The number of the last transaction. ValueError where the file does not tell."""
    found = []
    for number in range(META_PAGES):
        meta = read(number * page_size, page_size)
        if len(meta) == page_size and _META.unpack_from(meta, _PAGE.size)[0] == _MAGIC:
            found.append(_LAST.unpack_from(meta, _PAGE.size + _META.size + 2 * _TREE.size)[1])
    if not found:
        raise ValueError("no page says what the last transaction is")
    return int(max(found))


def _free_below(read: Read, page_size: int, number: int, before: int | None, depth: int = 0) -> Iterator[int]:
    page = read(number * page_size, page_size)
    if len(page) < page_size or depth > 32:
        raise ValueError("a page is not in the file")
    found, _, flags, lower, _ = _PAGE.unpack_from(page)
    if found != number:
        raise ValueError("a page has another one's number")
    for at in struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", page, _PAGE.size):
        low, high, bits, key_size = _NODE.unpack_from(page, at)
        if flags & _BRANCH:
            yield from _free_below(read, page_size, low | high << 16 | bits << 32, before, depth + 1)
        elif flags & _LEAF:
            key = page[at + _NODE.size : at + _NODE.size + key_size]
            if before is not None and int.from_bytes(key, "little") >= before:
                continue
            start, size = at + _NODE.size + key_size, low | high << 16
            content = page[start : start + size]
            if bits & _BIG_DATA:
                content = read(
                    int.from_bytes(page[start : start + 8], "little") * page_size + _PAGE.size, size
                )
            yield from _numbers(content)


def _numbers(content: bytes) -> tuple[int, ...]:
    """A list of pages: how many, then their numbers."""
    count = int.from_bytes(content[:8], "little")
    if len(content) < 8 * (count + 1):
        raise ValueError("a list of free pages is cut short")
    return struct.unpack_from(f"<{count}Q", content, 8)
