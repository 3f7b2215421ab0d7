"""Deletions: an object is marked, its bytes go from all tiers, its row is forgotten. One at a time in all processes."""

import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from lfsfs.errors import InUse
from lfsfs.oid import Oid
from lfsfs.store import catalog, deletion, journal, rendered
from lfsfs.store.index import Index, Tx
from lfsfs.store.remote import Remote
from lfsfs.store.rendered import RenderedStat
from lfsfs.tiers.tier import Tier


class Deletions:
    """The deletions of one store, whose lock file lies in `directory`."""

    def __init__(self, directory: Path, index: Index, tier: Tier, remote: Remote | None) -> None:
        self._directory = directory
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
        async with self._alone():
            await self._index.update(
                lambda tx: deletion.mark_deleting(tx, oid, force=force, everywhere=everywhere)
            )
            with trio.CancelScope(shield=True):
                await self._finish(oid, everywhere=everywhere)

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
        async with self._alone():
            unfinished = self._index.view(deletion.unfinished)
            for oid, everywhere in unfinished.items():
                await self._finish(oid, everywhere=everywhere)
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
        async with self._alone():
            if self._index.view(is_deleting):
                await self._tier.delete(oid)
                await self._index.update(lambda tx: deletion.forget(tx, oid))

    async def take_back(self, oid: Oid, size: int) -> None:
        """Removes from the remote tier what was deleted while it was on its way there.

        It stays where another machine refers to it, or this one has committed it anew.
        """
        if self._remote is None or await self._remote.records.referring(oid):
            return
        async with self._alone():
            if await self._index.update(lambda tx: deletion.take_back(tx, oid, size)):
                await self._finish(oid)

    async def _finish(self, oid: Oid, *, everywhere: bool = True) -> None:
        await self._tier.delete(oid)
        waiting = self._index.view(lambda tx: journal.get(tx, oid)) is not None
        if (
            self._remote is not None and everywhere and not waiting
        ):  # what is on its way there, the uploader takes back
            await self._remote.delete(oid)
        await self._index.update(lambda tx: deletion.forget(tx, oid))

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One deletion at a time, over all processes: what is marked while nobody holds this was left by the dead."""
        with (self._directory / deletion.LOCK).open("wb") as lock:
            await trio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_EX)
            yield
