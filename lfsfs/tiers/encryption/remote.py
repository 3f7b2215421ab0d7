"""EncryptedRemote: a remote tier that gets sealed objects and sealed notes only, under names that may be hashed.

Everything in the inner tier is sealed. A range is still a range: the frames that it touches are fetched, and the first
read of an object costs one small request more, for its head, unless it begins at the beginning.
"""

import os
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import trio

from lfsfs.errors import Corrupt, NotFound
from lfsfs.oid import Oid
from lfsfs.tiers.encryption import frames
from lfsfs.tiers.encryption.frames import FRAME_BYTES, HEAD_BYTES, SEALED_FRAME_BYTES, Frames
from lfsfs.tiers.encryption.names import Names
from lfsfs.tiers.encryption.notes import EXTRA_BYTES, Notes
from lfsfs.tiers.encryption.ring import Ring, UnknownKey
from lfsfs.tiers.encryption.streams import Opening, SealedSource
from lfsfs.tiers.remote import NOTE_BYTES, Check, RemoteTier, Sink, Source, Stored
from lfsfs.tiers.remote_wrapper import RemoteWrapper
from lfsfs.tiers.sinks import Counted
from lfsfs.tiers.tier import check_limit, check_range

REMEMBERED = 4_096  # objects whose keys need not be fetched again
ATTEMPTS = 3  # to read what others put anew meanwhile
LISTING_SECONDS = (
    60.0  # how long a listing in the order of hashed names serves for the pages of another order
)
PAGE = 1000

Reload = Callable[[], Awaitable[Ring]]
"""The ring as it is now: another machine may have added a key."""


class EncryptedRemote(RemoteWrapper):
    """Objects and notes in `inner`, encrypted with the keys of a ring."""

    direct = None

    def __init__(self, inner: RemoteTier, ring: Ring, names: Names, reload: Reload) -> None:
        super().__init__(inner)
        self._names = names
        self._reload = reload
        self._known: OrderedDict[Oid, Frames] = OrderedDict()
        self._listing: tuple[float, Oid | None, list[Stored]] = (0.0, None, [])
        self._use(ring)

    def _use(self, ring: Ring) -> None:
        self._ring = ring
        self._notes = Notes(ring)

    # Objects.

    async def put_source(self, oid: Oid, source: Source, check: Check) -> None:
        newest, data_key = self._ring.newest, os.urandom(frames.KEY_BYTES)
        head = frames.encode_head(oid, newest.id, newest.key, data_key, os.urandom(frames.NONCE_BYTES))
        sealed = SealedSource(source, Frames(oid, data_key), head)
        await self.inner.put_source(self._names.oid(oid), sealed, check)
        self._known.pop(oid, None)

    async def fetch(self, oid: Oid, offset: int, size: int, sink: Sink) -> None:
        """Corrupt where a frame is not what was sealed: nothing of it gets to the sink."""
        check_range(offset, size)
        delivered = Counted(sink)
        for attempt in range(ATTEMPTS):
            opening = self._known.get(oid)
            try:
                left = size - delivered.total
                with _named(f"object {oid}"):
                    await self._fetch(oid, opening, offset + delivered.total, left, delivered)
                return
            except UnknownKey:
                if attempt or delivered.failed:
                    raise
                self._use(await self._reload())
            except Corrupt:
                if opening is None or delivered.failed:
                    raise
                self._known.pop(oid, None)  # it may have been put anew, with another key

    async def _fetch(self, oid: Oid, opening: Frames | None, offset: int, size: int, sink: Sink) -> None:
        name = self._names.oid(oid)
        if not size:
            await self.inner.fetch(name, 0, 0, sink)
            return
        first = offset // FRAME_BYTES
        wanted = ((offset + size - 1) // FRAME_BYTES - first + 1) * SEALED_FRAME_BYTES
        skip = offset - first * FRAME_BYTES
        if opening is None and first:
            head = await self.inner.read(name, 0, HEAD_BYTES)
            opening = self._find_key(oid, head)
        if opening is not None:
            came = Opening(oid, opening, first, skip, size, sink)
            counted = Counted(came)
            await self.inner.fetch(name, frames.offset_of(first), wanted, counted)
            await trio.to_thread.run_sync(lambda: came.end(ended=counted.total < wanted))
            return
        beginning = _Beginning(lambda head: Opening(oid, self._find_key(oid, head), 0, skip, size, sink))
        await self.inner.fetch(name, 0, HEAD_BYTES + wanted, beginning)
        if beginning.opening is None:
            raise Corrupt(f"object {oid}: its sealed form is cut short: not served")
        ended = beginning.total < HEAD_BYTES + wanted
        await trio.to_thread.run_sync(lambda: beginning.end(ended=ended))

    def _find_key(self, oid: Oid, beginning: bytes) -> Frames:
        """Corrupt, UnknownKey. In any thread."""
        head = frames.decode_head(beginning)
        if head is None:
            raise Corrupt(f"object {oid}: what lies in its place is not a sealed object: not served")
        found = Frames(oid, frames.unwrap(head, oid, self._ring.find(head.key_id)))
        self._known[oid] = found
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    async def size(self, oid: Oid) -> int:
        """Of an object that is cut short, another size than it had."""
        with _named(f"object {oid}"):
            return frames.apparent_size(await self.inner.size(self._names.oid(oid)))

    async def delete(self, oid: Oid) -> None:
        self._known.pop(oid, None)
        await self.inner.delete(self._names.oid(oid))

    async def survey(self, after: Oid | None, limit: int) -> list[Stored]:
        check_limit(limit)
        if self._names.ordered:
            return [_opened(stored) for stored in await self.inner.survey(after, limit)]
        came, last, listing = self._listing
        if after is None or after != last or time.monotonic() - came > LISTING_SECONDS:
            came, listing = time.monotonic(), await self._list_all()
        start = 0 if after is None else bisect_right(listing, after, key=lambda stored: stored.oid)
        page = listing[start : start + limit]
        self._listing = (came, page[-1].oid, listing) if page else (0.0, None, [])
        return page

    async def _list_all(self) -> list[Stored]:
        """Names are not in the order of oids: a page of those needs all of them."""
        found: list[Stored] = []
        after = None
        while page := await self.inner.survey(after, PAGE):
            after = page[-1].oid
            found += [replace(_opened(stored), oid=self._names.oid_of(stored.oid)) for stored in page]
        return sorted(found, key=lambda stored: stored.oid)

    async def abort_uploads(self, older_than_seconds: float, among: Collection[Oid] | None = None) -> int:
        names = None if among is None else {self._names.oid(oid) for oid in among}
        return await self.inner.abort_uploads(older_than_seconds, names)

    # Notes.

    async def put_note(self, key: str, content: bytes, *, only_new: bool = False) -> bool:
        sealed = self._notes.seal(key, content)
        return await self.inner.put_note(self._names.note(key), sealed, only_new=only_new)

    async def note(self, key: str, limit: int = NOTE_BYTES) -> bytes:
        with _named(key):
            sealed = await self.inner.note(self._names.note(key), limit + EXTRA_BYTES)
        try:
            return self._notes.open(key, sealed)
        except UnknownKey:
            self._use(await self._reload())
            return self._notes.open(key, sealed)

    async def delete_note(self, key: str) -> None:
        await self.inner.delete_note(self._names.note(key))

    async def notes(self, prefix: str, after: str | None, limit: int) -> list[str]:
        if self._names.ordered:
            return await self.inner.notes(prefix, after, limit)
        check_limit(limit)
        found: list[str] = []
        folder, last = self._names.folder(prefix), None
        while page := await self.inner.notes(folder, last, PAGE):
            last = page[-1]
            found += map(self._names.note_of, page)
        found = sorted(key for key in found if key.startswith(prefix) and key > (after or ""))
        return found[:limit]


class _Beginning:
    """A sink for a sealed object from its first byte on: with its head, it knows how to open the rest."""

    def __init__(self, open_rest: Callable[[bytes], Opening]) -> None:
        self.total = 0
        self.opening: Opening | None = None
        self._open_rest = open_rest
        self._head = b""

    def __call__(self, piece: bytes) -> None:
        self.total += len(piece)
        if self.opening is None:
            self._head += piece
            if len(self._head) < HEAD_BYTES:
                return
            self.opening = self._open_rest(self._head[:HEAD_BYTES])
            piece = self._head[HEAD_BYTES:]
        self.opening(piece)

    def end(self, *, ended: bool) -> None:
        assert self.opening is not None
        self.opening.end(ended=ended)


def _opened(stored: Stored) -> Stored:
    return replace(stored, size=frames.apparent_size(stored.size))


@contextmanager
def _named(what: str) -> Iterator[None]:
    """What is not there is called by our name for it, not by the one that it has in the tier."""
    try:
        yield
    except NotFound as absent:
        raise NotFound(f"no {what}") from absent
