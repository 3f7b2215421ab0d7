"""Embeddings: the collections of a store; itself the collection that is used when none is named."""

import logging
from collections.abc import Callable, Sequence

import trio

from lfsfs.embeddings import objects, recovery, rewriting, rows
from lfsfs.embeddings.collection import Collection, again
from lfsfs.embeddings.contents import Forms
from lfsfs.embeddings.elsewhere import Elsewhere
from lfsfs.embeddings.listing import Listings
from lfsfs.embeddings.objects import NpzReader
from lfsfs.embeddings.pack import Codec
from lfsfs.embeddings.rewriting import Rewritten
from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.store import rendered
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.roots import Roots
from lfsfs.store.staged_file import Sealed
from lfsfs.store.store import Store

log = logging.getLogger("lfsfs.embeddings")
DEFAULT = "default"
LOOSE_LIMIT_BYTES = 16 << 20  # so much that lies in the index itself is packed
UNPACKED_LIMIT = 200_000  # or so many rows of which no pack tells
PACK_AFTER_SECONDS = 60.0  # what was written singly is in a pack (and with S3 on its way) after about as long
LOOK_SECONDS = 5.0
TRIM_SECONDS = 60.0


class Embeddings(Collection):
    """All collections of one open store, and the methods of the one named `default`."""

    def __init__(self, store: Store) -> None:
        self._known_forms = Forms()
        self._listings = Listings()
        self._settling = trio.Lock()
        self._deriving = trio.Lock()
        self._elsewhere = Elsewhere(store)
        self._cleaned = False
        self._unreadable: set[int] = set()
        super().__init__(store, DEFAULT, self._known_forms, self._listings, self.settle, self._pack_if_due)

    def collection(self, name: str) -> Collection:
        """The collection of that name, whether it exists yet or not. InvalidName."""
        return Collection(
            self._store, name, self._known_forms, self._listings, self.settle, self._pack_if_due
        )

    def collections(self) -> list[str]:
        """The names of those that exist, ascending."""
        return [found.name for found in self._index.view(rows.collections)]

    async def create(self, name: str, codec: Codec | None = None) -> Collection:
        """The collection, which exists from now on. `codec`: how it is packed from now on (`raw` unless it is told)."""
        collection = self.collection(name)
        await collection.set_codec(codec)
        return collection

    async def remove(self, name: str) -> int:
        """Removes a collection with all its vectors; how many there were. NotFound."""
        self._index.view(lambda tx: rows.need(tx, name))
        removed = 0
        while page := [stat.content_hash for stat in self.collection(name).page(limit=rows.PAGE)]:
            removed += await self.collection(name).delete(page)
        await self._index.update(lambda tx: _remove_empty(tx, name))
        return removed

    async def pack(self) -> Rewritten:
        """Puts into packs what lies in the index itself: from then on it survives the loss of the index."""
        await self.settle()
        return await rewriting.rewrite(self._store, self._known_forms)

    async def vacuum(self, roots: Sequence[Roots] = ()) -> Rewritten:
        """Packs what is loose, rewrites packs that hold much that was deleted or replaced, and trims the index.

        `roots`: what may need objects that are made of vectors, and is not in the index. RootUnreadable.
        """
        await self.settle()
        await objects.forget_unwanted(self._store, roots)
        await rewriting.forget_foreign(self._store)
        done = await rewriting.rewrite(self._store, self._known_forms, thorough=True)
        await recovery.clean(self._store)
        await self._index.trim()
        return done

    async def run(self) -> None:
        """Packs, for ever, what has lain in the index for a while; trims it: the daemon of a store does so."""
        since: float | None = None
        last, trimmed = 0, trio.current_time() - TRIM_SECONDS
        while True:
            last, before = self._index.last_transaction(), last
            if last == before and trio.current_time() - trimmed > TRIM_SECONDS:  # a quiet moment
                trimmed = trio.current_time()
                try:
                    await self._index.trim()
                except (LfsfsError, OSError) as failed:
                    log.error("the index was not trimmed, which is tried again: %s", failed)
            if self._index.view(recovery.droppable):
                await recovery.clean(self._store)
            waiting = self._index.view(rows.unpacked_count)
            if not waiting:
                since = None
            elif since is None:
                since = trio.current_time()
            elif trio.current_time() - since > PACK_AFTER_SECONDS:
                since = None
                try:
                    await self.pack()
                except (LfsfsError, OSError) as failed:
                    log.error("embeddings written singly are not packed, which is tried again: %s", failed)
            await trio.sleep(LOOK_SECONDS)

    # Objects that are the npz file of a vector: what the store asks.

    async def adopt_npz(self, sealed: Sealed, with_it: Callable[[Tx], None] | None) -> ObjectStat | None:
        """Makes the file an object that is made of a vector, if a pack has that; None, and nothing done, if none has.

        `with_it` writes in the same transaction.
        """
        made = await trio.to_thread.run_sync(objects.examine, sealed)
        if made is None:
            return None
        await self.settle()
        if self._index.view(lambda tx: objects.is_loose(tx, made)):
            try:
                await self.pack()
            except (LfsfsError, OSError) as failed:
                log.warning(
                    "a vector is stored a second time, as an npz file, since packing failed: %s", failed
                )
        return await objects.adopt(self._store, sealed.oid, made, with_it)

    async def open_npz(self, oid: Oid) -> NpzReader:
        """The bytes of an object that is made of a vector. NotFound; Corrupt where the vector is damaged."""
        return await again(lambda: objects.open_npz(self._store, self._known_forms, oid))

    async def is_npz_whole(self, oid: Oid) -> bool:
        """Whether the object can be made."""
        try:
            (await self.open_npz(oid)).close()
        except (Corrupt, NotFound):
            return False
        return True

    def pack_of_npz(self, oid: Oid) -> Oid:
        """The pack that has the vector of which the object is made. NotFound."""
        return self._index.view(lambda tx: objects.pack_of(tx, oid))

    async def discover_npz(self, oid: Oid) -> bool:
        """Whether another machine on the remote tier makes this object of a vector, and from now on this one does."""
        if not await self._elsewhere.find_packs(oid):
            return False
        await self.derive_npz()
        return self._index.view(lambda tx: rendered.get(tx, oid)) is not None

    async def derive_npz(self) -> int:
        """After the loss of an index: finds out which objects the vectors of all packs make; how many there are."""
        await self.settle()
        async with self._deriving:
            since = self._index.view(rendered.incomplete)
            if since is None:
                return 0
            made = await again(lambda: objects.derive(self._store))
            await self._index.update(lambda tx: rendered.mark_complete(tx, since))
            return made

    async def derive_npz_of(self, name: str) -> int:
        """Finds out which objects are made of the vectors that have come into packs since it was last done for this
        collection; how many there are.
        """
        await self.settle()
        return await again(lambda: objects.derive_collection(self._store, name))

    async def settle(self) -> None:
        """After a crash, or a rebuild of the index: nothing half done is left, and what packs tell is known."""
        unread = {pack.number for pack in self._index.view(recovery.unread)}
        if self._cleaned and unread <= self._unreadable:
            return
        async with self._settling:
            if not self._cleaned:
                await recovery.clean(self._store)
                self._cleaned = True
            await recovery.take_in(self._store, self._unreadable)

    async def _pack_if_due(self) -> None:
        size, count = self._index.view(lambda tx: (rows.loose_bytes(tx), rows.unpacked_count(tx)))
        if size > LOOSE_LIMIT_BYTES or count > UNPACKED_LIMIT:
            await rewriting.rewrite(self._store, self._known_forms)


def _remove_empty(tx: Tx, name: str) -> None:
    collection = rows.find_collection(tx, name)
    if collection is not None and not rows.form_counts(tx, collection):
        rows.remove_collection(tx, collection)
