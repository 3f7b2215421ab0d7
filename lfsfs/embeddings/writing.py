"""Writing: a batch becomes rows in one transaction, all or nothing.

A large batch goes into packs first, which count for nothing until that transaction; a small one lies in the index until
enough has come for a pack.
"""

import fcntl
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import trio

from lfsfs.embeddings import rows
from lfsfs.embeddings.batch import Batch
from lfsfs.embeddings.collecting import uncollected
from lfsfs.embeddings.forms import Form
from lfsfs.embeddings.pack import Codec, Contents, Record, Vector, compress, head_of
from lfsfs.embeddings.rows import CollectionRow, Place
from lfsfs.errors import Exists, InUse, LfsfsError
from lfsfs.store import packs
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.layout import Layout
from lfsfs.store.packs import Pack, State
from lfsfs.store.staging import Sealed
from lfsfs.store.store import Store, as_error
from lfsfs.store.transfers import Upload

log = logging.getLogger("lfsfs.embeddings")
DIRECT_BYTES = 8 << 20  # what is new in a batch of this size goes into packs of its own
PACK_BYTES = 32 << 20
PIECE_BYTES = 4 << 20
PARALLEL_PACKS = 2
WRITERS_LOCK = "packs.lock"
Told = Callable[[int, int], None]
"""Called with the bytes so far and the bytes in all."""


class Stale(LfsfsError):
    """Somebody else changed, in the meantime, what this was made for: it is done anew."""


@dataclass(slots=True)
class Written:
    """Packs that are stored, and where the vectors in them lie."""

    packs: list[Pack] = field(default_factory=list)
    places: dict[bytes, tuple[int, int, int]] = field(default_factory=dict)
    """Pack, offset and size, by digest."""


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
    if not plan.changed:
        return 0
    fresh = plan.new_digests(batch)
    if sum(len(batch.raws[at]) for at in fresh.values()) < DIRECT_BYTES:
        return await store.index.update(lambda tx: _write_loose(tx, name, batch, replace))
    if collection is None:
        collection = await store.index.update(lambda tx: rows.add_collection(tx, name))
    parts = await trio.to_thread.run_sync(_contents, collection, batch, plan.changed, fresh, created)
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
    if not set(plan.changed) <= set(planned.changed) or plan.latest >= created:
        raise Stale("the collection has changed")
    make_live(tx, written.packs)
    return _put_rows(tx, collection, batch, plan, created, written)


@uncollected()
def _contents(
    collection: CollectionRow, batch: Batch, changed: list[int], fresh: dict[bytes, int], created: int
) -> list[Contents]:
    """What is new, shared out over packs of about equal size; each record beside its vector."""
    total = sum(len(batch.raws[at]) for at in fresh.values())
    share = -(-total // max(1, round(total / PACK_BYTES)))
    parts: list[Contents] = []
    size = share
    for at in changed:
        if size >= share:
            parts.append(Contents(settings={collection.name: collection.settings}))
            size = 0
        digest, part = batch.digests[at], parts[-1]
        part.records.append(Record(collection.name, batch.hashes[at], digest, created))
        if fresh.get(digest) == at:
            vector = vector_to_store(digest, batch.forms[at], collection.codec, batch.raws[at])
            part.vectors.append(vector)
            size += len(vector.stored)
    return parts


def vector_to_store(digest: bytes, form: Form, codec: Codec, raw: bytes | memoryview) -> Vector:
    """Compressed where the codec says so and it makes it smaller."""
    if codec == "zstd" and len(raw):
        packed = compress(raw, form.dtype.itemsize)
        if len(packed) < len(raw):
            return Vector(digest, form, "zstd", packed)
    return Vector(digest, form, "raw", raw)


async def store_packs(store: Store, parts: Sequence[Contents], told: Told | None = None) -> Written:
    """Makes objects of them, which belong to nobody yet. Where one fails none is left."""
    written = Written()
    done: dict[int, Pack] = {}
    total = sum(len(vector.stored) for part in parts for vector in part.vectors)
    so_far = 0
    limiter = trio.CapacityLimiter(PARALLEL_PACKS)

    def count(size: int) -> None:
        nonlocal so_far
        so_far += size
        if told is not None:
            told(so_far, total)

    failures: list[Exception] = []

    async def one(number: int, part: Contents) -> None:
        async with limiter:
            if failures:
                return
            try:
                done[number], offsets = await _store_pack(store, part, count)
            except (LfsfsError, OSError) as failed:
                failures.append(failed)
                return
        for vector, offset in zip(part.vectors, offsets, strict=True):
            written.places[vector.digest] = (done[number].number, offset, len(vector.stored))

    try:
        async with trio.open_nursery() as nursery:
            for number, part in enumerate(parts):
                nursery.start_soon(one, number, part)
        if failures:
            raise failures[0]
    except BaseException:
        with trio.CancelScope(shield=True):
            await drop_packs(store, list(done.values()))
        raise
    written.packs = [done[number] for number in sorted(done)]
    return written


async def _store_pack(
    store: Store, part: Contents, count: Callable[[int], None], state: State = "pending"
) -> tuple[Pack, list[int]]:
    head = await trio.to_thread.run_sync(head_of, part)
    found: list[Pack] = []

    async def commit(sealed: Sealed) -> ObjectStat:
        def with_it(tx: Tx) -> None:
            found[:] = [packs.add(tx, sealed.oid, sealed.size, state)]

        return await store.commit(sealed, with_it)

    offsets, at = [], len(head)
    async with Upload(store.staging, commit, oid=None, size=None, progress=None) as upload:
        await upload.write(head)
        pieces: list[bytes | memoryview] = []
        size = 0
        for vector in part.vectors:
            offsets.append(at)
            at += len(vector.stored)
            pieces.append(vector.stored)
            size += len(vector.stored)
            if size >= PIECE_BYTES:
                await upload.write(b"".join(pieces))
                await trio.lowlevel.checkpoint()
                count(size)
                pieces, size = [], 0
        if size:
            await upload.write(b"".join(pieces))
            count(size)
        await upload.finalize()
    return found[0], offsets


def make_live(tx: Tx, written: Sequence[Pack]) -> None:
    """In the transaction that refers to them. Stale where one is gone."""
    for pack in written:
        present = packs.find(tx, pack.oid)
        if present is None or present.number != pack.number:
            raise Stale("a pack was taken away")
        packs.add(tx, pack.oid, pack.size, "live")


async def drop_packs(store: Store, dropped: Sequence[Pack]) -> None:
    """Deletes packs that hold nothing that counts. Absent is success. What is killed here, the next process ends."""
    if not dropped:
        return

    def drop(tx: Tx) -> None:
        for pack in dropped:
            packs.drop(tx, pack)

    await store.index.update(drop)
    for pack in dropped:
        try:
            if store.lookup(pack.oid) is not None and not await store.why(pack.oid):
                await store.delete(pack.oid)
        except InUse as failed:
            log.info("pack %s is not deleted: %s", pack.oid, failed)
        except (LfsfsError, OSError) as failed:
            log.warning("pack %s is not deleted, which is tried again: %s", pack.oid, failed)
            continue
        await store.index.update(_removing(pack))


def _removing(pack: Pack) -> Callable[[Tx], None]:
    return lambda tx: packs.remove(tx, pack)


@asynccontextmanager
async def writers_lock(layout: Layout) -> AsyncIterator[None]:
    """Held, with others, by whoever writes packs that do not count yet: they are not taken for a dead one's."""
    with (layout.path / WRITERS_LOCK).open("ab") as lock:
        await trio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_SH)
        yield


def try_alone(lock: BinaryIO) -> bool:
    """Whether nobody else holds it; nobody can while it is open here."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# The transaction.


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a batch changes.

    `changed`: places in the batch; `old`: the rows that they replace; `known`: where equal vectors lie already, encoded.
    """

    changed: list[int]
    old: list[bytes]
    known: dict[bytes, bytes]
    latest: int
    """When the last of what it changes was written or deleted."""

    def new_digests(self, batch: Batch) -> dict[bytes, int]:
        """The vectors that lie nowhere yet; the first place in the batch of each."""
        found: dict[bytes, int] = {}
        for at in self.changed:
            if batch.digests[at] not in self.known:
                found.setdefault(batch.digests[at], at)
        return found


@uncollected()
def _plan(tx: Tx, collection: CollectionRow | None, batch: Batch, replace: bool) -> _Plan:
    known = rows.places_encoded(tx, batch.digests)
    everything = list(range(len(batch)))
    if collection is None:
        return _Plan(everything, [], known, 0)
    keys = [collection.prefix + content_hash for content_hash in batch.hashes]
    present = tx.get_many("vectors", keys)
    if not present:
        return _Plan(everything, [], known, max(rows.deleted_at(tx, keys), default=0))
    changed, old, conflicts = [], [], []
    for at, key in enumerate(keys):
        value = present.get(key)
        if value is not None:
            digest = batch.digests[at]
            same = rows.has_digest(value, digest)
            if same and value.startswith(known.get(digest, value + b"\0")):
                continue
            if not replace and not same:  # the same one elsewhere: what was there is damaged, and is mended
                conflicts.append(batch.hashes[at].hex())
            old.append(value)
        changed.append(at)
    if conflicts:
        more = f", and {len(conflicts) - 1} more" if len(conflicts) > 1 else ""
        raise Exists(
            f"{collection.name}: {conflicts[0]}{more}: has another vector already, which replace=True replaces"
        )
    times = [rows.decode(value).created for value in old] + rows.deleted_at(tx, keys)
    return _Plan(changed, old, known, max(times, default=0))


@uncollected()
def _put_rows(
    tx: Tx, collection: CollectionRow, batch: Batch, plan: _Plan, created: int, written: Written | None
) -> int:
    if not plan.changed:
        return 0
    numbers = {id(form): rows.form_number(tx, form) for form in {id(f): f for f in batch.forms}.values()}
    added: dict[bytes, Place] = {}
    for digest, at in plan.new_digests(batch).items():
        number = numbers[id(batch.forms[at])]
        if written is None:
            added[digest] = rows.put_loose(tx, number, batch.raws[at])
        elif digest in written.places:
            added[digest] = (*written.places[digest], number)
        else:
            raise Stale("a vector that was there is gone")
    places = {**plan.known, **{digest: rows.encode_place(place) for digest, place in added.items()}}
    new = [
        (
            collection.prefix + batch.hashes[at],
            rows.encode(places[batch.digests[at]], batch.digests[at], created),
        )
        for at in plan.changed
    ]
    rows.put_rows(tx, collection, new, plan.old)
    rows.put_places(tx, added.items())
    rows.advance(tx, created)
    keys = [key for key, _ in new]
    if written is None:
        rows.mark_unpacked(tx, keys)
    else:
        rows.settle_unpacked(tx, keys)
    return len(new)
