"""Deletions: an object is marked, its bytes go from all tiers, its row is forgotten. One at a time in all processes.

What goes to the trash is moved there instead, on the same disk. Where the remote tier has it as well, nothing is moved:
its bytes stay there, under the name that they have, and only the local copy goes.
"""

import fcntl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from lfsfs.errors import InUse, LfsfsError, Refused
from lfsfs.oid import Oid
from lfsfs.store import catalog, deletion, journal, rendered, trashed, withdrawn
from lfsfs.store.deletion import Manner
from lfsfs.store.index import Index, Tx
from lfsfs.store.layout import Layout
from lfsfs.store.remote import Remote
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.trashed import Reason, Trashed
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.tier import Tier


class Deletions:
    """The deletions of one store, whose lock file lies in its directory."""

    def __init__(self, layout: Layout, index: Index, tier: Tier, remote: Remote | None) -> None:
        self._layout = layout
        self._index = index
        self._tier = tier
        self._remote = remote

    async def delete(self, oid: Oid, *, force: bool, everywhere: bool) -> None:
        """As `Store.delete`."""
        await self._index.flush()
        if isinstance(self._index.view(lambda tx: rendered.find(tx, oid)), RenderedStat):
            await self._index.update(lambda tx: rendered.delete(tx, oid, force=force))
            return
        if everywhere and not force:
            await self._check_other_machines(oid)
        async with self.alone():
            await self._index.update(
                lambda tx: deletion.mark_deleting(tx, oid, Manner(everywhere), force=force)
            )
            with trio.CancelScope(shield=True):
                await self._finish(oid, everywhere=everywhere)

    async def discard(self, oid: Oid, reason: Reason, *, force: bool = False) -> None:
        """As `Store.discard`: to the trash."""
        await self._index.flush()
        if isinstance(self._index.view(lambda tx: rendered.find(tx, oid)), RenderedStat):
            await self._index.update(lambda tx: rendered.delete(tx, oid, force=force))
            return
        if not force:
            await self._check_other_machines(oid)

        def may_go(tx: Tx, oid: Oid) -> bool:
            return True  # the mark itself refuses what is referred to

        await self.discard_all([oid], reason, may_go, force=force)

    async def discard_all(
        self, oids: Sequence[Oid], reason: Reason, may_go: Callable[[Tx, Oid], bool], *, force: bool = False
    ) -> list[Trashed]:
        """To the trash goes what `may_go`, which is asked in the transaction that marks it. What went.

        All or none is marked; where one of them is not there, or referred to, NotFound or InUse, unless `force`.
        """
        if not isinstance(self._tier, LocalTier):
            raise Refused("a store whose objects are not files of the local disk has no trash")
        now = time.time_ns()
        manner = Manner(everywhere=False, trashed=(now, reason))

        def mark(tx: Tx) -> list[Oid]:
            marked = [oid for oid in oids if may_go(tx, oid)]
            for oid in marked:
                deletion.mark_deleting(tx, oid, manner, force=force)
            return marked

        async with self.alone():
            marked = await self._index.update(mark)
            with trio.CancelScope(shield=True):
                gone = await self._finish_discarded(dict.fromkeys(marked, (now, reason)))
        return gone

    async def _finish_discarded(self, marked: dict[Oid, tuple[int, Reason]]) -> list[Trashed]:
        """The files of all of them, then their rows, in one transaction."""
        assert isinstance(self._tier, LocalTier)
        rows = []
        for oid, (when, reason) in marked.items():
            row, waits = self._index.view(lambda tx, oid=oid: (catalog.get(tx, oid), journal.get(tx, oid)))  # type: ignore[misc]
            remote = self._remote is not None and waits is None
            target = trashed.folder(self._layout.trash, when) / oid
            if remote:
                await self._tier.delete(oid)
            moved = not remote and await self._tier.move_out(oid, target)
            if self._remote is not None:
                self._remote.fetches.forget(oid)
            size = 0 if row is None else row.size
            rows.append(Trashed(oid, when, size, file=moved, remote=remote, reason=reason))

        def write(tx: Tx) -> None:
            for row in rows:
                deletion.forget(tx, row.oid)
                if row.file or row.remote:
                    trashed.put(tx, row)

        await self._index.update(write)
        return rows

    async def _check_other_machines(self, oid: Oid) -> None:
        """InUse where another machine on the remote tier refers to it. What was never there cannot be."""
        if self._remote is None or self._index.view(lambda tx: journal.get(tx, oid)) is not None:
            return
        for machine in await self._remote.records.referring(oid):
            raise InUse(f"object {oid} is still referred to by {machine.host}, at {machine.store}")

    async def finish(self) -> int:
        """Ends what a killed process had begun to delete; how many objects that was."""
        if not self._index.view(deletion.unfinished):
            return 0
        async with self.alone():
            unfinished = self._index.view(deletion.unfinished)
            await self._finish_discarded(
                {oid: manner.trashed for oid, manner in unfinished.items() if manner.trashed is not None}
            )
            for oid, manner in unfinished.items():
                if manner.trashed is None:
                    await self._finish(oid, everywhere=manner.everywhere)
            return len(unfinished)

    async def ended(self, oid: Oid) -> None:
        """Returns when the object is not being deleted any more. What nobody ends is ended here, on the local disk.

        What the remote tier still has of it then does no harm: whoever commits the object anew uploads it anew.
        """

        def is_deleting(tx: Tx) -> bool:
            row = catalog.get(tx, oid)
            return row is not None and row.state == "deleting"

        if not self._index.view(is_deleting):
            return
        async with self.alone():
            if self._index.view(is_deleting):
                manner = self._index.view(deletion.unfinished).get(oid, Manner())
                if manner.trashed is not None:
                    await self._finish_discarded({oid: manner.trashed})
                    return
                await self._tier.delete(oid)
                await self._index.update(lambda tx: deletion.forget(tx, oid))

    async def take_back(self, oid: Oid, size: int) -> None:
        """Removes from the remote tier what was deleted while it was on its way there.

        It stays where another machine refers to it, or this one has committed it anew.
        """
        if self._remote is None or await self._remote.records.referring(oid):
            return
        async with self.alone():
            if await self._index.update(lambda tx: deletion.take_back(tx, oid, size)):
                await self._finish(oid)

    async def withdraw_here(self, machine: str, oids: Sequence[Oid]) -> list[Oid]:
        """What another machine withdraws from the remote tier, and nothing here needs, is absent; what is needed."""

        def decide(tx: Tx) -> tuple[list[Oid], list[Oid]]:
            needed = [oid for oid in oids if withdrawn.is_needed(tx, oid)]
            absent = [oid for oid in oids if oid not in set(needed)]
            withdrawn.add(tx, machine, absent)
            known = [oid for oid in absent if catalog.get(tx, oid) is not None]
            for oid in known:
                deletion.mark_deleting(tx, oid, Manner(everywhere=False), force=True)
            return needed, known

        async with self.alone():
            needed, known = await self._index.update(decide)
            with trio.CancelScope(shield=True):
                for oid in known:
                    await self._finish(oid, everywhere=False)
        return needed

    async def delete_withdrawn(self, oids: Sequence[Oid], announced: int) -> list[Oid]:
        """Deletes from the remote tier what is in the trash there, and no other machine needs; these.

        What was committed again or restored since it was `announced` (nanoseconds since 1970) stays.
        """

        def mark(tx: Tx) -> list[Oid]:
            marked = []
            for oid in oids:
                row = trashed.get(tx, oid)
                if row is None or not row.remote or row.when > announced:
                    continue
                if deletion.take_back(tx, oid, row.size):
                    trashed.forget(tx, oid)
                    marked.append(oid)
            return marked

        async with self.alone():
            marked = await self._index.update(mark)
            with trio.CancelScope(shield=True):
                await self._finish_all(marked)
        return marked

    async def _finish_all(self, oids: Sequence[Oid]) -> None:
        """Several at once. One that fails stays marked, so that somebody finishes it, and holds up no other."""
        failures: list[LfsfsError] = []

        async def one(oid: Oid) -> None:
            try:
                await self._finish(oid)
            except LfsfsError as failed:
                failures.append(failed)

        async with trio.open_nursery() as nursery:
            for oid in oids:
                nursery.start_soon(one, oid)
        if failures:
            raise failures[0]

    async def _finish(self, oid: Oid, *, everywhere: bool = True) -> None:
        await self._tier.delete(oid)
        waiting = self._index.view(lambda tx: journal.get(tx, oid)) is not None
        if (
            self._remote is not None and everywhere and not waiting
        ):  # what is on its way there, the uploader takes back
            await self._remote.delete(oid)
        await self._index.update(lambda tx: deletion.forget(tx, oid))

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """One deletion at a time, over all processes: what is marked while nobody holds this was left by the dead."""
        with (self._layout.path / deletion.LOCK).open("wb") as lock:
            await trio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_EX)
            yield
