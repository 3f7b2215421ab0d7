"""The transfer agent: git-lfs moves objects through it straight into a store and out of it. No server is asked.

Protocol: git-lfs docs/custom-transfers.md, a JSON object a line, both ways. git-lfs starts several agents at once, most
of which get nothing to do; each moves one object at a time. So a store is opened when the first object is asked for.

Everybody who may open the store, or use its bucket, is one trust domain: what is there already is sent no second time.
What is uploaded is in the bucket, where there is one, before git-lfs is told so: nobody else would see to it.
"""

import json
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import trio

from lfsfs.errors import HashMismatch, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.store import references
from lfsfs.store.arrival import ensure_remote
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.store import Store

PROGRESS_BYTES = 1 << 20
"""git-lfs is told of the progress each time that so much has moved."""
RECORD_SECONDS = 20.0
"""What telling the other machines may take at the end: git-lfs gives an agent 30 s to go."""
Line = dict[str, Any]
Say = Callable[[Line], None]


class Agent:
    """One process that git-lfs has started.

    `open_store`: the store, made if need be. `repository`: the name under which the store is told what is referred to.
    `storage`: the lfs.storage of the clone, where downloads are put for git-lfs to rename. `say`: sends a line.
    """

    def __init__(
        self,
        open_store: Callable[[], AbstractAsyncContextManager[Store]],
        repository: Callable[[], str],
        storage: Callable[[], Path],
        say: Say,
    ) -> None:
        self._open_store = open_store
        self._name = repository
        self._storage = storage
        self._say = say
        self._store: Store | None = None
        self._number: int | None = None

    async def run(self, line: bytes, listen: Callable[[], Awaitable[bytes]]) -> None:
        """Does what git-lfs asks for, beginning with `line`, until it says `terminate` or is gone.

        `listen`: the next line, b"" at the end.
        """
        async with AsyncExitStack() as self._stack:
            while line:
                event: Line = json.loads(line)
                if event.get("event") == "terminate":
                    break
                self._say(await self._moved(event))
                line = await listen()
            if self._store is not None and self._store.remote is not None:
                await _record(self._store)

    async def _moved(self, event: Line) -> Line:
        """Moves one object; the `complete` event, with the error where that failed."""
        complete: Line = {"event": "complete", "oid": event.get("oid", "")}
        try:
            oid, size = Oid(str(event["oid"])), int(event["size"])
            if event["event"] == "upload":
                await self._upload(oid, size, Path(str(event["path"])))
            elif event["event"] == "download":
                complete["path"] = os.fspath(await self._download(oid, size))
            else:
                raise LfsfsError(f"git-lfs asks for {event['event']!r}, which this agent does not know")
        except LfsfsError as failed:
            complete["error"] = {"code": failed.status, "message": str(failed)}
        except (OSError, KeyError, ValueError) as failed:
            complete["error"] = {"code": LfsfsError.status, "message": f"{type(failed).__name__}: {failed}"}
        return complete

    async def _upload(self, oid: Oid, size: int, path: Path) -> None:
        store, number = await self._opened()
        row = await store.find_row(oid)
        if row is None or row.state != "whole":
            row = await store.put(path, oid=oid, progress=_Meter(oid, size, self._say))
        _check_size(row, size)
        await store.index.update(lambda tx: references.add(tx, number, oid))
        await ensure_remote(store, row)

    async def _download(self, oid: Oid, size: int) -> Path:
        store, number = await self._opened()
        row = await store.find_row(oid)
        if row is None:
            raise NotFound(f"the store has no object {oid}")
        _check_size(row, size)
        folder = self._storage() / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{oid}-lfsfs-{os.getpid()}"
        await store.get(oid, target, progress=_Meter(oid, size, self._say))
        await store.index.update(lambda tx: references.add(tx, number, oid))
        return target

    async def _opened(self) -> tuple[Store, int]:
        """The store, and the id of the repository in it."""
        if self._store is None:
            self._store = await self._stack.enter_async_context(self._open_store())
        if self._number is None:
            name = self._name()
            made = await self._store.index.update(lambda tx: references.add_repository(tx, name))
            self._number = made.id
        return self._store, self._number


class _Meter:
    """Says `progress` now and then."""

    def __init__(self, oid: Oid, size: int, say: Say) -> None:
        self._oid = oid
        self._size = size
        self._say = say
        self._told = 0

    def __call__(self, done: int, total: int | None) -> None:
        if done - self._told < PROGRESS_BYTES and done != self._size:
            return
        event = {
            "event": "progress",
            "oid": self._oid,
            "bytesSoFar": done,
            "bytesSinceLast": done - self._told,
        }
        self._told = done
        self._say(event)


def _check_size(row: ObjectStat, size: int) -> None:
    if row.size != size:
        raise HashMismatch(f"the object {row.oid} has {row.size} bytes, and the pointer says {size}")


async def _record(store: Store) -> None:
    """Tells the other machines what this one refers to. What cannot be told now, the next process of the store tells."""
    assert store.remote is not None
    try:
        with trio.move_on_after(RECORD_SECONDS):
            await store.remote.reconcile()
            await store.remote.records.publish()
    except LfsfsError:
        pass  # it stands in the index as unrecorded
