"""Reading: vectors out of their packs, as few reads as possible, each byte verified before it is handed out.

Where many vectors of a pack are wanted whole blocks are read, and compared with the block digests of the object; where
few are, each vector is read by itself and compared with its own digest. What is damaged is told vector by vector.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from lfsfs.embeddings import rows
from lfsfs.embeddings.forms import Form
from lfsfs.embeddings.pack import decompress, digest_of
from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, packs
from lfsfs.store.hashing import BLOCK_BYTES, DIGEST_BYTES, block_digest
from lfsfs.store.index import Tx
from lfsfs.store.store import Store
from lfsfs.store.transfers import Reader
from lfsfs.tiers.local import LocalTier

SPAN_BYTES = BLOCK_BYTES  # what is read at once
DENSE = 8  # whole blocks are read where the vectors are at least one part in so many of them
Bytes = NDArray[np.uint8]


class Moved(LfsfsError):
    """A pack was rewritten after its number was looked up: the rows say where the vectors are now."""


@dataclass(slots=True)
class Wanted:
    """Vectors of one form, by their rows; `loose`: the bytes of those that lie in the index, by their number."""

    form: Form
    table: NDArray[np.void]
    loose: dict[int, bytes]
    packs: dict[int, packs.Pack]
    errors: dict[int, LfsfsError] = field(default_factory=dict)
    """Of the rows that cannot be read, by their place in the table."""


def look_up(tx: Tx, table: NDArray[np.void], form: Form) -> Wanted:
    """In the view in which the rows were read."""
    numbers = np.unique(table["pack"]).tolist()
    found = {number: packs.get(tx, number) for number in numbers if number != rows.LOOSE}
    loose: dict[int, bytes] = {}
    if rows.LOOSE in numbers:
        for number in table["offset"][table["pack"] == rows.LOOSE].tolist():
            raw = rows.get_loose(tx, number)
            if raw is not None:
                loose[number] = raw
    return Wanted(form, table, loose, {number: pack for number, pack in found.items() if pack is not None})


async def gather(store: Store, wanted: Wanted) -> Bytes:
    """The bytes of the vectors, a row each, in the order of the table; `wanted.errors` says which are missing. Moved."""
    count, size = len(wanted.table), wanted.form.nbytes
    out = np.empty((count, size), np.uint8)
    _take_loose(wanted, out)
    key = wanted.form.key
    numbers = wanted.table["pack"]
    failures: list[LfsfsError] = []

    async def one(pack: packs.Pack, part: _Part) -> None:
        try:
            await _from_pack(store, pack, part)
        except LfsfsError as failed:
            failures.append(failed)

    async with trio.open_nursery() as nursery:
        for number in np.unique(numbers[numbers != rows.LOOSE]).tolist():
            slots = np.flatnonzero(numbers == number)
            pack = wanted.packs.get(number)
            if pack is None:
                error = Corrupt(f"the index says that it lies in pack {number}, of which it knows nothing")
                wanted.errors.update(dict.fromkeys(slots.tolist(), error))
            else:
                nursery.start_soon(one, pack, _Part(wanted, slots, out, key))
    if failures:
        raise failures[0]
    return out


def _take_loose(wanted: Wanted, out: Bytes) -> None:
    key = wanted.form.key
    for slot in np.flatnonzero(wanted.table["pack"] == rows.LOOSE).tolist():
        row = wanted.table[slot]
        raw = wanted.loose.get(int(row["offset"]))
        if raw is None or rows.check_of(digest_of(raw, key)) != int(row["check"]):
            wanted.errors[slot] = Corrupt("its bytes in the index are damaged or gone")
        else:
            out[slot] = np.frombuffer(raw, np.uint8)


class _Part:
    """The vectors that lie in one pack, in the order in which they lie there."""

    def __init__(self, wanted: Wanted, slots: NDArray[np.intp], out: Bytes, key: bytes) -> None:
        offsets = wanted.table["offset"][slots].astype(np.int64)
        order = np.argsort(offsets, kind="stable")
        self.slots = slots[order]
        self.offsets = offsets[order]
        self.sizes = wanted.table["size"][self.slots].astype(np.int64)
        self.checks = wanted.table["check"][self.slots]
        self.form = wanted.form
        self.number = int(wanted.table["form"][0])
        self.errors = wanted.errors
        self.failed: list[int] = []
        self._out = out
        self._key = key

    def spans(self, among: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        """Those vectors, in groups that lie within SPAN_BYTES of one another."""
        first = 0
        starts = self.offsets[among]
        while first < len(among):
            last = int(np.searchsorted(starts, starts[first] + SPAN_BYTES))
            last = max(last, first + 1)
            yield among[first:last]
            first = last

    def bounds(self, group: NDArray[np.intp]) -> tuple[int, int]:
        """The bytes of the pack in which the group lies."""
        ends = self.offsets[group] + self.sizes[group]
        return int(self.offsets[group[0]]), int(ends.max())

    def is_dense(self, group: NDArray[np.intp]) -> bool:
        start, end = self.bounds(group)
        return int(self.sizes[group].sum()) * DENSE >= end - start and end - start >= BLOCK_BYTES // 4

    def take(self, group: NDArray[np.intp], content: memoryview | bytes, start: int) -> None:
        """Copies the group's vectors from verified bytes of the pack that begin at `start`."""
        size = self.form.nbytes
        if not size:
            return
        at = self.offsets[group] - start
        if not (self.sizes[group] == size).all():
            self._take_compressed(group, content, at)
            return
        source = np.frombuffer(content, np.uint8)
        slots = self.slots[group]
        first = int(at[0])
        if (np.diff(at) == size).all():
            block = source[first : first + len(group) * size].reshape(len(group), size)
            if (np.diff(slots) == 1).all():
                self._out[int(slots[0]) : int(slots[0]) + len(group)] = block
            else:
                self._out[slots] = block
            return
        for slot, begin in zip(slots.tolist(), at.tolist(), strict=True):
            self._out[slot] = source[begin : begin + size]

    def _take_compressed(
        self, group: NDArray[np.intp], content: memoryview | bytes, at: NDArray[np.int64]
    ) -> None:
        for place, begin in zip(group.tolist(), at.tolist(), strict=True):
            self.take_one(place, memoryview(content)[begin : begin + int(self.sizes[place])])

    def take_one(self, place: int, stored: memoryview | bytes) -> bool:
        """Takes one vector if it has its digest."""
        slot, size = int(self.slots[place]), int(self.sizes[place])
        try:
            raw = stored if size == self.form.nbytes else decompress(stored, self.form)
        except Corrupt:
            return self._fail(place)
        if len(raw) != self.form.nbytes or rows.check_of(digest_of(raw, self._key)) != int(
            self.checks[place]
        ):
            return self._fail(place)
        self._out[slot] = np.frombuffer(raw, np.uint8)
        return True

    def _fail(self, place: int) -> bool:
        self.failed.append(place)
        return False


async def _from_pack(store: Store, pack: packs.Pack, part: _Part) -> None:
    remote = store.remote
    failed = np.arange(len(part.slots))
    if isinstance(store.tier, LocalTier) and (remote is None or remote.cache.has(pack.oid)):
        path = store.tier.path(pack.oid)
        digests = store.index.view(lambda tx: catalog.digests(tx, pack.oid))
        try:
            await trio.to_thread.run_sync(_read_local, path, digests, part)
            failed = np.array(sorted(part.failed), np.intp)
        except FileNotFoundError:
            pass
    row = store.lookup(pack.oid)
    if row is not None:
        store.record_access(row)
    if len(failed) and remote is not None:
        failed = await _read_through(store, pack.oid, part, failed)
    if len(failed):
        await _tell_damage(store, pack, part, failed)


async def _tell_damage(store: Store, pack: packs.Pack, part: _Part, failed: NDArray[np.intp]) -> None:
    """Each of them with an error that names the pack. Moved where the pack is no longer what the rows should name."""
    present = store.index.view(lambda tx: packs.get(tx, pack.number))
    if present is None or present.state == "dropped":
        raise Moved("its pack was rewritten")
    error = Corrupt(f"its bytes in the pack {pack.oid} are damaged or gone")
    part.errors.update(dict.fromkeys(part.slots[failed].tolist(), error))
    if store.index.read_only:
        return
    damaged = {
        (pack.number, int(part.offsets[at]), int(part.sizes[at]), part.number) for at in failed.tolist()
    }
    await store.index.update(lambda tx: rows.forget_places(tx, damaged))


async def _read_through(store: Store, oid: Oid, part: _Part, among: NDArray[np.intp]) -> NDArray[np.intp]:
    """By the store's own reader, which heals from the remote tier what is damaged here; those that it has not got."""
    failed: list[int] = []
    part.failed = []
    try:
        async with await store.open(oid) as reader:
            for group in part.spans(among):
                if not await _read_group(reader, part, group):
                    failed += group.tolist()
    except (Corrupt, NotFound):
        return among
    return np.array(sorted({*failed, *part.failed}), np.intp)


async def _read_group(reader: Reader, part: _Part, group: NDArray[np.intp]) -> bool:
    dense = part.is_dense(group)
    for some in [group] if dense else [group[at : at + 1] for at in range(len(group))]:
        start, end = part.bounds(some)
        content = await reader.read(start, end - start)
        if len(content) != end - start:
            return False
        part.take(some, content, start)
    return True


def _read_local(path: os.PathLike[str], digests: bytes, part: _Part) -> None:
    """In a worker thread. `part.failed` has what is damaged. FileNotFoundError."""
    buffer = memoryview(bytearray(SPAN_BYTES + 2 * BLOCK_BYTES)) if len(part.slots) > 1 else memoryview(b"")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for group in part.spans(np.arange(len(part.slots))):
            if digests and part.is_dense(group):
                _read_blocks(fd, digests, part, group, buffer)
            else:
                _read_each(part, group, lambda offset, size: os.pread(fd, size, offset))
    finally:
        os.close(fd)


def _read_each(part: _Part, group: NDArray[np.intp], read: Callable[[int, int], Any]) -> None:
    for place in group.tolist():
        part.take_one(place, read(int(part.offsets[place]), int(part.sizes[place])))


def _read_blocks(fd: int, digests: bytes, part: _Part, group: NDArray[np.intp], buffer: memoryview) -> None:
    start, end = part.bounds(group)
    first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
    if (last - first) * BLOCK_BYTES > len(buffer):
        buffer = memoryview(bytearray((last - first) * BLOCK_BYTES))
    got = os.preadv(fd, [buffer[: (last - first) * BLOCK_BYTES]], first * BLOCK_BYTES)
    content = buffer[:got]
    whole = all(
        block_digest(content[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES])
        == digests[(first + at) * DIGEST_BYTES : (first + at + 1) * DIGEST_BYTES]
        for at in range(last - first)
    )
    base = first * BLOCK_BYTES
    if whole and len(content) >= end - base:
        part.take(group, content, base)
    else:
        _read_each(part, group, lambda offset, size: content[offset - base : offset - base + size])
