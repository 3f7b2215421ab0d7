"""A listing of a tier beside the rows of the index, both in the order of oids: what one has and the other has not."""

import logging
from collections.abc import Awaitable, Callable

import trio

from lfsfs.errors import LfsfsError
from lfsfs.oid import Oid
from lfsfs.store.index import Index
from lfsfs.store.remote import Remote
from lfsfs.store.store import Store
from lfsfs.tiers.local import LocalTier

log = logging.getLogger("lfsfs.integrity")
PAGE = 1_000
SETTLE_SECONDS = 2.0
"""A file gets its name before its row: what is that young is looked at once more."""
REMEMBERED = 100_000
Page = Callable[[Oid | None], Awaitable[list[tuple[Oid, int]]]]


class Listing:
    """What a tier lists, taken piece by piece: oids and sizes (0 where the listing does not tell)."""

    def __init__(self, page: Page, after: Oid | None) -> None:
        self._page = page
        self._after = after
        self._ahead: list[tuple[Oid, int]] = []
        self._ended = False

    async def up_to(self, last: Oid | None) -> dict[Oid, int]:
        """What comes next, until `last`; None: all that is left."""
        found: dict[Oid, int] = {}
        while True:
            for place, (oid, size) in enumerate(self._ahead):
                if last is not None and oid > last:
                    self._ahead = self._ahead[place:]
                    return found
                found[oid] = size
            self._ahead = [] if self._ended else await self._page(self._after)
            if not self._ahead:
                self._ended = True
                return found
            self._after = self._ahead[-1][0]


class Survey:
    """What the index does not know: `orphaned` files, `unindexed` objects of the remote tier; None: not looked for."""

    def __init__(self, store: Store, after: Oid | None) -> None:
        self.orphaned: int | None = None
        self.unindexed: int | None = None
        self.orphans: list[Oid] = []
        self.unindexed_oids: list[Oid] = []
        self._index = store.index
        self._tier = store.tier if isinstance(store.tier, LocalTier) else None
        self._local = self._far = None
        if self._tier is not None:
            self.orphaned = 0
            self._local = Listing(_local_page(self._tier), after)
        if store.remote is not None:
            self.unindexed = 0
            self._far = Listing(_remote_page(store.remote), after)

    async def advance(self, last: Oid | None) -> dict[Oid, int] | None:
        """Compares with the rows up to `last`. Sizes of what the remote tier lists; None where it does not say."""
        if self._local is not None:
            unknown = _unknown(self._index, list(await self._local.up_to(last)))
            self.orphaned = (self.orphaned or 0) + len(unknown)
            self.orphans += unknown[: max(0, REMEMBERED - len(self.orphans))]
        if self._far is None:
            return None
        try:
            listed = await self._far.up_to(last)
        except LfsfsError as away:
            log.warning("what the remote tier has was not listed: %s", away)
            self._far, self.unindexed = None, None
            return None
        unknown = _unknown(self._index, list(listed))
        self.unindexed = (self.unindexed or 0) + len(unknown)
        self.unindexed_oids += unknown[: max(0, REMEMBERED - len(self.unindexed_oids))]
        return listed

    async def settle(self) -> None:
        """What was being committed just then has its row by now."""
        if not self.orphans or self._tier is None:
            return
        await trio.sleep(SETTLE_SECONDS)
        left = [oid for oid in _unknown(self._index, self.orphans) if self._tier.path(oid).exists()]
        self.orphaned = (self.orphaned or 0) - len(self.orphans) + len(left)
        self.orphans = left


def _unknown(index: Index, oids: list[Oid]) -> list[Oid]:
    return (
        index.view(lambda tx: [oid for oid in oids if tx.get("objects", oid.to_bytes()) is None])
        if oids
        else []
    )


def _local_page(tier: LocalTier) -> Page:
    async def page(after: Oid | None) -> list[tuple[Oid, int]]:
        return [(oid, 0) for oid in await tier.scan(after, PAGE)]

    return page


def _remote_page(remote: Remote) -> Page:
    async def page(after: Oid | None) -> list[tuple[Oid, int]]:
        tier = await remote.tier()
        found = await remote.circuit.call(lambda: tier.survey(after, PAGE), remote.options.deadline)
        return [(stored.oid, stored.size) for stored in found]

    return page
