"""Collection: the vectors of one name, by the hash of the content that each was computed from."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, TypeVar

import numpy as np
import trio
from numpy.typing import ArrayLike

from lfsfs import steps
from lfsfs.embeddings import codec, packing, pointers, reading, rows, writing
from lfsfs.embeddings.batch import Vectors, prepare
from lfsfs.embeddings.collecting import uncollected
from lfsfs.embeddings.contents import Contents, Forms
from lfsfs.embeddings.forms import Array, Form
from lfsfs.embeddings.listing import Listing, Listings
from lfsfs.embeddings.pack import Codec
from lfsfs.embeddings.reading import Moved
from lfsfs.embeddings.rows import CollectionRow
from lfsfs.errors import Corrupt, InvalidEmbedding, LfsfsError, NotFound
from lfsfs.store.index import Tx
from lfsfs.store.store import Store

TRIES = 8  # a pack that is rewritten under a reader sends it back to the rows
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """Totals of a collection. Sizes in bytes.

    `raw`: of all vectors; `stored`: of their bytes in packs and index; `saved`: what equal vectors would have added.
    `forms`: how many there are of each dtype and shape; `mean`: over all, where they have one form of numbers.
    """

    count: int
    forms: dict[tuple[str, tuple[int, ...]], int]
    raw: int
    stored: int
    saved: int
    loose: int
    packs: int
    mean: Array | None


class Found(dict[str, Array]):
    """Vectors by what they were asked for as. What could not be read is in `missing` and `corrupt`, and asking for it
    raises what was wrong with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missing: list[str] = []
        self.corrupt: dict[str, LfsfsError] = {}
        self.unfetched: dict[str, LfsfsError] = {}
        """Of those that are missing: why what a pointer names could not be had."""

    def __missing__(self, key: str) -> Array:
        for errors in (self.corrupt, self.unfetched):
            if key in errors:
                raise errors[key]
        raise NotFound(f"no embedding {key}")


class Collection(Contents):
    """Any number of tasks of the store's trio run may use it at once. It exists from the first write on.

    Where a content hash is asked for, its path does as well: `embeddings/<collection>/<content_hash>.npz` of this
    collection, or any other path that ends in `<content_hash>.npz`.
    """

    def __init__(
        self, store: Store, name: str, forms: Forms, listings: Listings,
        before: Callable[[], Awaitable[None]], after: Callable[[], Awaitable[None]],
    ) -> None:  # fmt: skip
        super().__init__(store.index, name, forms)
        self._store = store
        self._listings = listings
        self._before = before
        self._after = after

    # In.

    async def write_embedding(self, content_hash: str, vector: ArrayLike, *, replace: bool = False) -> str:
        """Stores a vector; its path. Again the same one: nothing happens. Exists where there is another one."""
        return (await self.write_embeddings_batch({content_hash: vector}, replace=replace))[0]

    async def write_embeddings_batch(
        self, vectors: Vectors, *, replace: bool = False, told: packing.Told | None = None
    ) -> list[str]:
        """Stores all of them, or (on any error, a kill, a power cut) none; their paths, in the order given.

        `vectors`: {content hash: vector}, or (content hashes, matrix with a row for each). Exists where another vector
        is there under a content hash, unless `replace`. InvalidEmbedding, InvalidOid, NoSpace.
        """
        await self._before()
        batch = await trio.to_thread.run_sync(prepare, vectors)
        await writing.write(self._store, self.name, batch, replace=replace, told=told)
        await self._after()
        hashes = vectors[0] if isinstance(vectors, tuple) else vectors
        return [self.path(content_hash) for content_hash in hashes]

    async def write_npz(self, content_hash: str, file: IO[bytes], *, replace: bool = False) -> str:
        """Stores the vector of an npz file; its path. InvalidEmbedding where the file is none."""
        vector = await trio.to_thread.run_sync(codec.parse, file)
        return await self.write_embedding(content_hash, vector, replace=replace)

    async def set_codec(self, codec: Codec | None) -> None:
        """How what is written from now on is packed (None: as before, or `raw`). The collection exists from now on."""
        await self._index.update(lambda tx: rows.add_collection(tx, self.name, codec))

    async def delete(self, hashes: str | Iterable[str]) -> int:
        """Removes vectors; how many there were. Absent is success. Their bytes go when packs are rewritten."""
        await self._before()
        keys = [self.hash_of(text) for text in ([hashes] if isinstance(hashes, str) else hashes)]
        return await self._index.update(lambda tx: _delete(tx, self.name, keys))

    async def cleanup_orphans(self, referenced: Iterable[str], *, dry_run: bool = True) -> list[str]:
        """The content hashes that are not among those `referenced`; unless `dry_run`, their vectors are removed."""
        keep = {self.hash_of(text) for text in referenced}
        orphans = [text async for text in self.iter() if bytes.fromhex(text) not in keep]
        if not dry_run:
            await self.delete(orphans)
        return orphans

    # Out.

    async def read_embedding(self, content_hash: str) -> Array:
        """The vector, an array of its own. NotFound; Corrupt."""
        return (await self.read_embeddings_batch([content_hash]))[content_hash]

    async def read_embeddings_batch(self, hashes: Iterable[str]) -> Found:
        """The vectors, by what each was asked for as. What is missing or corrupt is told, not left out in silence.

        A path at which a pointer of git-lfs lies is read through it: the vector is that of the object that it names,
        which git-lfs fetches, all that are missing at once, where the store has not got it. A path whose content hash
        the collection has not got is the npz file that lies there.
        """
        wanted = list(dict.fromkeys(hashes))
        keys = [self.hash_of(text) for text in wanted]
        await self._before()
        pointed = await trio.to_thread.run_sync(pointers.find, wanted)
        plain = [(text, key) for text, key in zip(wanted, keys, strict=True) if text not in pointed]
        found = await again(lambda: self._read([text for text, _ in plain], [key for _, key in plain]))
        if pointed:
            self._take(found, await again(lambda: pointers.read(self._store, dict(pointed))))
        missing = [text for text in found.missing if text not in pointed]
        if missing:
            self._take(found, await trio.to_thread.run_sync(pointers.read_files, missing))
        return found

    def _take(self, found: Found, through: pointers.Through) -> None:
        """What was read by way of files."""
        found.update(through.vectors)
        found.missing = [text for text in found.missing if text not in through.vectors]
        for text, error in through.errors.items():
            if isinstance(error, Corrupt | InvalidEmbedding):
                found.corrupt[text] = error
                found.missing = [other for other in found.missing if other != text]
            else:
                found.unfetched[text] = error
                found.missing.append(text)

    async def _read(self, wanted: list[str], keys: list[bytes]) -> Found:
        found = Found()

        def look(
            tx: Tx,
        ) -> tuple[dict[bytes, bytes], dict[int, reading.Wanted], dict[int, list[str]]]:
            collection = rows.find_collection(tx, self.name)
            if collection is None:
                return {}, {}, {}
            full = [collection.prefix + key for key in keys]
            values = tx.get_many("vectors", full)
            by_form: dict[int, tuple[list[bytes], list[str]]] = {}
            for text, key in zip(wanted, full, strict=True):
                value = values.get(key)
                if value is not None:
                    group = by_form.setdefault(rows.decode(value).form, ([], []))
                    group[0].append(value)
                    group[1].append(text)
            asked = {
                form: reading.look_up(tx, rows.table(group[0]), self._forms.get(tx, form))
                for form, group in by_form.items()
            }
            return values, asked, {form: group[1] for form, group in by_form.items()}

        _, asked, names = await trio.to_thread.run_sync(self._index.view, look)
        for form, group in asked.items():
            out = await reading.gather(self._store, group)
            found.update(zip(names[form], _each(_shaped(out, group.form)), strict=True))
            for place, error in group.errors.items():
                text = names[form][place]
                del found[text]
                found.corrupt[text] = Corrupt(f"embedding {text}: {error}")
        found.missing = [text for text in wanted if text not in found and text not in found.corrupt]
        return found

    async def matrix(self, hashes: Iterable[str] | None = None) -> tuple[list[str], Array]:
        """The content hashes, and an array with the vector of each as a row: of these, or of all, ascending.

        InvalidEmbedding where they are not all of one dtype and shape; NotFound, Corrupt where one cannot be read.
        """
        await self._before()
        wanted = None if hashes is None else [self.hash_of(text) for text in hashes]
        return await again(lambda: self._matrix(wanted))

    async def _matrix(self, wanted: list[bytes] | None) -> tuple[list[str], Array]:
        def look(tx: Tx) -> tuple[Listing, reading.Wanted | None]:
            chosen = self._chosen(tx, wanted)
            table = chosen.table
            if not len(table):
                return chosen, None
            return chosen, reading.look_up(tx, table, self._forms.get(tx, _only_form(table, self.name)))

        chosen, asked = await trio.to_thread.run_sync(self._index.view, look)
        if asked is None:
            return [], np.empty((0, 0), np.float32)
        failures: list[LfsfsError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, lambda: chosen.hashes)
            try:
                out = await reading.gather(self._store, asked)
            except LfsfsError as failed:
                failures.append(failed)
        if failures:
            raise failures[0]
        hashes = chosen.hashes
        if asked.errors:
            place, error = min(asked.errors.items())
            more = f" ({len(asked.errors) - 1} more like it)" if len(asked.errors) > 1 else ""
            raise Corrupt(f"embedding {hashes[place]}: {error}{more}")
        return hashes.copy(), _shaped(out, asked.form)

    def _chosen(self, tx: Tx, wanted: list[bytes] | None) -> Listing:
        """Content hashes and rows: those wanted, in their order, or all. NotFound where one is not there."""
        collection = rows.find_collection(tx, self.name)
        if collection is None:
            if wanted:
                raise NotFound(f"no collection {self.name!r} of embeddings")
            return Listing(rows.table(()), [])
        if wanted is not None:
            return _some(tx, collection, wanted)
        return self._listings.get(tx, collection)

    async def contains(self, hashes: str | Sequence[str]) -> bool | list[bool]:
        """Whether there is a vector; of several, for each."""
        await self._before()
        one = isinstance(hashes, str)
        keys = [self.hash_of(text) for text in ([hashes] if isinstance(hashes, str) else hashes)]

        def look(tx: Tx) -> list[bool]:
            collection = rows.find_collection(tx, self.name)
            if collection is None:
                return [False] * len(keys)
            full = [collection.prefix + key for key in keys]
            values = tx.get_many("vectors", full)
            return [key in values for key in full]

        found = await trio.to_thread.run_sync(self._index.view, look)
        return found[0] if one else found

    async def render_batch(self, content_hashes: list[str]) -> dict[str, bytes]:
        """The npz files of vectors; without what cannot be read."""
        found = await self.read_embeddings_batch(content_hashes)
        return await trio.to_thread.run_sync(_rendered, found)

    async def render(self, content_hash: str) -> bytes:
        """The npz file of a vector; always the same bytes. NotFound; Corrupt."""
        return codec.render(await self.read_embedding(content_hash))

    # Lists.

    async def iter(self) -> AsyncIterator[str]:
        """The content hashes, ascending. What is written meanwhile may or may not be among them."""
        await self._before()
        after: str | None = None
        while page := await trio.to_thread.run_sync(partial(self.hashes, after)):
            for content_hash in page:
                yield content_hash
            after = page[-1]

    async def stats(self, *, mean: bool = True) -> CollectionStats:
        """Totals. Reads every row, and for the mean every vector."""
        await self._before()
        table, forms = await trio.to_thread.run_sync(self._index.view, self._rows_and_forms)
        places, first = np.unique(table[["pack", "offset", "size"]], return_index=True)
        sizes = np.zeros(max(forms, default=0) + 1, np.int64)
        for number, form in forms.items():
            sizes[number] = form.nbytes
        raw = sizes[table["form"]]
        counts = {
            (str(form.dtype), form.shape): int((table["form"] == number).sum())
            for number, form in forms.items()
        }
        return CollectionStats(
            count=len(table), forms=counts, raw=int(raw.sum()), stored=int(places["size"].sum(dtype=np.int64)),
            saved=int(raw.sum() - raw[first].sum()), loose=int((table["pack"] == rows.LOOSE).sum()),
            packs=int(np.unique(places["pack"][places["pack"] != rows.LOOSE]).size),
            mean=await self._mean(forms) if mean else None,
        )  # fmt: skip

    def _rows_and_forms(self, tx: Tx) -> tuple["np.typing.NDArray[np.void]", dict[int, Form]]:
        table = self._chosen(tx, None).table
        return table, {number: self._forms.get(tx, number) for number in np.unique(table["form"]).tolist()}

    async def _mean(self, forms: dict[int, Form]) -> Array | None:
        if len(forms) != 1 or next(iter(forms.values())).dtype.kind not in "biufc":
            return None
        total, count = None, 0
        steps.begin("mean", self.count(), "vectors")
        async for _, block in self.blocks():
            steps.add(len(block))
            summed = block.sum(axis=0, dtype=np.result_type(block.dtype, np.float64))
            total, count = summed if total is None else total + summed, count + len(block)
        return None if total is None else np.asarray(total / count)

    async def blocks(self, size: int = rows.PAGE) -> AsyncIterator[tuple[list[str], Array]]:
        """The collection as matrices of `size` rows, ascending. InvalidEmbedding where forms differ within one."""
        page: list[str] = []
        async for content_hash in self.iter():
            page.append(content_hash)
            if len(page) == size:
                yield await self.matrix(page)
                page = []
        if page:
            yield await self.matrix(page)


@uncollected()
def _rendered(found: Found) -> dict[str, bytes]:
    return {content_hash: codec.render(vector) for content_hash, vector in found.items()}


async def again(read: Callable[[], Awaitable[T]]) -> T:
    """Reads once more when a pack was rewritten meanwhile."""
    for _ in range(TRIES - 1):
        try:
            return await read()
        except Moved:
            continue
    return await read()


def _shaped(out: reading.Bytes, form: Form) -> Array:
    shape = (len(out), *form.shape)
    if not form.nbytes:
        return np.empty(shape, form.dtype)
    return out.reshape(-1).view(form.dtype).reshape(shape)


def _each(matrix: Array) -> Iterable[Array]:
    """Its rows; of a row of numbers arrays as well, where numpy would give scalars, which have no byte order."""
    return matrix if matrix.ndim > 1 else (matrix[at : at + 1].reshape(()) for at in range(len(matrix)))


@uncollected()
def _some(tx: Tx, collection: CollectionRow, wanted: list[bytes]) -> Listing:
    full = [collection.prefix + key for key in wanted]
    found = tx.get_many("vectors", full)
    missing = [key for key in full if key not in found]
    if missing:
        more = f", nor {len(missing) - 1} more of these" if len(missing) > 1 else ""
        raise NotFound(f"no embedding {missing[0][4:].hex()} in {collection.name}{more}")
    return Listing(rows.table(found[key] for key in full), [key.hex() for key in wanted])


def _only_form(table: "np.typing.NDArray[np.void]", name: str) -> int:
    first = int(table["form"][0])
    if not (table["form"] == first).all():
        raise InvalidEmbedding(f"{name} has vectors of different dtypes or shapes: they make no matrix")
    return first


def _delete(tx: Tx, name: str, keys: list[bytes]) -> int:
    collection = rows.find_collection(tx, name)
    if collection is None:
        return 0
    present = tx.get_many("vectors", [collection.prefix + key for key in keys])
    if not present:
        return 0
    for key in present:
        tx.delete("vectors", key)
    when = rows.now(tx)
    rows.mark_deleted(tx, sorted(present), when)
    rows.count_forms(tx, collection, rows.table(present.values())["form"], -1)
    rows.touch(tx, collection)
    rows.tell_changed(tx, collection, present)
    rows.advance(tx, when)
    return len(present)
