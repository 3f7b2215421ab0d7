"""Trash: what was taken out of the store, until it is emptied.

The files lie below STORE/trash, a directory a day. An object is restored by committing it, so that every rule of a
commit holds, and its bytes are hashed on the way: what rotted in the trash does not come back.
"""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from lfsfs import durable, steps
from lfsfs.errors import Corrupt, Infected, InvalidOid, NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.store import catalog, trashed, unreferenced, verdicts, withdrawn
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.commits import Commits
from lfsfs.store.deletions import Deletions
from lfsfs.store.fetches import UNKNOWN_MODE, UNKNOWN_TYPE
from lfsfs.store.index import Index, Tx
from lfsfs.store.layout import Layout
from lfsfs.store.remote import Remote
from lfsfs.store.staged_file import StagedFile
from lfsfs.store.staging import Staging
from lfsfs.store.trashed import Trashed
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.tier import Tier

LOCK = "trash.lock"
"""Below STORE: held by who restores, and by who empties."""
PAGE = 1_000
KEEP_SECONDS = 7 * 86400.0
_SECOND_NS = 10**9


@dataclass(frozen=True, slots=True)
class Emptied:
    """What emptying the trash freed: files and their bytes on disk. `remote`: objects whose bytes in the remote tier are
    past their time: to be deleted there as well.
    """

    files: int
    bytes: int
    remote: tuple[Trashed, ...] = ()


class Trash:
    """The trash of one store."""

    def __init__(
        self, layout: Layout, index: Index, staging: Staging, commits: Commits, deletions: Deletions,
        remote: Remote | None, tier: Tier,
    ) -> None:  # fmt: skip
        self._layout = layout
        self._index = index
        self._staging = staging
        self._commits = commits
        self._deletions = deletions
        self._remote = remote
        self._tier = tier

    def page(self, after: Oid | None = None, limit: int = PAGE) -> list[Trashed]:
        """The next of what is in it, ascending by oid. Files that the index has forgotten are not listed."""

        def look(tx: Tx) -> list[Trashed]:
            found = []
            for row in trashed.every(tx, after):
                found.append(row)
                if len(found) == limit:
                    break
            return found

        return self._index.view(look)

    def since(self, when: int) -> Iterator[Trashed]:
        """All that went at this time (nanoseconds since 1970) or later."""
        after: Oid | None = None
        while page := self.page(after):
            after = page[-1].oid
            yield from (row for row in page if row.when >= when)

    async def restore(self, oid: Oid) -> ObjectStat:
        """The object is in the store again. NotFound where the trash has not got it; Corrupt where its bytes rotted.

        Nothing refers to it yet: who wants to keep it has the grace time of gc. One that is in the store already is
        left as it is, and leaves the trash. Infected where a scanner said so, and nobody has accepted it.
        """
        verdict = self._index.view(lambda tx: verdicts.get(tx, oid))
        if verdict is not None and verdict.state == "infected":
            raise Infected(
                f"{oid} is infected: {verdict.finding}: `lfsfs scan --accept` lets it in all the same"
            )
        async with self._alone():
            row = self._index.view(lambda tx: trashed.get(tx, oid))
            file = await trio.to_thread.run_sync(self._find, oid, row)
            if file is not None:
                restored = await self._restore_file(oid, file)
            elif row is not None and row.remote and self._remote is not None:
                restored = await self._restore_remote(oid)
            else:
                raise NotFound(f"the trash has no object {oid}")
            return restored

    def _find(self, oid: Oid, row: Trashed | None) -> Path | None:
        """Its file: where the index says, or, if that was lost, wherever it is."""
        if row is not None:
            file = trashed.folder(self._layout.trash, row.when) / oid
            return file if row.file and file.is_file() else None
        return next((day / oid for day in self._days() if (day / oid).is_file()), None)

    async def _restore_file(self, oid: Oid, file: Path) -> ObjectStat:
        """Linked to where files are staged, hashed, committed; then it leaves the trash."""
        assert isinstance(self._tier, LocalTier)  # or nothing gets into the trash
        size = 0 if self._tier.plain else file.stat().st_size  # a link takes none
        async with self._staging.place(size, commits=True) as staged:
            await trio.to_thread.run_sync(self._tier.bring_out, file, oid, staged)
            following = StagedFile(staged, self._staging.pool)
            sealed = await following.seal()
            if sealed.oid != oid:
                raise Corrupt(f"{file} is damaged: it was not restored")
            restored = await self._commits.commit(sealed, None)
        async with self._deletions.alone():  # or what somebody has taken out again meanwhile would go
            if self._index.view(lambda tx: trashed.get(tx, oid)) is None:
                await trio.to_thread.run_sync(_remove, file)
        return restored

    async def _restore_remote(self, oid: Oid) -> ObjectStat:
        """Its bytes are where they were: only the row comes back."""
        assert self._remote is not None
        tier = await self._remote.tier()
        size = await self._remote.circuit.call(lambda: tier.size(oid), self._remote.options.deadline)

        def write(tx: Tx) -> ObjectStat:
            present = trashed.get(tx, oid)
            row = catalog.get(tx, oid)
            if withdrawn.is_withdrawn(tx, oid):
                raise Unavailable(f"another machine is deleting {oid} from S3 just now")
            if (row is None and present is None) or (row is not None and row.state == "deleting"):
                raise NotFound(f"the trash has no object {oid}")
            if row is None and present is not None:
                row = ObjectStat(oid, size, present.when, present.when, UNKNOWN_MODE, UNKNOWN_TYPE, "whole")
                catalog.put(tx, row)
            unreferenced.forget(tx, oid)
            trashed.forget(tx, oid)
            assert row is not None
            return row

        return await self._index.update(write)

    async def empty(self, before: int) -> Emptied:
        """Removes the files of what went before this time (nanoseconds since 1970). Absent is success."""
        files, size, remote = 0, 0, []
        async with self._alone():
            after: Oid | None = None
            steps.begin("trash", self._index.view(lambda tx: tx.count(trashed.TABLE)))
            while page := self.page(after):
                after = page[-1].oid
                remote += [row for row in page if row.remote and row.when < before]
                due = [row for row in page if not row.remote and row.when < before]
                async with self._deletions.alone():  # nothing comes into the trash meanwhile
                    gone = await self._index.update(lambda tx, due=due: _forgotten(tx, due))  # type: ignore[misc]
                    freed = await trio.to_thread.run_sync(self._remove_all, gone)
                files, size = files + freed[0], size + freed[1]
                steps.add(len(page))
            async with self._deletions.alone():
                freed = await trio.to_thread.run_sync(self._sweep, before)
        return Emptied(files + freed[0], size + freed[1], tuple(remote))

    def _remove_all(self, rows: list[Trashed]) -> tuple[int, int]:
        freed = [_remove(trashed.folder(self._layout.trash, row.when) / row.oid) for row in rows]
        return sum(size >= 0 for size in freed), sum(size for size in freed if size > 0)

    def _sweep(self, before: int) -> tuple[int, int]:
        """Removes days that are past, with what the index does not know any more: it was restored, or the index lost."""
        files, size = 0, 0
        last = trashed.folder(self._layout.trash, before).name
        for day in self._days():
            if day.name >= last:
                continue
            for name in os.listdir(day):
                if self._is_kept(name, day):
                    continue
                freed = _remove(day / name)
                files, size = files + (freed >= 0), size + max(0, freed)
            try:
                day.rmdir()
            except OSError:
                pass  # what is kept there is not past its time, or was moved there just now
        return files, size

    def _is_kept(self, name: str, day: Path) -> bool:
        """Whether the index says that this file is what one would restore."""
        try:
            row = self._index.view(lambda tx: trashed.get(tx, Oid(name)))
        except InvalidOid:
            return False
        return row is not None and row.file and trashed.folder(self._layout.trash, row.when) == day

    def _days(self) -> list[Path]:
        """The newest first."""
        trash = self._layout.trash
        return (
            sorted((day for day in trash.iterdir() if day.is_dir()), reverse=True) if trash.is_dir() else []
        )

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        with (self._layout.path / LOCK).open("ab") as lock:
            await trio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_EX)
            yield


def _forgotten(tx: Tx, rows: list[Trashed]) -> list[Trashed]:
    """Takes their rows away, of those that are as they were; these. Their files go after that."""
    gone = [row for row in rows if trashed.get(tx, row.oid) == row]
    for row in gone:
        trashed.forget(tx, row.oid)
    return gone


def _remove(file: Path) -> int:
    """The bytes that went with it; -1 where there was none."""
    try:
        found = file.lstat()
    except FileNotFoundError:
        return -1
    durable.unlink(file, "unlink-trash")
    return found.st_blocks * 512 if found.st_nlink == 1 else 0
