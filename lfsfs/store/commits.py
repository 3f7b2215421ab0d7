"""Commits: how a sealed file becomes an object. Bytes first, then the row."""

from collections.abc import Callable
from functools import partial

from lfsfs.errors import Corrupt, NotFound
from lfsfs.store import catalog, deletion
from lfsfs.store.bursts import Bursts
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.clerk import Clerk
from lfsfs.store.deletions import Deletions
from lfsfs.store.entering import enter, enter_small
from lfsfs.store.index import Index, Told, Tx
from lfsfs.store.limits import Limits
from lfsfs.store.names import Naming
from lfsfs.store.placing import Work, put_sealed
from lfsfs.store.remote import Placement, Remote
from lfsfs.store.staged_file import Sealed
from lfsfs.store.write_ahead import WriteAhead
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.tier import Tier


class Commits:
    """The commits of one store."""

    def __init__(
        self, index: Index, tier: Tier, remote: Remote | None, write_ahead: WriteAhead | None,
        deletions: Deletions, bursts: Bursts, limits: Limits | None, clerk: Clerk | None,
    ) -> None:  # fmt: skip
        self._index = index
        self._tier = tier
        self._remote = remote
        self._write_ahead = write_ahead
        self._deletions = deletions
        self._bursts = bursts
        self._limits = limits
        self._clerk = clerk
        self._under_way = 0  # of those that nobody waits for

    async def commit(self, sealed: Sealed, with_it: Callable[[Tx], None] | None) -> ObjectStat:
        """As `Store.commit`.

        A deletion may run at the same time, here or in another process. Deleting moves the store's count of
        deletions before the first byte goes and after the last is gone: if the count moved between our look at
        the bytes and our transaction, the transaction writes nothing and we begin anew.
        """
        if sealed.content is not None:
            self._bursts.arrived()
            row = await self._commit_small(sealed, with_it)
            if row is not None:
                return row
        while True:
            before, known, ahead = self._index.view(lambda tx: self._look(tx, sealed))
            placement, work = await self._store_bytes(sealed, known, ahead.tier if ahead else None)
            kept = None if work is None else ahead

            def write(
                tx: Tx, before: int = before, placement: Placement | None = placement,
                kept: WriteAhead | None = kept,
            ) -> ObjectStat | None:  # fmt: skip
                present = catalog.get(tx, sealed.oid)
                if deletion.deletions(tx) != before or (present is not None and present.state == "deleting"):
                    return None
                self._check(tx, sealed, present)
                return enter(tx, sealed, present, kept, placement.enter if placement else None, with_it)

            try:
                row = await self._index.update(write, first=work, waits=kept is None)
            finally:
                if placement is not None:
                    placement.close()
            if row is not None:
                return row
            await self._deletions.ended(sealed.oid)

    async def _commit_small(self, sealed: Sealed, with_it: Callable[[Tx], None] | None) -> ObjectStat | None:
        """All of it in one transaction, the file included, where that waits for nothing. None: it takes more."""
        write = self._in_one_transaction(sealed, with_it)
        return None if write is None else await self._index.update(write)

    def commit_later(self, sealed: Sealed, naming: Naming, told: Told[ObjectStat | None]) -> bool:
        """As `Store.commit_later`, of few bytes."""
        self._bursts.arrived()
        write = self._in_one_transaction(sealed, naming.enter)
        if write is None:
            return False

        def ended(row: ObjectStat | None, failed: BaseException | None) -> None:
            self._under_way -= 1
            told(row, failed)

        self._under_way += 1
        if self._clerk is not None:
            self._clerk.want(self._under_way)
            if self._clerk.commit(sealed, naming, lambda row: ended(row, None)):
                return True
        self._index.submit(write, ended)
        return True

    def _in_one_transaction(
        self, sealed: Sealed, with_it: Callable[[Tx], None] | None
    ) -> Callable[[Tx], ObjectStat | None] | None:
        """As `enter_small`. None: it takes more than that."""
        ahead, remote = self._write_ahead, self._remote
        if ahead is None or not ahead.is_open or (remote is not None and remote.options.mode != "write-back"):
            return None
        return partial(
            enter_small, sealed=sealed, ahead=ahead, with_it=with_it, uploads=remote is not None,
            check=partial(self._check, sealed=sealed, present=None),
        )  # fmt: skip

    def _check(self, tx: Tx, sealed: Sealed, present: ObjectStat | None) -> None:
        """As `Limits.check_object`, of what is new."""
        if present is None and self._limits is not None:
            self._limits.check_object(tx, sealed.size)

    def _look(self, tx: Tx, sealed: Sealed) -> tuple[int, ObjectStat | None, WriteAhead | None]:
        """The count of deletions, the row if there is one, and where the bytes may be left if they may."""
        ahead = self._write_ahead
        takes = ahead is not None and ahead.takes(tx, sealed)
        return deletion.deletions(tx), catalog.get(tx, sealed.oid), ahead if takes else None

    async def _store_bytes(
        self, sealed: Sealed, row: ObjectStat | None, local: LocalTier | None
    ) -> tuple[Placement | None, Work | None]:
        """Sees to it that the tiers have the bytes: nothing to write where they are known to be there and whole.

        What of that is left to be done is returned: it is to be run in a thread before the row is written.
        """
        if self._remote is not None:
            placement = await self._remote.place(sealed, row, local)
            return placement, placement.work
        if row is not None and row.state == "corrupt":
            await self._tier.delete(sealed.oid)
        elif row is not None and row.size == sealed.size and await self._has_bytes(sealed):
            return None, None
        return None, await put_sealed(local or self._tier, sealed)

    async def _has_bytes(self, sealed: Sealed) -> bool:
        try:
            return await self._tier.size(sealed.oid) == sealed.size
        except (NotFound, Corrupt):
            return False
