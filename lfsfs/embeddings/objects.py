"""Objects that are the npz file of a vector: recognised when they are committed, and made when they are read.

The rows are those of lfsfs.store.rendered. An object is made only of a vector that lies in a pack, so that the loss of
the index loses neither: which objects the vectors of a pack make can be found out from the vectors themselves.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import trio

from lfsfs.embeddings import codec, reading, rows
from lfsfs.embeddings.collecting import uncollected
from lfsfs.embeddings.contents import Forms
from lfsfs.embeddings.forms import Form, form_of, raw_bytes
from lfsfs.embeddings.pack import digest_of
from lfsfs.embeddings.place import Place, encode, lengthened
from lfsfs.embeddings.reading import Bytes, Wanted
from lfsfs.embeddings.rows import LOOSE, Row
from lfsfs.errors import Corrupt, InvalidEmbedding, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, packs, rendered, unrecorded
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.roots import Roots
from lfsfs.store.staged_file import Sealed
from lfsfs.store.store import Store
from lfsfs.tiers.local import LocalTier

LIMIT_BYTES = 16 << 20  # a larger file is stored as it is: it would be made as a whole for each reader
SMALL_BYTES = 64 << 10
CHUNK_BYTES = 16 << 20
CHUNK = 10_000
_DERIVED = b"npz_derived\0"  # and the number of a collection: up to when that was done for it
GRACE_SECONDS = (
    7 * 86_400
)  # how long an object is made after nothing refers to it, and nothing else wants the vector


@dataclass(frozen=True, slots=True)
class Made:
    """What an npz file is made of."""

    form: Form
    digest: bytes


class NpzReader:
    """The bytes of an object that was made of its vector, and compared with its oid."""

    def __init__(self, oid: Oid, content: bytes) -> None:
        self.oid = oid
        self.size = len(content)
        self._content = content

    async def __aenter__(self) -> "NpzReader":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to give back."""

    def is_verified(self, offset: int, size: int) -> bool:
        """There is no local file to read around us."""
        return False

    def open_file(self) -> None:
        """There is none."""

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; short only at the end of the object."""
        return self._content[offset : offset + size]


# In.


def examine(sealed: Sealed) -> Made | None:
    """The vector of a file that is byte for byte what lfsfs makes of it; None for any other file."""
    if sealed.size > LIMIT_BYTES:
        return None
    with sealed.open() as file:
        try:
            vector = codec.parse(file)
            if Oid.of(codec.render(vector)) != sealed.oid:
                return None
        except InvalidEmbedding:
            return None
    form = form_of(vector.dtype, vector.shape)
    return Made(form, digest_of(raw_bytes(vector), form.key))


def is_loose(tx: Tx, made: Made) -> bool:
    """Whether the vector lies in no pack yet."""
    place = rows.places(tx, [made.digest]).get(made.digest)
    return place is not None and place[0] == LOOSE


async def adopt(
    store: Store, oid: Oid, made: Made, with_it: Callable[[Tx], None] | None
) -> ObjectStat | None:
    """The row of the object, which is made of the vector from now on. None where no pack has that vector whole."""
    place = store.index.view(lambda tx: _packed(tx, made))
    if place is None or not await _is_whole(store, place, made):
        return None

    def write(tx: Tx) -> ObjectStat | None:
        now_at = _packed(tx, made)
        if now_at is None or catalog.get(tx, oid) is not None:
            return None
        if rendered.get(tx, oid) is None:
            _put(tx, oid, now_at, made.digest, made.form)
        if with_it is not None:
            with_it(tx)
        return rendered.get(tx, oid)

    return await store.index.update(write)


def _packed(tx: Tx, made: Made) -> Place | None:
    place = rows.places(tx, [made.digest]).get(made.digest)
    return None if place is None or place[0] == LOOSE else place


def _put(tx: Tx, oid: Oid, place: Place, digest: bytes, form: Form) -> None:
    if next(rendered.scan(tx), None) is None:
        unrecorded.mark_machine(tx)  # which tells other machines of our packs from now on
    row = rows.encode(encode(place), digest, time.time_ns())
    tx.put("vectors", rendered.key(oid), row)
    rendered.note_size(tx, place[3], codec.npz_size(form))


async def _is_whole(store: Store, place: Place, made: Made) -> bool:
    """Whether the vector can be read: a damaged one must not stand for a file that is whole."""
    row = Row(*place, rows.check_of(made.digest), 0)
    wanted = store.index.view(lambda tx: reading.look_up(tx, rows.table([row.encode()]), made.form))
    try:
        await reading.gather(store, wanted)
    except reading.Moved:
        return False
    return not wanted.errors


# Out.


async def open_npz(store: Store, forms: Forms, oid: Oid) -> NpzReader:
    """NotFound; Corrupt; Moved where its pack was rewritten meanwhile."""
    content = _in_page_cache(store, forms, oid)
    if content is not None:
        return NpzReader(oid, content)

    def look(tx: Tx) -> Wanted:
        value = tx.get("vectors", rendered.key(oid))
        if value is None:
            raise NotFound(f"no object {oid}")
        return reading.look_up(tx, rows.table([value]), rows.find_form(tx, rows.decode(value).form))

    wanted = store.index.view(look)
    out = await reading.gather(store, wanted)
    for error in wanted.errors.values():
        raise Corrupt(f"object {oid} is made of a vector: {error}")
    content = codec.frame_of(wanted.form).render(out[0].tobytes())
    if Oid.of(content) != oid:
        raise Corrupt(f"object {oid} cannot be made of its vector any more: not served")
    return NpzReader(oid, content)


def _in_page_cache(store: Store, forms: Forms, oid: Oid) -> bytes | None:
    """The object, where that takes no more than a read of a small vector which the kernel has in memory.

    git-lfs opens thousands one after another. None where it is not so simple, or where something is wrong.
    """
    if not isinstance(store.tier, LocalTier) or not store.tier.plain:
        return None

    def look(tx: Tx) -> tuple[Row, Form, ObjectStat | None] | None:
        value = tx.get("vectors", rendered.key(oid))
        row = None if value is None else rows.decode(value)
        pack = None if row is None else packs.get(tx, row.pack)
        if row is None or pack is None:
            return None
        return row, forms.get(tx, row.form), catalog.get(tx, pack.oid)

    found = store.index.view(look)
    if found is None:
        return None
    row, form, pack = found
    if pack is None or not 0 < row.size <= SMALL_BYTES or row.size != form.nbytes:
        return None
    raw = bytearray(row.size)
    try:
        fd = os.open(store.tier.path(pack.oid), os.O_RDONLY | os.O_CLOEXEC)
        try:
            got = os.preadv(fd, [raw], row.offset, os.RWF_NOWAIT)
        finally:
            os.close(fd)
    except OSError:
        return None
    content = codec.frame_of(form).render(bytes(raw))
    if got != row.size or Oid.of(content) != oid:
        return None
    store.record_access(pack)
    return content


def pack_of(tx: Tx, oid: Oid) -> Oid:
    """NotFound if the object is not made of a vector."""
    value = tx.get("vectors", rendered.key(oid))
    pack = None if value is None else packs.get(tx, rows.decode(value).pack)
    if pack is None:
        raise NotFound(f"no object {oid} that is made of a vector")
    return pack.oid


# Before anybody commits them: after the loss of an index, and where git-lfs is about to.


async def derive(store: Store) -> int:
    """Makes the row of each object that a vector in a pack makes; how many there are. What is damaged is left out."""
    known = await trio.to_thread.run_sync(store.index.view, _in_packs)
    return await _derive_all(store, known)


async def derive_collection(store: Store, name: str) -> int:
    """The same for vectors of one collection that are in packs since it was last done: git-lfs then finds the object
    of a file that it cleans, and need not commit it.
    """
    known, until = await trio.to_thread.run_sync(store.index.view, lambda tx: _since_last(tx, name))
    made = await _derive_all(store, known)
    if known:
        await store.index.update(lambda tx: _note_derived(tx, name, until))
    return made


def _in_packs(tx: Tx) -> dict[int, list[bytes]]:
    """By the number of the form, rows of all vectors in packs."""
    found: dict[int, list[bytes]] = {}
    for page in tx.pages("vector_digests", rows.PAGE):
        for digest, place in page:
            row = rows.decode(rows.encode(lengthened(place), digest, 0))
            if row.pack != LOOSE:
                found.setdefault(row.form, []).append(row.encode())
    return found


def _since_last(tx: Tx, name: str) -> tuple[dict[int, list[bytes]], int]:
    """And up to when that is all there was: what is in no pack yet comes with a later call."""
    collection = rows.find_collection(tx, name)
    if collection is None:
        return {}, 0
    since = catalog.counter(tx, _DERIVED + collection.prefix)
    found: dict[int, list[bytes]] = {}
    until = rows.last_time(tx)
    for page in rows.pages(tx, collection):
        table = rows.table(value for _, value in page)
        for at in np.flatnonzero(table["created"] > since).tolist():
            row = rows.decode(page[at][1])
            if row.pack == LOOSE:
                until = min(until, row.created - 1)
            else:
                found.setdefault(row.form, []).append(page[at][1])
    return found, until


def _note_derived(tx: Tx, name: str, until: int) -> None:
    collection = rows.find_collection(tx, name)
    if collection is not None:
        tx.put("meta", _DERIVED + collection.prefix, catalog.u64(until))


async def _derive_all(store: Store, known: dict[int, list[bytes]]) -> int:
    made = 0
    for number, values in known.items():
        form = store.index.view(lambda tx, number=number: rows.find_form(tx, number))  # type: ignore[misc]
        if codec.npz_size(form) <= LIMIT_BYTES:
            values.sort()  # as they lie in the packs
            step = max(1, min(CHUNK, CHUNK_BYTES // max(1, form.nbytes)))
            for start in range(0, len(values), step):
                made += await _derive(store, form, values[start : start + step])
    return made


async def _derive(store: Store, form: Form, values: list[bytes]) -> int:
    wanted = store.index.view(lambda tx: reading.look_up(tx, rows.table(values), form))
    out = await reading.gather(store, wanted)
    whole = [at for at in range(len(values)) if at not in wanted.errors]
    made = await trio.to_thread.run_sync(_made_of, form, out, whole)

    def write(tx: Tx) -> int:
        places = rows.places(tx, [digest for _, digest in made])  # as they are now
        new = 0
        for oid, digest in made:
            place = places.get(digest)
            if place is not None and place[0] != LOOSE and rendered.find(tx, oid) is None:
                _put(tx, oid, place, digest, form)
                new += 1
        return new

    return await store.index.update(write)


@uncollected()
def _made_of(form: Form, out: Bytes, whole: Iterable[int]) -> list[tuple[Oid, bytes]]:
    """The oid of the npz file, ascending, and the digest, of each vector."""
    frame, key = codec.frame_of(form), form.key
    raws = (out[at].tobytes() for at in whole)
    return sorted((Oid(hashlib.sha256(frame.render(raw)).hexdigest()), digest_of(raw, key)) for raw in raws)


# Vacuum.


async def forget_unwanted(store: Store, roots: Sequence[Roots] = (), grace: float = GRACE_SECONDS) -> int:
    """Objects that only keep a vector which nothing else wants, and that nothing refers to, for so many seconds: they
    are no objects any more, and the vector goes with the next rewriting. How many. What one of the `roots` needs stays.
    """
    await store.index.flush()
    before = time.time_ns() - int(grace * 1e9)
    unwanted = await trio.to_thread.run_sync(store.index.view, lambda tx: _unwanted(tx, before))
    left = {oid.to_bytes() for oid in unwanted}
    for root in roots if left else ():
        await root.strike(left)
    unwanted = [oid for oid in unwanted if oid.to_bytes() in left]

    def write(tx: Tx) -> int:
        return sum(
            rendered.delete(tx, oid, force=True) for oid in unwanted if not rendered.is_referred_to(tx, oid)
        )

    return await store.index.update(write) if unwanted else 0


def _unwanted(tx: Tx, before: int) -> list[Oid]:
    made: list[tuple[bytes, bytes]] = []
    wanted: list[np.typing.NDArray[np.void]] = []
    for page in tx.pages("vectors", rows.PAGE):
        own = [value for key, value in page if not key.startswith(rendered.PREFIX)]
        wanted.append(rows.table(own)[["pack", "offset"]])
        made += [pair for pair in page if pair[0].startswith(rendered.PREFIX)]
    if not made:
        return []
    table = rows.table(value for _, value in made)
    alone = ~np.isin(_spots(table), _spots(np.concatenate(wanted))) & (table["created"] < before)
    oids = [Oid.from_bytes(made[at][0][4:]) for at in np.flatnonzero(alone).tolist()]
    return [oid for oid in oids if not rendered.is_referred_to(tx, oid)]


def _spots(table: "np.typing.NDArray[np.void]") -> "np.typing.NDArray[np.uint64]":
    """Pack and offset as one number."""
    return table["pack"].astype(np.uint64) << np.uint64(32) | table["offset"].astype(np.uint64)
