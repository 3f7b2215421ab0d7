"""Writing: a batch becomes rows in one transaction, all or nothing.

A large batch goes into packs first, which count for nothing until that transaction; a small one lies in the index until
enough has come for a pack.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import trio

from lfsfs.embeddings import place, rows
from lfsfs.embeddings.batch import Batch, Places
from lfsfs.embeddings.collecting import uncollected
from lfsfs.embeddings.pack import CODECS, PIECE_BYTES, Columns
from lfsfs.embeddings.packing import (
    PACK_BYTES,
    Stale,
    Told,
    Written,
    drop_packs,
    make_live,
    store_packs,
    vector_to_store,
    writers_lock,
)
from lfsfs.embeddings.rows import CollectionRow
from lfsfs.embeddings.strings import Strings, Whole
from lfsfs.errors import Exists
from lfsfs.store.index import Tx
from lfsfs.store.store import Store, as_error

DIRECT_BYTES = 8 << 20  # what is new in a batch of this size goes into packs of its own


async def write(store: Store, name: str, batch: Batch, *, replace: bool, told: Told | None = None) -> int:
    """Writes the batch; how many rows changed. Exists where another vector is there, and is not to be replaced."""
    rows.check_name(name)
    while True:
        try:
            if batch.nbytes < DIRECT_BYTES:
                return await store.index.update(lambda tx: _write_loose(tx, name, batch, replace))
            return await _write_packs(store, name, batch, replace, told)
        except Stale:
            continue
        except OSError as failed:
            raise as_error(failed) from failed


def _write_loose(tx: Tx, name: str, batch: Batch, replace: bool) -> int:
    collection = rows.add_collection(tx, name)
    plan = _plan(tx, collection, batch, replace)
    return _put_rows(tx, collection, batch, plan, rows.now(tx), None)


# Packs.


async def _write_packs(store: Store, name: str, batch: Batch, replace: bool, told: Told | None) -> int:
    def look(tx: Tx) -> tuple[CollectionRow | None, _Plan, int]:
        found = rows.find_collection(tx, name)
        return found, _plan(tx, found, batch, replace), rows.now(tx)

    collection, plan, created = await trio.to_thread.run_sync(store.index.view, look)
    if not len(plan.changed):
        return 0
    fresh = plan.fresh(batch)
    if int(batch.raws.sizes[fresh].sum()) < DIRECT_BYTES:
        return await store.index.update(lambda tx: _write_loose(tx, name, batch, replace))
    if collection is None:
        collection = await store.index.update(lambda tx: rows.add_collection(tx, name))
    parts = await trio.to_thread.run_sync(_shares, collection, batch, plan.changed, fresh, created)
    async with writers_lock(store.layout):
        written = await store_packs(store, parts, told)
        try:
            return await store.index.update(
                lambda tx: _commit(tx, name, batch, replace, plan, created, written)
            )
        except BaseException:
            with trio.CancelScope(shield=True):
                await drop_packs(store, written.packs)
            raise


def _commit(
    tx: Tx, name: str, batch: Batch, replace: bool, planned: "_Plan", created: int, written: Written
) -> int:
    collection = rows.add_collection(tx, name)
    plan = _plan(tx, collection, batch, replace)
    if not np.isin(plan.changed, planned.changed).all() or plan.latest >= created:
        raise Stale("the collection has changed")
    make_live(tx, written.packs)
    return _put_rows(tx, collection, batch, plan, created, written)


@dataclass(frozen=True, slots=True)
class _Share:
    """What one pack gets of a batch: records of these places in it, and the vectors of those that are `fresh`.

    `stored`, `codec`: by places in the batch; the vectors' bytes as they are stored, and how.
    """

    collection: CollectionRow
    batch: Batch
    told: Places
    fresh: Places
    stored: Strings
    codec: Places
    created: int

    def columns(self) -> Columns:
        batch, told, fresh = self.batch, self.told.tolist(), self.fresh.tolist()
        numbers = {batch.digests[at]: number for number, at in enumerate(fresh)}
        vector = [numbers.setdefault(batch.digests[at], len(numbers)) for at in told]
        return Columns(
            forms=batch.forms, form=batch.form[self.fresh], codec=self.codec[self.fresh],
            size=self.stored.sizes[self.fresh], digests=list(numbers),
            settings={self.collection.name: self.collection.settings},
            collection=np.zeros(len(told), np.intp), hashes=[batch.hashes[at] for at in told], vector=vector,
            created=np.full(len(told), self.created, np.uint64),
        )  # fmt: skip

    def pieces(self) -> Iterator[bytes]:
        sizes = self.stored.sizes[self.fresh]
        number = (np.cumsum(sizes) - sizes) // PIECE_BYTES
        for each in np.split(self.fresh, np.flatnonzero(np.diff(number)) + 1):
            if len(each):
                yield self.stored.joined(each)


@uncollected()
def _shares(
    collection: CollectionRow, batch: Batch, changed: Places, fresh: Places, created: int
) -> list[_Share]:
    """What is new, shared out over packs of about equal size; each record beside its vector."""
    stored, codec = _stored(collection, batch, fresh)
    sizes = np.zeros(len(batch), np.int64)
    sizes[fresh] = stored.sizes[fresh]
    total = int(sizes.sum())
    share = -(-total // max(1, round(total / PACK_BYTES)))
    count = -(-total // share)
    number = np.minimum((np.cumsum(sizes) - sizes) // share, count - 1)
    numbers = np.arange(count)
    parts = zip(
        *(np.split(ats, np.searchsorted(number[ats], numbers[1:])) for ats in (changed, fresh)), strict=True
    )
    return [_Share(collection, batch, told, new, stored, codec, created) for told, new in parts if len(told)]


def _stored(collection: CollectionRow, batch: Batch, fresh: Places) -> tuple[Strings, Places]:
    """The bytes of the vectors as they are stored, and the codec of each."""
    codec = np.zeros(len(batch), np.intp)
    if collection.codec == "raw":
        return batch.raws, codec
    found: list[bytes] = [b""] * len(batch)
    for at in fresh.tolist():
        form = batch.forms[batch.form[at]]
        vector = vector_to_store(batch.digests[at], form, collection.codec, batch.raws[at])
        found[at], codec[at] = bytes(vector.stored), CODECS.index(vector.codec)
    return Whole(found), codec


# The transaction.


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a batch changes.

    `changed`: places in the batch; `old`: the rows that they replace, by their keys; `known`: where equal vectors lie
    already, encoded.
    """

    changed: Places
    old: dict[bytes, bytes]
    known: dict[bytes, bytes]
    latest: int
    """When the last of what it changes was written or deleted."""

    def fresh(self, batch: Batch) -> Places:
        """The first place in the batch of each vector that lies nowhere yet."""
        digests, known = batch.digests, self.known
        found: dict[bytes, int] = {}
        for at in self.changed.tolist():
            if digests[at] not in known:
                found.setdefault(digests[at], at)
        return np.fromiter(found.values(), np.intp, len(found))


@uncollected()
def _plan(tx: Tx, collection: CollectionRow | None, batch: Batch, replace: bool) -> _Plan:
    known = rows.places_encoded(tx, batch.digests)
    everything = np.arange(len(batch))
    if collection is None:
        return _Plan(everything, {}, known, 0)
    keys = [collection.prefix + content_hash for content_hash in batch.hashes]
    present = tx.get_many("vectors", keys)
    if not present:
        return _Plan(everything, {}, known, max(rows.deleted_at(tx, keys), default=0))
    old: dict[bytes, bytes] = {}
    changed, conflicts = [], []
    for at, key in enumerate(keys):
        value = present.get(key)
        if value is not None:
            digest = batch.digests[at]
            same = rows.has_digest(value, digest)
            if same and value.startswith(known.get(digest, value + b"\0")):
                continue
            if not replace and not same:  # the same one elsewhere: what was there is damaged, and is mended
                conflicts.append(batch.hashes[at].hex())
            old[key] = value
        changed.append(at)
    if conflicts:
        more = f", and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
        raise Exists(
            f"{collection.name}: {conflicts[0]}{more}: has another vector already, which replace=True replaces"
        )
    times = [rows.decode(value).created for value in old.values()] + rows.deleted_at(tx, keys)
    return _Plan(np.array(changed, np.intp), old, known, max(times, default=0))


@uncollected()
def _put_rows(
    tx: Tx, collection: CollectionRow, batch: Batch, plan: _Plan, created: int, written: Written | None
) -> int:
    if not len(plan.changed):
        return 0
    numbers = [rows.form_number(tx, form) for form in batch.forms]
    digests, forms = batch.digests, batch.form.tolist()
    added: dict[bytes, bytes] = {}
    for at in plan.fresh(batch).tolist():
        digest, number = digests[at], numbers[forms[at]]
        if written is None:
            added[digest] = place.encode(rows.put_loose(tx, number, batch.raws[at]))
        elif digest in written.places:
            added[digest] = written.places[digest] + number.to_bytes(4, "big")
        else:
            raise Stale("a vector that was there is gone")
    places, prefix = plan.known | added, collection.prefix
    new = [
        (prefix + batch.hashes[at], rows.encode(places[digests[at]], digests[at], created))
        for at in plan.changed.tolist()
    ]
    rows.put_rows(tx, collection, new, plan.old)
    rows.put_places_encoded(tx, added)
    rows.advance(tx, created)
    keys = [key for key, _ in new]
    if written is None:
        rows.mark_unpacked(tx, keys)
    else:
        rows.settle_unpacked(tx, keys)
    return len(new)
