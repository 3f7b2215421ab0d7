"""Rewriting: loose vectors become packs, and packs with much that is no longer wanted become fewer.

New packs are stored first; then one transaction points the rows to them; then the old ones are deleted. One process at a
time rewrites a store. Whoever reads an old pack meanwhile is sent back to the rows.
"""

import fcntl
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, field

import numpy as np
import trio

from lfsfs import steps
from lfsfs.embeddings import reading, rows
from lfsfs.embeddings.contents import Forms
from lfsfs.embeddings.forms import Form
from lfsfs.embeddings.pack import (
    HEAD_BYTES,
    Codec,
    Contents,
    Directory,
    Record,
    digest_of,
    directory_size,
    read_directory,
    vectors_size,
)
from lfsfs.embeddings.packing import (
    PACK_BYTES,
    Stale,
    Written,
    drop_packs,
    make_live,
    store_packs,
    vector_to_store,
    writers_lock,
)
from lfsfs.embeddings.place import Place
from lfsfs.embeddings.reading import Wanted
from lfsfs.embeddings.rows import LOOSE, CollectionRow, Row
from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.store import packs
from lfsfs.store.index import Tx
from lfsfs.store.layout import Layout
from lfsfs.store.packs import Pack
from lfsfs.store.store import Store

log = logging.getLogger("lfsfs.embeddings")
REWRITER_LOCK = "repack.lock"
DEAD_SHARE = 0.25  # a pack of which so much is no longer wanted is rewritten
SMALL_BYTES = 4 << 20
SMALL_PACKS = 8  # so many small packs become one
VICTIMS_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What was done: packs written and removed, vectors moved."""

    written: int
    removed: int
    vectors: int


@dataclass(slots=True)
class _Work:
    """What goes into new packs. `moves`: the digest of each vector that moves, by where it lay."""

    victims: list[Pack]
    unpacked: dict[bytes, int | None]
    records: list[Record] = field(default_factory=list)
    moves: dict[Place, bytes] = field(default_factory=dict)
    collections: dict[bytes, CollectionRow] = field(default_factory=dict)
    digests: dict[Place, bytes] = field(default_factory=dict)
    """Of all loose vectors and those of the victims, wanted or not."""
    told: dict[bytes, int] = field(default_factory=dict)
    """When the rows were written of which no pack told."""


async def rewrite(store: Store, forms: Forms, *, thorough: bool = False) -> Rewritten:
    """Packs what is loose, merges small packs where there are many; `thorough`: also rewrites packs that hold much that
    was deleted or replaced. A damaged pack is told, and stays as it is. Corrupt where a loose vector is damaged.
    """
    done = Rewritten(0, 0, 0)
    damaged: set[int] = set()
    async with _alone(store.layout), writers_lock(store.layout):
        candidates = {pack.number for pack in store.index.view(lambda tx: packs.every(tx, "live"))}
        while True:
            try:
                more = await _rewrite(store, forms, candidates - damaged, thorough=thorough)
            except Stale:
                continue
            except _Damaged as found:
                if found.numbers <= damaged or LOOSE in found.numbers:
                    raise Corrupt(str(found)) from found
                log.error("a pack of vectors is damaged, and is not rewritten: %s", found)
                damaged |= found.numbers
                continue
            done = Rewritten(*(one + other for one, other in zip(astuple(done), astuple(more), strict=True)))
            if not more.removed:
                return done


async def _rewrite(store: Store, forms: Forms, candidates: set[int], *, thorough: bool) -> Rewritten:
    live = store.index.view(lambda tx: packs.every(tx, "live"))
    victims = await _victims(store, [pack for pack in live if pack.number in candidates], thorough=thorough)
    directories = await _directories(store, victims)
    others = len(live) > len(victims)
    work = await trio.to_thread.run_sync(
        store.index.view, lambda tx: _survey(tx, victims, directories, others)
    )
    if not work.victims and not work.unpacked:
        return Rewritten(0, 0, 0)
    steps.begin("reading vectors", len(work.moves), "vectors")
    parts = await _contents(store, forms, work)
    steps.begin(
        "writing packs", sum(len(vector.stored) for part in parts for vector in part.vectors), "bytes"
    )
    written = await store_packs(store, parts)
    try:
        await store.index.update(lambda tx: _commit(tx, work, written))
    except BaseException:
        with trio.CancelScope(shield=True):
            await drop_packs(store, written.packs)
        raise
    await drop_packs(store, work.victims)
    return Rewritten(len(written.packs), len(work.victims), len(work.moves))


async def forget_foreign(store: Store) -> int:
    """Lets go of packs of other machines of which no object is made any more; how many."""

    def look(tx: Tx) -> list[Pack]:
        foreign = packs.every(tx, "foreign")
        wanted = _wanted_bytes(tx) if foreign else {}
        return [pack for pack in foreign if pack.number not in wanted]

    unwanted = await trio.to_thread.run_sync(store.index.view, look)
    if unwanted:
        numbers = {pack.number for pack in unwanted}
        await store.index.update(lambda tx: rows.forget_packs(tx, numbers))
        await drop_packs(store, unwanted)
    return len(unwanted)


async def _directories(store: Store, victims: list[Pack]) -> dict[int, Directory]:
    found = {}
    for pack in victims:
        try:
            found[pack.number] = await directory_of(store, pack.oid)
        except (Corrupt, NotFound) as error:
            raise _Damaged({pack.number}, Corrupt(f"{pack.oid}: {error}")) from error
    return found


@asynccontextmanager
async def _alone(layout: Layout) -> AsyncIterator[None]:
    with (layout.path / REWRITER_LOCK).open("ab") as lock:
        await trio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_EX)
        yield


async def directory_of(store: Store, oid: Oid) -> Directory:
    """What a pack says of itself. Corrupt, NotFound, Unavailable."""
    async with await store.open(oid) as reader:
        head = await reader.read(0, HEAD_BYTES)
        size = directory_size(head)
        content = await reader.read(0, size)
    return await trio.to_thread.run_sync(read_directory, content)


# What is to be done.


async def _victims(store: Store, candidates: list[Pack], *, thorough: bool) -> list[Pack]:
    """At most VICTIMS_BYTES of them: they are held in memory."""
    chosen = _small(candidates)
    if thorough:
        wanted = await trio.to_thread.run_sync(store.index.view, _wanted_bytes)
        for pack in candidates:
            if wanted.get(pack.number, 0) < (1 - DEAD_SHARE) * await _vectors_size(store, pack):
                chosen.add(pack.number)
    found: list[Pack] = []
    room = VICTIMS_BYTES
    for pack in candidates:
        if pack.number in chosen and (pack.size <= room or not found):
            found.append(pack)
            room -= pack.size
    return found


def _small(candidates: list[Pack]) -> set[int]:
    """The small ones, where it pays to make them one."""
    small = [pack for pack in candidates if pack.size < SMALL_BYTES]
    fewer = -(-sum(pack.size for pack in small) // PACK_BYTES)
    return {pack.number for pack in small} if len(small) >= max(SMALL_PACKS, 2 * fewer) else set()


async def _vectors_size(store: Store, pack: Pack) -> int:
    try:
        async with await store.open(pack.oid) as reader:
            return vectors_size(await reader.read(0, HEAD_BYTES))
    except (Corrupt, NotFound) as error:
        raise _Damaged({pack.number}, Corrupt(f"{pack.oid}: {error}")) from error


def _wanted_bytes(tx: Tx) -> dict[int, int]:
    """How many bytes of each pack some row wants."""
    table = rows.table(value for page in tx.pages("vectors", rows.PAGE) for _, value in page)
    places = np.unique(table[["pack", "offset", "size"]])
    numbers, at = np.unique(places["pack"], return_inverse=True)
    totals = np.bincount(at, places["size"].astype(np.float64), len(numbers))
    return {int(number): int(total) for number, total in zip(numbers, totals, strict=True)}


def _survey(tx: Tx, victims: list[Pack], directories: dict[int, Directory], others: bool) -> _Work:
    work = _Work(victims, rows.unpacked(tx))
    by_name = {collection.name: collection for collection in rows.collections(tx)}
    work.collections = {collection.prefix: collection for collection in by_name.values()}
    for number, directory in directories.items():
        work.digests.update(places_of(tx, number, directory))
    for number, (form, raw) in rows.every_loose(tx).items():
        work.digests[LOOSE, number, len(raw), form] = digest_of(raw, rows.find_form(tx, form).key)
    _survey_unpacked(tx, work, others)
    _survey_vectors(tx, work, set(directories))
    _survey_records(tx, work, directories, by_name, others)
    return work


def places_of(tx: Tx, number: int, directory: Directory) -> dict[Place, bytes]:
    """The digest of each vector of a pack, by where it lies."""
    placed = directory.vectors
    forms = [rows.find_form_number(tx, form) for form in placed.forms]
    rest = zip(
        placed.digests, placed.offset.tolist(), placed.size.tolist(), placed.form.tolist(), strict=True
    )
    return {(number, offset, size, forms[form]): digest for digest, offset, size, form in rest}


def _survey_unpacked(tx: Tx, work: _Work, others: bool) -> None:
    for key, deleted in work.unpacked.items():
        collection = work.collections.get(key[:4])
        if collection is None:
            continue
        if deleted is not None:
            if others:  # else no pack knows what is deleted
                work.records.append(Record(collection.name, key[4:], None, deleted))
            continue
        row = rows.get(tx, collection, key[4:])
        if row is not None:
            work.records.append(Record(collection.name, key[4:], _digest_of(tx, work, row), row.created))
            work.told[key] = row.created


def _digest_of(tx: Tx, work: _Work, row: Row) -> bytes:
    """The digest of a row of which no pack tells. _Damaged where nothing tells it."""
    digest = work.digests.get(row.place)
    if row.pack == LOOSE and digest is not None:
        work.moves[row.place] = digest
    for key, _ in tx.scan("vector_digests", prefix=row.check.to_bytes(8, "big")):
        if digest is None and rows.places(tx, [key])[key] == row.place:
            digest = key
    if digest is None:
        raise _Damaged({row.pack}, Corrupt("a vector has lost its digest"))
    return digest


def _survey_vectors(tx: Tx, work: _Work, numbers: set[int]) -> None:
    """Whatever any row wants of the victims moves."""
    if not numbers:
        return
    for page in tx.pages("vectors", rows.PAGE):
        table = rows.table(value for _, value in page)
        for at in np.flatnonzero(np.isin(table["pack"], list(numbers))).tolist():
            row = rows.decode(page[at][1])
            digest = work.digests.get(row.place)
            if digest is None:
                raise _Damaged({row.pack}, Corrupt(f"it has no vector for {page[at][0][4:].hex()}"))
            work.moves[row.place] = digest


def _survey_records(
    tx: Tx, work: _Work, directories: dict[int, Directory], by_name: dict[str, CollectionRow], others: bool
) -> None:
    """What the victims tell and still holds is told again. A deletion is, while another pack may know what went."""
    known = {(record.collection, record.content_hash) for record in work.records}
    for directory in directories.values():
        for record in directory.records:
            collection = by_name.get(record.collection)
            if collection is None or (record.collection, record.content_hash) in known:
                continue
            row = rows.get(tx, collection, record.content_hash)
            gone = record.digest is None and others and row is None
            holds = record.digest is not None and row is not None and row.created == record.created
            if gone or holds:
                work.records.append(record)
                known.add((record.collection, record.content_hash))


# What is made of it.


async def _contents(store: Store, forms: Forms, work: _Work) -> list[Contents]:
    """Records and vectors, read and verified, in the order of the content hashes. _Damaged where one cannot be read."""
    raws = await _read(store, forms, work)
    return await trio.to_thread.run_sync(_shared_out, work, raws)


async def _read(store: Store, forms: Forms, work: _Work) -> dict[bytes, tuple[Form, bytes]]:
    """Form and bytes of each vector that moves, by its digest."""
    raws: dict[bytes, tuple[Form, bytes]] = {}
    by_form: dict[int, list[Place]] = {}
    for place in work.moves:
        by_form.setdefault(place[3], []).append(place)
    for number, places in by_form.items():
        wanted = store.index.view(_looking_up(forms, number, sorted(places), work))
        out = await reading.gather(store, wanted)
        if wanted.errors:
            raise _Damaged(
                {sorted(places)[at][0] for at in wanted.errors}, next(iter(wanted.errors.values()))
            )
        steps.add(len(places))
        for at, place in enumerate(sorted(places)):
            raws[work.moves[place]] = (wanted.form, out[at].tobytes())
    return raws


def _looking_up(forms: Forms, number: int, places: list[Place], work: _Work) -> Callable[[Tx], Wanted]:
    encoded = (Row(*place, rows.check_of(work.moves[place]), 0).encode() for place in places)
    table = rows.table(encoded)
    return lambda tx: reading.look_up(tx, table, forms.get(tx, number))


class _Damaged(LfsfsError):
    """Vectors of these packs cannot be read: the packs stay as they are."""

    def __init__(self, numbers: set[int], reason: LfsfsError) -> None:
        super().__init__(str(reason))
        self.numbers = numbers


def _shared_out(work: _Work, raws: dict[bytes, tuple[Form, bytes]]) -> list[Contents]:
    settings = {collection.name: collection for collection in work.collections.values()}
    parts: list[Contents] = []
    size = PACK_BYTES

    def part() -> Contents:
        nonlocal size
        if size >= PACK_BYTES:
            parts.append(Contents())
            size = 0
        return parts[-1]

    def add(digest: bytes, codec: Codec) -> None:
        nonlocal size
        form, raw = raws.pop(digest)
        vector = vector_to_store(digest, form, codec, raw)
        part().vectors.append(vector)
        size += len(vector.stored)

    for record in sorted(work.records, key=lambda record: (record.collection, record.content_hash)):
        collection = settings[record.collection]
        part().settings[record.collection] = collection.settings
        parts[-1].records.append(record)
        if record.digest in raws:
            add(record.digest, collection.codec)
    for digest in sorted(raws):  # wanted by rows of which other packs tell
        add(digest, "raw")
    return parts


# The transaction.


def _commit(tx: Tx, work: _Work, written: Written) -> None:
    for pack in work.victims:
        if packs.get(tx, pack.number) != pack:
            raise Stale("a pack was taken away")
    make_live(tx, written.packs)
    moved = {place: written.place(digest, place[3]) for place, digest in work.moves.items()}
    still_loose = _point_unpacked(tx, moved)
    if work.victims:
        _point_others(tx, moved, {pack.number for pack in work.victims})
    for place, digest in work.digests.items():
        if place not in moved and place not in still_loose:
            rows.drop_place(tx, digest, place)
    rows.put_places(tx, ((work.moves[old], new) for old, new in moved.items()))
    for place in work.digests:
        if place[0] == LOOSE and place not in still_loose:
            rows.drop_loose(tx, place[1])
    _settle(tx, work)
    for pack in work.victims:
        packs.drop(tx, pack)


def _moved(row: Row, place: Place) -> bytes:
    return row._replace(pack=place[0], offset=place[1], size=place[2]).encode()


def _point_unpacked(tx: Tx, moved: dict[Place, Place]) -> set[Place]:
    """Rows that name a loose vector name its new place, if it has one; the places of those that have none."""
    still_loose, changed = set(), []
    for key, value in tx.get_many("vectors", list(rows.unpacked(tx))).items():
        row = rows.decode(value)
        if row.place in moved:
            changed.append((key, _moved(row, moved[row.place])))
        elif row.pack == LOOSE:
            still_loose.add(row.place)
    tx.put_many("vectors", changed)
    return still_loose


def _point_others(tx: Tx, moved: dict[Place, Place], victims: set[int]) -> None:
    """Stale where a row names what was not moved."""
    changed: list[tuple[bytes, bytes]] = []
    for page in tx.pages("vectors", rows.PAGE):
        table = rows.table(value for _, value in page)
        for at in np.flatnonzero(np.isin(table["pack"], list(victims))).tolist():
            row = rows.decode(page[at][1])
            if row.place not in moved:
                raise Stale("a vector came to be wanted")
            changed.append((page[at][0], _moved(row, moved[row.place])))
    tx.put_many("vectors", changed)


def _settle(tx: Tx, work: _Work) -> None:
    """The new packs tell of what no pack told of; not of what was written since."""
    present = tx.get_many("vectors", list(work.told))
    settled = [
        key
        for key, created in work.told.items()
        if key in present and rows.decode(present[key]).created == created
    ]
    now = rows.unpacked(tx)
    gone = [key for key, deleted in work.unpacked.items() if deleted is not None and now.get(key) == deleted]
    rows.settle_unpacked(tx, [*settled, *gone])
