"""MemoryTier: objects in memory, within a limit. For caches, and for tests that need no disk."""

from collections import OrderedDict
from pathlib import Path
from typing import Literal

import trio

from lfsfs.errors import LfsfsError, NoSpace, NotFound, TooLarge
from lfsfs.oid import Oid
from lfsfs.tiers.tier import check_limit, check_range
from lfsfs.tiers.turns import Turns

LOADERS = 4  # files read at once


class MemoryTier:
    """At most `limit` bytes of objects, those that are just arriving included.

    Policy when a new object does not fit: "refuse" raises NoSpace; "evict" drops the objects that were put or
    read longest ago, as many as it takes, and raises NoSpace only where arriving objects hold the room. An
    object larger than the limit is TooLarge, and costs nobody their place.
    """

    def __init__(self, limit: int, policy: Literal["refuse", "evict"] = "refuse") -> None:
        self.limit = limit
        self.policy = policy
        self._objects: OrderedDict[Oid, bytes] = OrderedDict()  # least recently used first
        self._stored = 0
        self._arriving = 0
        self._turns = Turns()
        self._loaders = trio.CapacityLimiter(LOADERS)

    @property
    def used(self) -> int:
        """Bytes held now, or promised to a put that runs."""
        return self._stored + self._arriving

    async def put(self, oid: Oid, source: Path) -> None:
        await trio.lowlevel.checkpoint()
        async with self._turns.of(oid):
            if oid in self._objects:
                self._objects.move_to_end(oid)
            else:
                await self._load(oid, source)

    async def read(self, oid: Oid, offset: int, size: int) -> bytes:
        check_range(offset, size)
        await trio.lowlevel.checkpoint()
        content = self._content(oid)
        self._objects.move_to_end(oid)
        return content[offset : offset + size]

    async def size(self, oid: Oid) -> int:
        await trio.lowlevel.checkpoint()
        return len(self._content(oid))

    async def delete(self, oid: Oid) -> None:
        await trio.lowlevel.checkpoint()
        self._drop(oid)

    async def scan(self, after: Oid | None, limit: int) -> list[Oid]:
        check_limit(limit)
        await trio.lowlevel.checkpoint()
        return sorted(oid for oid in self._objects if after is None or oid > after)[:limit]

    def _content(self, oid: Oid) -> bytes:
        try:
            return self._objects[oid]
        except KeyError as error:
            raise NotFound(f"no object {oid}") from error

    async def _load(self, oid: Oid, source: Path) -> None:
        try:
            size = source.stat().st_size
            self._make_room(oid, size)
            self._arriving += size
            try:
                content = await trio.to_thread.run_sync(_content_of, source, size, limiter=self._loaders)
            finally:
                self._arriving -= size
        except OSError as error:
            raise LfsfsError(f"cannot store {oid}: {error.strerror}") from error
        self._objects[oid] = content
        self._stored += size

    def _make_room(self, oid: Oid, size: int) -> None:
        if size > self.limit:
            raise TooLarge(f"object {oid} of {size} bytes is larger than the limit of {self.limit}")
        free = self.limit - self.used
        evictable = self._stored if self.policy == "evict" else 0
        if size > free + evictable:
            raise NoSpace(f"no room for object {oid}: {size} bytes, {free} of {self.limit} are free")
        while self.used + size > self.limit:
            self._drop(next(iter(self._objects)))

    def _drop(self, oid: Oid) -> None:
        content = self._objects.pop(oid, b"")
        self._stored -= len(content)


def _content_of(source: Path, size: int) -> bytes:
    with source.open("rb") as file:
        content = file.read(size)
        if len(content) < size or file.read(1):
            raise LfsfsError(f"{source} changed while it was stored: it does not have {size} bytes any more")
    return content
