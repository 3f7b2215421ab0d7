"""CompressedRemote: a remote tier that gets objects compressed, those that shrink.

What is in the inner tier as it is, and what is compressed, lie side by side: the beginning tells. A range is still a
range: the frames that it touches are fetched. The first read of an object costs one request more.
"""

import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import trio

from lfsfs.errors import Corrupt
from lfsfs.oid import Oid
from lfsfs.tiers.compression.frames import (
    FIXED_BYTES,
    FRAME_BYTES,
    LEAST_BYTES,
    Compressing,
    Decoding,
    Table,
    compress,
    decode_head,
    head_bytes,
    most_bytes,
    size_of,
)
from lfsfs.tiers.remote import Check, RemoteTier, Sink, Source, Stored
from lfsfs.tiers.remote_wrapper import RemoteWrapper
from lfsfs.tiers.sinks import Counted
from lfsfs.tiers.source import FileSource
from lfsfs.tiers.tier import check_range

LOOK_BYTES = 64 << 10  # of an object that is read for the first time: has the head of 4 GiB
REMEMBERED = 1_024
PLAIN_SECONDS = 60.0  # how long it is believed that an object lies there as it is: a new copy may not
ATTEMPTS = 3
LOOKS_AT_ONCE = 8
SLACK_BYTES = 8 << 10  # that a file may take on the disk beyond its size
NewPath = Callable[[], Path]


class Room(Protocol):
    """Bounds what temporary files take. Used from one trio thread."""

    async def reserve_spare(self, size: int) -> bool:
        """Whether there is room for so many bytes more, which are then ours until they are released. Does not wait."""

    def release_pending(self, size: int) -> None:
        """Gives back so many of them."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How an object lies there. `table`: None as it is. `looked`: when. `beginning`: what was read for that."""

    table: Table | None
    looked: float
    beginning: bytes = b""


class _AnyForm:
    """A source; what lies there with another length may be the same object compressed."""

    exact = False

    def __init__(self, source: Source) -> None:
        self.size, self.sha256, self.read_at = source.size, source.sha256, source.read_at
        self.over = source.over


class CompressedRemote(RemoteWrapper):
    """`new_path`: names a temporary file; None: what is put is not compressed, only read. `room`: asked before it is
    filled; None: there is as much as one likes.
    """

    direct = None

    def __init__(self, inner: RemoteTier, new_path: NewPath | None, room: Room | None = None) -> None:
        super().__init__(inner)
        self._new_path = new_path
        self._room = room
        self._known: OrderedDict[Oid, _Form] = OrderedDict()
        self._threads = trio.CapacityLimiter(os.cpu_count() or 1)

    async def put_source(self, oid: Oid, source: Source, check: Check) -> None:
        """Takes the size of the compressed form at a `new_path` meanwhile, or, where there is no room for that,
        compresses twice: to know the size, and while it is sent.
        """
        self._known.pop(oid, None)
        async with self._compressed(oid, source) as compressed:
            await self.inner.put_source(oid, compressed or _AnyForm(source), check)

    @asynccontextmanager
    async def _compressed(self, oid: Oid, source: Source) -> AsyncIterator[Source | None]:
        """The compressed form of the source, as long as the block lasts; None where it is sent as it is."""
        if self._new_path is None or source.size < LEAST_BYTES:
            yield None
            return
        room = most_bytes(source.size) + SLACK_BYTES
        if self._room is not None and not await self._room.reserve_spare(room):
            head = await trio.to_thread.run_sync(compress, oid, source, None, limiter=self._threads)
            yield Compressing(oid, source, head) if head else None
            return
        with ExitStack() as stack:
            if self._room is not None:
                stack.callback(self._room.release_pending, room)
            path = self._new_path()
            stack.callback(path.unlink, missing_ok=True)
            if not await trio.to_thread.run_sync(compress, oid, source, path, limiter=self._threads):
                stack.close()  # what is not used takes no room meanwhile
                yield None
                return
            file = stack.enter_context(path.open("rb"))
            size = os.fstat(file.fileno()).st_size
            yield FileSource(file.fileno(), size, None, exact=False, over=source.over)

    async def fetch(self, oid: Oid, offset: int, size: int, sink: Sink) -> None:
        """Corrupt where a frame is not what was compressed: nothing of it gets to the sink."""
        check_range(offset, size)
        delivered = Counted(sink)
        for attempt in range(1, ATTEMPTS + 1):
            form = self._remembered(oid)
            try:
                start = offset + delivered.total
                await self._fetch(oid, form or await self._look(oid), start, offset + size, delivered)
                return
            except Corrupt:
                self._known.pop(oid, None)  # it may have been put anew, in another form
                if form is None or delivered.failed or attempt == ATTEMPTS:
                    raise

    async def _fetch(self, oid: Oid, form: _Form, offset: int, end: int, sink: Sink) -> None:
        if form.table is None:
            await self._hand_on(oid, form.beginning, offset, end, sink)
            return
        end = min(end, form.table.size)
        if offset >= end:
            return
        first, beyond = form.table.frames_of(offset, end)
        decoding = Decoding(oid, form.table, first, offset - first * FRAME_BYTES, end - offset, sink)
        starts = form.table.starts
        await self._hand_on(oid, form.beginning, starts[first], starts[beyond], decoding)
        decoding.end()

    async def _hand_on(self, oid: Oid, beginning: bytes, offset: int, end: int, sink: Sink) -> None:
        """These bytes of the inner tier, of which the first ones may have been read."""
        known = beginning[offset:end]
        if known:
            await trio.to_thread.run_sync(sink, known)
            await trio.lowlevel.checkpoint()
        offset += len(known)
        if offset < end and not 0 < len(beginning) < LOOK_BYTES:
            await self.inner.fetch(oid, offset, end - offset, sink)

    async def size(self, oid: Oid) -> int:
        form = self._remembered(oid)
        if form is not None and form.table is not None:
            return form.table.size
        return await self._size(oid, await self.inner.size(oid))

    async def _size(self, oid: Oid, stored: int) -> int:
        """Of an object that has so many bytes in the inner tier. One that is damaged has some other size than it had."""
        if stored < FIXED_BYTES:
            return stored
        try:
            found = size_of(await self.inner.read(oid, 0, FIXED_BYTES), oid)
        except Corrupt:
            found = None
        return stored if found is None else found

    async def delete(self, oid: Oid) -> None:
        self._known.pop(oid, None)
        await self.inner.delete(oid)

    async def scan(self, after: Oid | None, limit: int) -> list[Oid]:
        return await self.inner.scan(after, limit)

    async def survey(self, after: Oid | None, limit: int) -> list[Stored]:
        """Looks at each object: a listing does not tell how large what is compressed was."""
        page = await self.inner.survey(after, limit)
        found = list(page)
        remaining = iter(enumerate(page))

        async def look() -> None:
            for at, stored in remaining:
                found[at] = replace(stored, size=await self._size(stored.oid, stored.size))

        async with trio.open_nursery() as nursery:
            for _ in range(min(LOOKS_AT_ONCE, len(page))):
                nursery.start_soon(look)
        return found

    def _remembered(self, oid: Oid) -> _Form | None:
        form = self._known.get(oid)
        if form is None or (form.table is None and time.monotonic() - form.looked > PLAIN_SECONDS):
            return None
        self._known.move_to_end(oid)
        return form

    async def _look(self, oid: Oid) -> _Form:
        """Corrupt where it is compressed, and its head is damaged."""
        beginning = await self.inner.read(oid, 0, LOOK_BYTES)
        size = size_of(beginning, oid)
        table = None
        if size is not None:
            head = beginning[: head_bytes(size)]
            head += await self.inner.read(oid, len(head), head_bytes(size) - len(head))
            table = decode_head(head, oid)
        form = _Form(table, time.monotonic())
        self._known[oid] = form
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return replace(form, beginning=beginning)
