"""Reading: vectors out of their packs, as few reads as possible, each byte verified before it is handed out.

Where many vectors of a pack are wanted whole blocks are read, and compared with the block digests of the object; where
few are, each vector is read by itself and compared with its own digest. What is damaged is told vector by vector.
"""

from dataclasses import dataclass, field

import numpy as np
import trio
from numpy.typing import NDArray

from lfsfs.embeddings import rows
from lfsfs.embeddings.forms import Form
from lfsfs.embeddings.pack import digest_of
from lfsfs.embeddings.pack_file import read_local
from lfsfs.embeddings.part import Bytes as Bytes
from lfsfs.embeddings.part import Part
from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, packs
from lfsfs.store.index import Tx
from lfsfs.store.store import Store
from lfsfs.store.transfers import Reader
from lfsfs.tiers.local import LocalTier

PACKS_AT_ONCE = 4  # read in so many threads: a few MiB of memory each


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
    numbers = wanted.table["pack"]
    failures: list[LfsfsError] = []

    limiter = trio.CapacityLimiter(PACKS_AT_ONCE)

    async def one(pack: packs.Pack, slots: NDArray[np.intp]) -> None:
        async with limiter:
            try:
                await _from_pack(store, pack, part_of(slots))
            except LfsfsError as failed:
                failures.append(failed)

    def part_of(slots: NDArray[np.intp]) -> Part:
        return Part(wanted.form, wanted.table[slots], slots, out, wanted.errors)

    async with trio.open_nursery() as nursery:
        for number in np.unique(numbers[numbers != rows.LOOSE]).tolist():
            slots = np.flatnonzero(numbers == number)
            pack = wanted.packs.get(number)
            if pack is None:
                error = Corrupt(f"the index says that it lies in pack {number}, of which it knows nothing")
                wanted.errors.update(dict.fromkeys(slots.tolist(), error))
            else:
                nursery.start_soon(one, pack, slots)
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


async def _from_pack(store: Store, pack: packs.Pack, part: Part) -> None:
    remote = store.remote
    failed = np.arange(len(part.slots))
    if isinstance(store.tier, LocalTier) and (remote is None or remote.cache.has(pack.oid)):
        path = store.tier.path(pack.oid)
        digests = store.index.view(lambda tx: catalog.digests(tx, pack.oid))
        try:
            await trio.to_thread.run_sync(read_local, path, digests, part)
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
