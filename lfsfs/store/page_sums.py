"""Sums of the pages of the index file: what changed on the disk while nobody had the index open is found, or put right.

LMDB trusts its file: a bit that has flipped in it may show wrong rows, or end the process that reads it. So whoever
closes an index leaves a digest of every page beside it, in `data.sums`, and whoever commits anything takes them away
first. Who opens an index for which there are sums compares them, before LMDB reads a page:

- One bit that flipped is found by trying, and put right.
- A page that nothing uses may hold anything: a process that was killed leaves such.
- Any other page that differs is damage.

A daemon does the same while it has the index open, whenever nothing was committed for a while: it leaves sums, and
compares them from then on, until somebody commits. So they are there too when it is killed then.

What is not covered: what flips between a commit and the next such moment.
"""

import logging
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from lfsfs.store.free_pages import META_PAGES, Read, free_pages, last_transaction

log = logging.getLogger("lfsfs.index")
SUMS_FILE = "data.sums"
PAGE_BYTES = 4096
SUM_BYTES = 8
CHEAP_BYTES = 16 << 20
"""Summing so much takes no longer than 20 ms."""
BYTES_PER_SECOND_OPEN = 10 << 20
"""More is summed by who had the index open for long: it takes about a hundredth of that time."""
REPAIRABLE_PAGES = 4
"""Where more pages differ, it is not a bit that has flipped."""
_MAGIC = b"lfsfs-page-sums1"
_HEAD = struct.Struct(">16sQQ32s")  # magic, transaction, bytes of the file, BLAKE3 of them
_READ_BYTES = 1 << 20


class Differs(Exception):
    """Pages that are in use are not as they were left."""


@dataclass(frozen=True)
class Sums:
    """What the file was: after which transaction, how many bytes, their BLAKE3, and a digest of each page."""

    transaction: int
    size: int
    digest: bytes
    pages: bytes

    def of(self, number: int) -> bytes:
        return self.pages[number * SUM_BYTES : (number + 1) * SUM_BYTES]


def leave(data: Path, seconds_open: float) -> None:
    """Writes the sums of a file that nobody changes meanwhile, where there are none.

    Not where that would take long for one who had the index open for so short a time.
    """
    if exist(data) or data.stat().st_size > max(CHEAP_BYTES, seconds_open * BYTES_PER_SECOND_OPEN):
        return
    taken = take(data)
    if taken is not None:  # or it was damaged while it was open: whoever opens it next is told
        write(data, taken)


def exist(data: Path) -> bool:
    """Whether there are any: nobody has committed since they were written."""
    return data.with_name(SUMS_FILE).exists()


def take(data: Path) -> Sums | None:
    """Those of the file. They count for nothing if somebody commits meanwhile. None where it is no index."""
    whole, sums, size = blake3(), bytearray(), 0
    with data.open("rb") as file:
        transaction = _last(data)
        while piece := file.read(_READ_BYTES):
            size += len(piece)
            whole.update(piece)
            sums += _sums(piece)
    return None if transaction is None else Sums(transaction, size, whole.digest(), bytes(sums))


def are_of_now(data: Path, taken: Sums) -> bool:
    """Whether nobody has committed since they were taken. The caller has the lock of LMDB's writers."""
    return _last(data) == taken.transaction and data.stat().st_size == taken.size


def _last(data: Path) -> int | None:
    with data.open("rb") as file:
        try:
            return last_transaction(_reading(file), PAGE_BYTES)
        except ValueError:
            return None


def write(data: Path, taken: Sums) -> None:
    """Leaves them beside the file, which is still as it was. OSError."""
    text = _HEAD.pack(_MAGIC, taken.transaction, taken.size, taken.digest) + taken.pages
    fresh = data.with_name(f"{SUMS_FILE}.{os.getpid()}")
    try:
        fresh.write_bytes(text + blake3(text).digest())
        fresh.rename(data.with_name(SUMS_FILE))
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def take_away(data: Path) -> None:
    """The file is about to change."""
    with suppress(FileNotFoundError):
        os.unlink(f"{os.path.dirname(data)}/{SUMS_FILE}")


def agree(data: Path) -> bool:
    """Whether the file is as it was left, or nobody knows."""
    found = _read(data)
    if found is None:
        return True
    with data.open("rb") as file:
        return (
            os.fstat(file.fileno()).st_size == found.size
            and _digest(file.fileno(), found.size) == found.digest
        )


def mend(data: Path) -> None:
    """Puts right a bit that flipped. Differs where there is damage that cannot be put right.

    The caller has the lock of LMDB's writers, or the file cannot be opened by anybody.
    """
    found = _read(data)
    if found is None:
        return
    try:
        _mend(data, found)
    except ValueError as damaged:
        raise Differs(str(damaged)) from damaged


def _mend(data: Path, found: Sums) -> None:
    """ValueError where what differs cannot even be read as an index."""
    with data.open("rb") as file:
        differing = _differing(file.fileno(), found)
        for number in [number for number in differing if number < META_PAGES]:
            if _repair(data, number, found):
                differing.remove(number)
            elif last_transaction(_reading(file), PAGE_BYTES) > found.transaction:
                take_away(data)  # somebody has committed since: the sums are old
                return
        if len(differing) <= REPAIRABLE_PAGES:
            differing = [number for number in differing if not _repair(data, number, found)]
        if differing and not set(differing) <= _free(file, found.transaction):
            raise Differs(f"{len(differing)} pages differ, the first at byte {differing[0] * PAGE_BYTES}")


def _read(data: Path) -> Sums | None:
    """None where there are none, or none that are whole."""
    try:
        text = data.with_name(SUMS_FILE).read_bytes()
    except OSError:
        return None
    if len(text) < _HEAD.size + 32 or blake3(text[:-32]).digest() != text[-32:]:
        return None
    magic, transaction, size, digest = _HEAD.unpack_from(text)
    return Sums(transaction, size, digest, text[_HEAD.size : -32]) if magic == _MAGIC else None


def _digest(file: int, size: int) -> bytes:
    whole = blake3()
    for at in range(0, size, _READ_BYTES):
        whole.update(os.pread(file, _READ_BYTES, at))
    return bytes(whole.digest())


def _sums(piece: bytes) -> bytes:
    view = memoryview(piece)
    return b"".join(
        blake3(view[at : at + PAGE_BYTES]).digest(length=SUM_BYTES) for at in range(0, len(piece), PAGE_BYTES)
    )


def _differing(file: int, expected: Sums) -> list[int]:
    """The numbers of the pages that are not as they were."""
    found = []
    size = min(expected.size, os.fstat(file).st_size)  # a page that is gone is another kind of damage
    for at in range(0, size, _READ_BYTES):
        first = at // PAGE_BYTES
        there = _sums(os.pread(file, min(_READ_BYTES, size - at), at))
        count = len(there) // SUM_BYTES
        found += [
            first + n
            for n in range(count)
            if there[n * SUM_BYTES : (n + 1) * SUM_BYTES] != expected.of(first + n)
        ]
    return found


def _repair(data: Path, number: int, sums: Sums) -> bool:
    """Turns back the bit that flipped in a page. False where it was not one bit, or nothing may be written."""
    with data.open("rb") as file:
        page = bytearray(os.pread(file.fileno(), PAGE_BYTES, number * PAGE_BYTES))
    expected = sums.of(number)
    for at in range(len(page)):
        for bit in range(8):
            page[at] ^= 1 << bit
            if blake3(page).digest(length=SUM_BYTES) == expected:
                return _write_back(data, number, bytes(page), at)
            page[at] ^= 1 << bit
    return False


def _write_back(data: Path, number: int, page: bytes, at: int) -> bool:
    try:
        with data.open("r+b") as file:
            os.pwrite(file.fileno(), page, number * PAGE_BYTES)
            os.fsync(file.fileno())
    except OSError:
        return False
    log.warning("a bit had flipped in the index at %s, byte %d: put right", data, number * PAGE_BYTES + at)
    return True


def _free(file: BinaryIO, transaction: int) -> set[int]:
    try:
        return free_pages(_reading(file), transaction, PAGE_BYTES)
    except (ValueError, struct.error):
        return set()


def _reading(file: BinaryIO) -> Read:
    return lambda at, size: os.pread(file.fileno(), size, at)
