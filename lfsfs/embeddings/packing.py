"""Packing: vectors become packs, objects that belong to nobody until a transaction refers to them."""

import fcntl
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import trio

from lfsfs import steps
from lfsfs.embeddings.collecting import uncollected
from lfsfs.embeddings.forms import Form
from lfsfs.embeddings.pack import Codec, Columns, Vector, compress, head_of
from lfsfs.embeddings.place import Place, decode
from lfsfs.errors import InUse, LfsfsError
from lfsfs.oid import Oid
from lfsfs.store import journal, packs, unrecorded
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.layout import Layout
from lfsfs.store.packs import Pack, State
from lfsfs.store.staged_file import Sealed
from lfsfs.store.store import Store
from lfsfs.store.transfers import Upload

log = logging.getLogger("lfsfs.embeddings")
PACK_BYTES = 32 << 20
PARALLEL_PACKS = 2
WRITERS_LOCK = "packs.lock"
Told = Callable[[int, int], None]
"""Called with the bytes so far and the bytes in all."""


class Stale(LfsfsError):
    """Somebody else changed, in the meantime, what this was made for: it is done anew."""


class Content(Protocol):
    """What goes into one pack."""

    def columns(self) -> Columns: ...

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the vectors, one after another."""


@dataclass(slots=True)
class Written:
    """Packs that are stored, and where the vectors in them lie."""

    packs: list[Pack] = field(default_factory=list)
    places: dict[bytes, bytes] = field(default_factory=dict)
    """By digest: a place as rows have it, but for the form at its end."""

    def place(self, digest: bytes, form: int) -> Place:
        return decode(self.places[digest] + form.to_bytes(4, "big"))


def vector_to_store(digest: bytes, form: Form, codec: Codec, raw: bytes | memoryview) -> Vector:
    """Compressed where the codec says so and it makes it smaller."""
    if codec == "zstd" and len(raw):
        packed = compress(raw, form.dtype.itemsize)
        if len(packed) < len(raw):
            return Vector(digest, form, "zstd", packed)
    return Vector(digest, form, "raw", raw)


async def store_packs(store: Store, parts: Sequence[Content], told: Told | None = None) -> Written:
    """Makes objects of them, which belong to nobody yet. Where one fails none is left."""
    written = Written()
    done: dict[int, Pack] = {}
    columns = [part.columns() for part in parts]
    total = sum(int(np.sum(each.size)) for each in columns)
    so_far = 0
    limiter = trio.CapacityLimiter(PARALLEL_PACKS)

    def count(size: int) -> None:
        nonlocal so_far
        so_far += size
        steps.add(size)
        if told is not None:
            told(so_far, total)

    failures: list[Exception] = []

    async def one(number: int, part: Content) -> None:
        async with limiter:
            if failures:
                return
            try:
                done[number], start = await _store_pack(store, columns[number], part, count)
            except (LfsfsError, OSError) as failed:
                failures.append(failed)
                return
        written.places.update(_places(columns[number], done[number], start))

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


def _places(columns: Columns, pack: Pack, start: int) -> Iterator[tuple[bytes, bytes]]:
    """Digest and place of each vector of a pack whose vectors begin at `start`."""
    sizes = np.asarray(columns.size, np.int64)
    table = np.empty((len(sizes), 3), ">u4")
    table[:, 0], table[:, 1], table[:, 2] = pack.number, start + np.cumsum(sizes) - sizes, sizes
    encoded, width = table.tobytes(), table.itemsize * 3
    places = (encoded[at : at + width] for at in range(0, len(encoded), width))
    return zip(columns.digests, places, strict=False)  # the other digests are of vectors elsewhere


async def _store_pack(
    store: Store, columns: Columns, part: Content, count: Callable[[int], None], state: State = "pending"
) -> tuple[Pack, int]:
    """The pack, and where its vectors begin."""
    head = await trio.to_thread.run_sync(uncollected()(head_of), columns)
    found: list[Pack] = []

    async def commit(sealed: Sealed) -> ObjectStat:
        def with_it(tx: Tx) -> None:
            found[:] = [packs.add(tx, sealed.oid, sealed.size, state)]

        return await store.commit(sealed, with_it)

    async with Upload(store.staging, commit, oid=None, size=None, progress=None) as upload:
        await upload.write(head)
        pieces = part.pieces()
        while (piece := await trio.to_thread.run_sync(next, pieces, b"")) != b"":
            await upload.write(piece)
            count(len(piece))
        await upload.finalize()
    return found[0], len(head)


def make_live(tx: Tx, written: Sequence[Pack]) -> None:
    """In the transaction that refers to them. Stale where one is gone."""
    for pack in written:
        present = packs.find(tx, pack.oid)
        if present is None or present.number != pack.number:
            raise Stale("a pack was taken away")
        packs.add(tx, pack.oid, pack.size, "live")


async def drop_packs(store: Store, dropped: Sequence[Pack]) -> None:
    """Deletes packs that hold nothing that counts. Absent is success. What is killed here, the next process ends; what
    has to wait (`may_go`), the daemon, or the next vacuum.
    """
    if not dropped:
        return

    def drop(tx: Tx) -> None:
        for pack in dropped:
            packs.drop(tx, pack)

    await store.index.update(drop)
    for pack in dropped:
        if not store.index.view(lambda tx, pack=pack: may_go(tx, pack)):  # type: ignore[misc]
            continue
        try:
            if store.lookup(pack.oid) is not None and not await store.why(pack.oid):
                await _delete(store, pack.oid)
        except InUse as failed:
            log.info("pack %s is not deleted: %s", pack.oid, failed)
        except (LfsfsError, OSError) as failed:
            log.warning("pack %s is not deleted, which is tried again: %s", pack.oid, failed)
            continue
        await store.index.update(_removing(pack))


async def _delete(store: Store, oid: Oid) -> None:
    """Where other machines may use it, as they may make objects of its vectors, it leaves the bucket as what gc takes
    does: by `lfsfs vacuum`, when all have answered that they do not need it.
    """
    if store.remote is None or store.index.view(lambda tx: journal.get(tx, oid)) is not None:
        await store.delete(oid)
    else:
        await store.discard(oid, reason="pack")


def may_go(tx: Tx, pack: Pack) -> bool:
    """Whether the bucket can do without a pack that was dropped: it never had it, or has all those that count by now,
    and that they are packs is recorded. If not, what moved into another pack would be lost with this disk.
    """
    if journal.get(tx, pack.oid) is not None:
        return True
    changed = {shard for shard, _ in unrecorded.shards(tx)}
    return not any(
        journal.get(tx, live.oid) is not None or unrecorded.reference_shard(live.oid.to_bytes()[0]) in changed
        for live in packs.every(tx, "live")
    )


def _removing(pack: Pack) -> Callable[[Tx], None]:
    return lambda tx: packs.remove(tx, pack)


@asynccontextmanager
async def writers_lock(layout: Layout) -> AsyncIterator[None]:
    """Held, with others, by whoever writes packs that do not count yet: they are not taken for a dead one's."""
    with (layout.path / WRITERS_LOCK).open("ab") as lock:
        await trio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_SH)
        yield
