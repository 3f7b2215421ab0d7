"""Recovery: what a killed process left, and the rows of packs that the index does not know yet."""

import logging
from collections.abc import Callable, Iterable

from lfsfs.alone import try_alone
from lfsfs.embeddings import rows
from lfsfs.embeddings.pack import CODECS, Directory, Record
from lfsfs.embeddings.packing import WRITERS_LOCK, drop_packs, may_go
from lfsfs.embeddings.place import Place
from lfsfs.embeddings.rewriting import directory_of, places_of
from lfsfs.embeddings.rows import CollectionRow, Row
from lfsfs.errors import Corrupt, NotFound
from lfsfs.store import packs, rendered
from lfsfs.store.index import Tx
from lfsfs.store.packs import Pack, State
from lfsfs.store.store import Store

log = logging.getLogger("lfsfs.embeddings")
CHUNK = 20_000


async def clean(store: Store) -> int:
    """Deletes the packs that a killed process did not complete, or was deleting; how many. Those of the living stay."""
    if store.index.read_only or not store.index.view(_left):
        return 0
    with (store.layout.path / WRITERS_LOCK).open("ab") as lock:
        if not try_alone(lock):
            return 0
        left = store.index.view(_left)
        await drop_packs(store, left)
        return len(left)


def _left(tx: Tx) -> list[Pack]:
    return packs.every(tx, "pending") + droppable(tx)


def droppable(tx: Tx) -> list[Pack]:
    """Packs that were dropped, and are to be deleted now."""
    return [pack for pack in packs.every(tx, "dropped") if may_go(tx, pack)]


async def take_in(store: Store, unreadable: set[int]) -> int:
    """Makes the rows of packs that were found by a rebuild; how many packs.

    A damaged one is told, left out, and remembered in `unreadable` by its number.

    Vectors of all of them come first: a record may name a vector of another pack. Then deletions, then the records:
    of two for one content hash the later holds.
    """
    if store.index.read_only:
        return 0
    found: dict[int, Pack] = {}
    deleted: dict[tuple[str, bytes], int] = {}
    for pack in store.index.view(unread):
        if pack.number in unreadable:
            continue
        directory = await _directory(store, pack)
        if directory is None:
            unreadable.add(pack.number)
        else:
            await _take_vectors(store, pack, directory)
            if pack.state == "foreign-unread":  # what it tells is of another machine's collections
                await store.index.update(_making(pack, "foreign"))
                continue
            found[pack.number] = pack
            _note_deleted(deleted, directory.records)
    lost = 0
    for pack in found.values():
        directory = await _directory(store, pack)
        if directory is not None:
            lost += await _take_records(store, directory, deleted)
            await store.index.update(_making(pack, "live"))
    if lost:
        log.error("%d embeddings are lost: no pack that is whole has their vectors", lost)
    return len(found)


async def _directory(store: Store, pack: Pack) -> Directory | None:
    try:
        return await directory_of(store, pack.oid)
    except (Corrupt, NotFound) as error:
        log.error("pack %s cannot be read, its embeddings are left out: %s", pack.oid, error)
        return None


def unread(tx: Tx) -> list[Pack]:
    """Packs of which the index does not know what is in them."""
    return [pack for pack in packs.every(tx) if pack.state in packs.UNREAD]


def _making(pack: Pack, state: State) -> Callable[[Tx], None]:
    def write(tx: Tx) -> None:
        packs.add(tx, pack.oid, pack.size, state)
        rendered.mark_incomplete(tx)

    return write


def _note_deleted(deleted: dict[tuple[str, bytes], int], records: Iterable[Record]) -> None:
    for record in records:
        if record.digest is None:
            key = (record.collection, record.content_hash)
            deleted[key] = max(deleted.get(key, 0), record.created)


async def _take_vectors(store: Store, pack: Pack, directory: Directory) -> None:
    def number_forms(tx: Tx) -> None:
        for form in directory.vectors.forms:
            rows.form_number(tx, form)

    await store.index.update(number_forms)
    placed = list(store.index.view(lambda tx: places_of(tx, pack.number, directory)).items())
    for start in range(0, len(placed), CHUNK):
        await store.index.update(_putting_places(placed[start : start + CHUNK]))


def _putting_places(placed: list[tuple[Place, bytes]]) -> Callable[[Tx], None]:
    def write(tx: Tx) -> None:
        known = rows.places(tx, [digest for _, digest in placed])
        rows.put_places(tx, ((digest, place) for place, digest in placed if digest not in known))

    return write


async def _take_records(store: Store, directory: Directory, deleted: dict[tuple[str, bytes], int]) -> int:
    """How many of them name a vector that no pack has."""
    lost = 0
    for start in range(0, len(directory.records), CHUNK):
        some = directory.records[start : start + CHUNK]
        lost += await store.index.update(lambda tx, some=some: _put_records(tx, directory, some, deleted))  # type: ignore[misc]
    return lost


def _put_records(
    tx: Tx, directory: Directory, records: list[Record], deleted: dict[tuple[str, bytes], int]
) -> int:
    collections = {name: _collection(tx, directory, name) for name in directory.settings}
    places = rows.places(tx, [record.digest for record in records if record.digest is not None])
    keys = [collections[record.collection].prefix + record.content_hash for record in records]
    present = {key: rows.decode(value) for key, value in tx.get_many("vectors", keys).items()}
    found: dict[bytes, Row] = {}
    lost = 0
    for key, record in zip(keys, records, strict=True):
        gone = deleted.get((record.collection, record.content_hash), 0)
        old = found.get(key) or present.get(key)
        if record.digest is None or max(gone, old.created if old else 0) >= record.created:
            continue
        place = places.get(record.digest)
        if place is None:
            lost += 1
            continue
        found[key] = Row(*place, rows.check_of(record.digest), record.created)
    for collection in collections.values():
        new = sorted((key, row.encode()) for key, row in found.items() if key.startswith(collection.prefix))
        rows.put_rows(tx, collection, new, {key: present[key].encode() for key, _ in new if key in present})
    rows.advance(tx, max((record.created for record in records), default=0))
    return lost


def _collection(tx: Tx, directory: Directory, name: str) -> CollectionRow:
    said = directory.settings[name]
    codec, created = said.get("codec"), said.get("created")
    return rows.find_collection(tx, name) or rows.add_collection(
        tx, name, codec if codec in CODECS else None, created if isinstance(created, int) else None
    )
