"""Cache: which residents of the local disk are open, which must stay, which go when room is wanted."""

import time

import trio

from lfsfs.oid import Oid
from lfsfs.store import journal, residents
from lfsfs.store.index import Index, Tx
from lfsfs.tiers.local import LocalTier

TOUCH_NS = 10**9  # a use within a second of the last one recorded is not recorded


class Cache:
    """The evictable part of the local disk. Used from one trio thread.

    An object is busy while it is open (`hold`), and on its way out while `drop` removes it: then it counts as absent.
    """

    def __init__(self, index: Index, local: LocalTier) -> None:
        self.leaving: set[Oid] = set()
        self._index = index
        self._files = local
        self._held: dict[Oid, int] = {}

    def has(self, oid: Oid) -> bool:
        """Whether the local disk has the object, uploaded or not, as far as the index knows."""
        if oid in self.leaving:
            return False
        return self._index.view(lambda tx: (residents.get(tx, oid) or journal.get(tx, oid)) is not None)

    def is_held(self, oid: Oid) -> bool:
        return oid in self._held

    def hold(self, oid: Oid) -> None:
        """It is open: not to be evicted until as many `unhold` have come."""
        self._held[oid] = self._held.get(oid, 0) + 1

    def unhold(self, oid: Oid) -> None:
        self._held[oid] -= 1
        if not self._held[oid]:
            del self._held[oid]
        self._touch(oid)

    def _touch(self, oid: Oid) -> None:
        present = self._index.view(lambda tx: residents.get(tx, oid))
        now = time.time_ns()
        if present is not None and now - present.used > TOUCH_NS:
            self._index.defer(lambda tx: residents.touch(tx, oid, now))

    async def remove_file(self, oid: Oid) -> None:
        """The file alone; the row is somebody else's concern. What can be fetched again need not go durably."""
        await self._files.delete(oid)

    async def drop(self, oids: list[Oid]) -> None:
        """Takes residents from the local disk: the file first, the row after it."""
        if not oids:
            return
        self.leaving.update(oids)
        try:
            with trio.CancelScope(shield=True):
                for oid in oids:
                    await self._files.delete(oid)
                await self._index.update(lambda tx: [residents.drop(tx, oid) for oid in oids])
        finally:
            self.leaving.difference_update(oids)

    def victims(self, size: int, busy: frozenset[Oid]) -> tuple[list[Oid], int]:
        """Residents that may go, least recently used first, until they make `size` bytes; and how many they make."""

        def look(tx: Tx) -> tuple[list[Oid], int]:
            found: list[Oid] = []
            freed = 0
            for oid in residents.least_recently_used(tx):
                if freed >= size:
                    break
                if oid in self._held or oid in busy or oid in self.leaving or residents.is_pinned(tx, oid):
                    continue
                present = residents.get(tx, oid)
                if present is not None:
                    found.append(oid)
                    freed += present.room
            return found, freed

        return self._index.view(look)
