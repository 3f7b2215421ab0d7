"""Reading: vectors out of their packs, as few reads as possible, each byte verified before it is handed out.

Where many vectors of a pack are wanted whole blocks are read, and compared with the block digests of the object; where
few are, each vector is read by itself and compared with its own digest. What is damaged is told vector by vector.
"""

import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from lfsfs.embeddings import rows
from lfsfs.embeddings.forms import Form
from lfsfs.embeddings.pack import digest_of
from lfsfs.embeddings.pack_file import Job, PackFile
from lfsfs.embeddings.part import Bytes as Bytes
from lfsfs.embeddings.part import Part, Places
from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, packs
from lfsfs.store.index import Tx
from lfsfs.store.store import Store
from lfsfs.store.transfers import Reader
from lfsfs.tiers.local import LocalTier

THREADS = min(4, len(os.sched_getaffinity(0)))
THREAD_BYTES = 4 << 20  # one more thread for each so many
PACKS_AT_ONCE = 4  # of those that come by way of the store's reader


class Moved(LfsfsError):
    """A pack was rewritten after its number was looked up: the rows say where the vectors are now."""


@dataclass(slots=True)
class Wanted:
    """Vectors of one form, by their rows; `loose`: the bytes of those that lie in the index, by their number."""

    form: Form
    table: NDArray[np.void]
    loose: dict[int, bytes]
    slots: dict[int, NDArray[np.intp]]
    """By the number of the pack, the places in the table of the rows that name it, ascending."""
    packs: dict[int, packs.Pack]
    errors: dict[int, LfsfsError] = field(default_factory=dict)
    """Of the rows that cannot be read, by their place in the table."""


def look_up(tx: Tx, table: NDArray[np.void], form: Form) -> Wanted:
    """In the view in which the rows were read."""
    slots = _by_number(table["pack"])
    found = {number: packs.get(tx, number) for number in slots if number != rows.LOOSE}
    loose: dict[int, bytes] = {}
    if rows.LOOSE in slots:
        for number in table["offset"][slots[rows.LOOSE]].tolist():
            raw = rows.get_loose(tx, number)
            if raw is not None:
                loose[number] = raw
    known = {number: pack for number, pack in found.items() if pack is not None}
    return Wanted(form, table, loose, slots, known)


def _by_number(numbers: NDArray[np.unsignedinteger[Any]]) -> dict[int, NDArray[np.intp]]:
    """The places of each of the numbers. Quick where they are small, or come one after another."""
    if not len(numbers):
        return {}
    plain = numbers.astype(
        np.uint16 if int(numbers.max()) < 1 << 16 else np.uint32
    )  # of 16 bits: a radix sort
    order = np.argsort(plain, kind="stable")
    cuts = np.flatnonzero(np.diff(plain[order])) + 1
    return {int(plain[slots[0]]): slots for slots in np.split(order, cuts)}


@dataclass(slots=True)
class _Read:
    """One pack, and what is wanted of it. `lacking`: places in the part that have not been read yet."""

    pack: packs.Pack
    part: Part
    lacking: NDArray[np.intp]


async def gather(store: Store, wanted: Wanted) -> Bytes:
    """The bytes of the vectors, a row each, in the order of the table; `wanted.errors` says which are missing. Moved."""
    out = np.empty((len(wanted.table), wanted.form.nbytes), np.uint8)
    _take_loose(wanted, out)
    reads = _reads(wanted, out)
    if isinstance(store.tier, LocalTier):
        await _from_files(store, store.tier, reads)
    lacking = [read for read in reads if len(read.lacking)]
    if lacking:
        await _from_elsewhere(store, lacking)
    return out


def _reads(wanted: Wanted, out: Bytes) -> list[_Read]:
    """What is to be read, pack by pack; where the index knows no such pack, that is an error."""
    found, places = [], Places(wanted.table)
    for number, slots in wanted.slots.items():
        pack = wanted.packs.get(number)
        if pack is not None:
            part = Part(wanted.form, places, slots, out, wanted.errors)
            found.append(_Read(pack, part, np.arange(len(slots))))
        elif number != rows.LOOSE:
            error = Corrupt(f"the index says that it lies in pack {number}, of which it knows nothing")
            wanted.errors.update(dict.fromkeys(slots.tolist(), error))
    return found


def _take_loose(wanted: Wanted, out: Bytes) -> None:
    key = wanted.form.key
    for slot in wanted.slots.get(rows.LOOSE, np.empty(0, np.intp)).tolist():
        row = wanted.table[slot]
        raw = wanted.loose.get(int(row["offset"]))
        if raw is None or rows.check_of(digest_of(raw, key)) != int(row["check"]):
            wanted.errors[slot] = Corrupt("its bytes in the index are damaged or gone")
        else:
            out[slot] = np.frombuffer(raw, np.uint8)


# From the local disk.


async def _from_files(store: Store, tier: LocalTier, reads: list[_Read]) -> None:
    """What lies on the local disk: in as many threads as pay, which share the packs out block by block."""
    remote = store.remote
    files: list[tuple[_Read, PackFile]] = []
    failures: list[LfsfsError] = []
    try:
        for read in reads:
            oid = read.pack.oid
            if remote is None or remote.cache.has(oid):
                with suppress(NotFound, Corrupt):  # then it is told of each vector, or comes from elsewhere
                    files.append((read, PackFile(tier.open(oid), partial(_digests, store, oid))))
        jobs = deque(job for read, file in files for job in file.jobs(read.part))
        size = sum(int(read.part.sizes.sum()) for read, _ in files)
        async with trio.open_nursery() as nursery:
            for _ in range(min(THREADS, 1 + size // THREAD_BYTES, len(jobs))):
                nursery.start_soon(trio.to_thread.run_sync, _work, jobs, failures)
    finally:
        for _, file in files:
            file.close()
    if failures:
        raise failures[0]
    for read, _ in files:
        read.lacking = np.array(sorted(read.part.failed), np.intp)
    _note_access(store, [read.pack.oid for read, _ in files])


def _digests(store: Store, oid: Oid) -> bytes:
    return store.index.view(lambda tx: catalog.digests(tx, oid))


def _work(jobs: deque[Job], failures: list[LfsfsError]) -> None:
    """In a thread: until none is left."""
    while True:
        try:
            job = jobs.popleft()
        except IndexError:
            return
        try:
            job()
        except LfsfsError as failed:
            failures.append(failed)


def _note_access(store: Store, oids: list[Oid]) -> None:
    for row in store.index.view(lambda tx: [catalog.get(tx, oid) for oid in oids]):
        if row is not None:
            store.record_access(row)


# From elsewhere.


async def _from_elsewhere(store: Store, reads: list[_Read]) -> None:
    """By the store's own reader what is not here, or is damaged here; what nobody has is told."""
    limiter = trio.CapacityLimiter(PACKS_AT_ONCE)
    failures: list[LfsfsError] = []

    async def one(read: _Read) -> None:
        async with limiter:
            try:
                if store.remote is not None:
                    read.lacking = await _read_through(store, read.pack.oid, read.part, read.lacking)
                if len(read.lacking):
                    await _tell_damage(store, read.pack, read.part, read.lacking)
            except LfsfsError as failed:
                failures.append(failed)

    async with trio.open_nursery() as nursery:
        for read in reads:
            nursery.start_soon(one, read)
    if failures:
        raise failures[0]


async def _tell_damage(store: Store, pack: packs.Pack, part: Part, failed: NDArray[np.intp]) -> None:
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


async def _read_through(store: Store, oid: Oid, part: Part, among: NDArray[np.intp]) -> NDArray[np.intp]:
    """By the store's own reader, which heals from the remote tier what is damaged here; those that it has not got."""
    failed: list[int] = []
    part.failed = set()
    try:
        async with await store.open(oid) as reader:
            for group in part.spans(among):
                if not await _read_group(reader, part, group):
                    failed += group.tolist()
    except (Corrupt, NotFound):
        return among
    return np.array(sorted({*failed, *part.failed}), np.intp)


async def _read_group(reader: Reader, part: Part, group: NDArray[np.intp]) -> bool:
    dense = part.is_dense(group)
    for some in [group] if dense else [group[at : at + 1] for at in range(len(group))]:
        start, end = part.bounds(some)
        content = await reader.read(start, end - start)
        if len(content) != end - start:
            return False
        part.take(some, content, start)
    return True
