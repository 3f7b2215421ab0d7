"""MemoryRemote: a remote tier of one process, whole and without a network, which any number of machines may share.

It can be away, and can fail at its next requests, before or after they have taken effect.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import trio

from lfsfs.errors import Corrupt, NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.tiers.remote import NOTE_BYTES, PIECE_BYTES, Check, Sink, Source, Stored
from lfsfs.tiers.remote_wrapper import RemoteWrapper
from lfsfs.tiers.s3.keys import Keys
from lfsfs.tiers.tier import check_limit, check_range

KEYS = Keys("", "objects/aa/bb/oid")


@dataclass
class Place:
    """What is there, by oid and by key.

    `failing`: so many requests fail from now on, each second one when it is done.
    """

    objects: dict[Oid, tuple[bytes, int]] = field(default_factory=dict)
    notes: dict[str, bytes] = field(default_factory=dict)
    up: bool = True
    failing: int = 0


class MemoryRemote(RemoteWrapper):
    """One machine's view of a place."""

    direct = None

    def __init__(self, place: Place) -> None:
        super().__init__(self)
        self._place = place

    async def _ask(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._place.up or self._fails(0):
            raise Unavailable("the place does not answer")

    def _done(self) -> None:
        if self._fails(1):
            raise Unavailable("the answer was lost")

    def _fails(self, when: int) -> bool:
        if self._place.failing % 2 != when or not self._place.failing:
            return False
        self._place.failing -= 1
        return True

    async def put_source(self, oid: Oid, source: Source, check: Check) -> None:
        await self._ask()
        content = source.read_at(0, source.size)
        await check()
        there = self._place.objects.get(oid)
        if there is None or source.over or (source.exact and len(there[0]) != len(content)):
            self._place.objects[oid] = (content, time.time_ns())
        self._done()

    async def fetch(self, oid: Oid, offset: int, size: int, sink: Sink) -> None:
        check_range(offset, size)
        await self._ask()
        content = self._find(oid)[offset : offset + size]

        def hand_on() -> None:
            for at in range(0, len(content), PIECE_BYTES):
                trio.from_thread.check_cancelled()
                sink(content[at : at + PIECE_BYTES])

        if content:
            await trio.to_thread.run_sync(hand_on)

    def _find(self, oid: Oid) -> bytes:
        if oid not in self._place.objects:
            raise NotFound(f"no object {oid}")
        return self._place.objects[oid][0]

    async def size(self, oid: Oid) -> int:
        await self._ask()
        return len(self._find(oid))

    async def delete(self, oid: Oid) -> None:
        await self._ask()
        self._place.objects.pop(oid, None)
        self._done()

    async def survey(self, after: Oid | None, limit: int) -> list[Stored]:
        check_limit(limit)
        await self._ask()
        found = sorted(item for item in self._place.objects.items() if after is None or item[0] > after)
        return [Stored(oid, len(content), when) for oid, (content, when) in found[:limit]]

    async def put_note(self, key: str, content: bytes, *, only_new: bool = False) -> bool:
        KEYS.note(key)
        await self._ask()
        if only_new and key in self._place.notes:
            return False
        self._place.notes[key] = content
        self._done()
        return True

    async def grants_names(self) -> bool:
        await self._ask()
        return True

    async def note(self, key: str, limit: int = NOTE_BYTES) -> bytes:
        KEYS.note(key)
        await self._ask()
        if key not in self._place.notes:
            raise NotFound(f"no {key}")
        if len(self._place.notes[key]) > limit:
            raise Corrupt(f"{key} has more than {limit} bytes")
        return self._place.notes[key]

    async def delete_note(self, key: str) -> None:
        KEYS.note(key)
        await self._ask()
        self._place.notes.pop(key, None)
        self._done()

    async def notes(self, prefix: str, after: str | None, limit: int) -> list[str]:
        check_limit(limit)
        await self._ask()
        found = sorted(key for key in self._place.notes if key.startswith(prefix) and key > (after or ""))
        return found[:limit]

    async def check(self) -> None:
        await self._ask()

    async def abort_uploads(self, older_than_seconds: float, among: Collection[Oid] | None = None) -> int:
        await self._ask()
        return 0
