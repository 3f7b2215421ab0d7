"""Content types that were not told at the commit, which has no time for it: a look at the bytes takes milliseconds."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from lfsfs.errors import LfsfsError
from lfsfs.oid import Oid
from lfsfs.store import catalog
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.mime import HEAD_BYTES, type_of
from lfsfs.tiers.local import LocalTier

if TYPE_CHECKING:
    from lfsfs.store.store import Store

log = logging.getLogger("lfsfs.store")
PAGE = 64
PAUSE_SECONDS = 1.0
RETRY_SECONDS = 10.0  # after the index took nothing
UNREADABLE = "application/octet-stream"
_UNTOLD = catalog.type_prefix("")


class ContentTypes:
    """Tells the types of one store's objects that have none yet, behind what is being written."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    async def run(self) -> None:
        """For ever. One process of a store does so."""
        index = self._store.index
        while True:
            transaction = index.last_transaction()
            await self._store.bursts.pass_by()
            try:
                told = await self.tell(PAGE)
            except (LfsfsError, OSError) as failed:
                log.error("content types are not told, which is tried again: %s", failed)
                await trio.sleep(RETRY_SECONDS)
                continue
            if not told:
                await index.changes.after(transaction)
            elif (
                told < PAGE
            ):  # those that come next are told together: each time is a commit that others wait for
                await trio.sleep(PAUSE_SECONDS)

    async def tell(self, most: int) -> int:
        """Looks at up to so many; at how many it did."""
        untold = self._store.index.view(lambda tx: _untold(tx, most))
        found = await trio.to_thread.run_sync(self._look_here, untold)
        for oid in untold:
            if oid not in found:
                found[oid] = await self._look(oid)

        def write(tx: Tx) -> None:
            for oid, content_type in found.items():
                row = catalog.get(tx, oid)
                if row is not None and not row.content_type:
                    catalog.put(tx, replace(row, content_type=content_type))

        if found:
            await self._store.index.update(write)
        return len(found)

    def _look_here(self, oids: list[Oid]) -> dict[Oid, str]:
        """The types of those whose file lies here as it is. Blocks, once for all of them: each way into a thread and
        back takes longer than the look.
        """
        found = {}
        tier = self._store.tier
        if isinstance(tier, LocalTier) and tier.plain:
            for oid in oids:
                row = self._store.lookup(oid)
                try:
                    if row is not None and row.state == "whole":
                        found[oid] = type_of(self._head_here(tier, row))
                except (LfsfsError, OSError):
                    pass  # it is elsewhere, or damaged: who opens it in earnest finds out
        return found

    def _head_here(self, tier: LocalTier, row: ObjectStat) -> bytes:
        with tier.path(row.oid).open("rb", buffering=0) as file:
            return self._store.local_reader(row).read_file(file.fileno(), 0, HEAD_BYTES)

    async def _look(self, oid: Oid) -> str:
        try:
            async with await self._store.open(oid) as reader:
                head = await reader.read(0, HEAD_BYTES)
        except (LfsfsError, OSError) as failed:
            log.warning("object %s: its content type cannot be told: %s", oid, failed)
            return UNREADABLE
        return await trio.to_thread.run_sync(type_of, head)


def _untold(tx: Tx, most: int) -> list[Oid]:
    """Objects without a type, oldest first."""
    found = []
    for key, _ in tx.scan("by_type", prefix=_UNTOLD):
        found.append(Oid.from_bytes(key[-32:]))
        if len(found) == most:
            break
    return found
