"""Listing: the oids that a directory laid out as objects/aa/bb/<oid> has files of, a page at a time."""

import errno
import os

from lfsfs.oid import OID_HEX_DIGITS, Oid

_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR))
_HEX = frozenset("0123456789abcdef")


def page_of(objects: str, after: str, limit: int) -> list[Oid]:
    """The next `limit` oids above `after`, ascending. Blocks. OSError."""
    page: list[Oid] = []
    for first in _directories(objects, after[:2]):
        for second in _directories(f"{objects}/{first}", after[2:4] if first == after[:2] else ""):
            page += _oids(objects, first, second, after)
            if len(page) >= limit:
                return page[:limit]
    return page


def _directories(path: str, least: str) -> list[str]:
    """The two-digit names in a directory that are not below `least`, ascending."""
    return sorted(name for name in _names(path) if len(name) == 2 and _HEX.issuperset(name) and name >= least)


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise


def _oids(objects: str, first: str, second: str, after: str) -> list[Oid]:
    """The objects in objects/aa/bb above `after`, ascending; a foreign name is none."""
    path, prefix = f"{objects}/{first}/{second}", first + second
    found = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                is_oid = len(name) == OID_HEX_DIGITS and name.startswith(prefix) and _HEX.issuperset(name)
                if is_oid and name > after and entry.is_file(follow_symlinks=False):
                    found.append(Oid(name))
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
    return sorted(found)
