"""Fetch: one object on its way from the remote tier, block by block, into a sparse local file.

However many readers ask, a block is fetched once: a *flight* is one ranged GET for a run of blocks that nobody has
asked for yet. Each block is compared with its digest before anybody gets a byte of it. Where the cache has no room
the blocks of a flight are kept in memory for those who wait, and for a short while after.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from lfsfs.errors import Corrupt, LfsfsError, Unavailable
from lfsfs.oid import Oid
from lfsfs.store.circuit import Circuit
from lfsfs.store.hashing import BLOCK_BYTES, DIGEST_BYTES, block_digest
from lfsfs.store.residents import room_of
from lfsfs.store.space import Space
from lfsfs.tiers.remote import RemoteTier

log = logging.getLogger("lfsfs.remote")
FLIGHT_BLOCKS = 8
RECENT_BLOCKS = 8  # of those that found no room, kept in memory for the next reads
AHEAD_WITHOUT_ROOM = 2  # blocks read ahead while there is no room: fewer than are kept in memory
_MISSING, _FLYING, _KEPT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Lanes:
    """What all fetches of a store share."""

    tier: RemoteTier
    circuit: Circuit
    space: Space
    nursery: trio.Nursery
    flights: trio.CapacityLimiter
    deadline: float


class Fetch:
    """The blocks of one object of `size` bytes, at `path` as far as they were kept. Used from one trio thread.

    `whole` is started once, when every block is kept; `ended` is called after each flight.
    """

    def __init__(
        self, lanes: Lanes, oid: Oid, size: int, digests: bytes, path: Path,
        *, whole: Callable[[], Awaitable[None]], ended: Callable[["Fetch"], None],
    ) -> None:  # fmt: skip
        self.oid = oid
        self.size = size
        self.path = path
        self.users = 0
        self.retired = False  # later readers go elsewhere
        self.held = False  # the resident that it has become is kept while somebody reads this
        self.settled = trio.Event()  # what `whole` started is done
        self.used = trio.current_time()
        self.room = 0  # bytes of cache that its blocks hold
        self._lanes = lanes
        self._digests = digests
        self._whole = whole
        self._ended = ended
        self._states = bytearray(len(digests) // DIGEST_BYTES)
        self._kept = 0
        self._flights = 0
        self._has_room = True  # for the blocks of the last flight
        self._recent: OrderedDict[int, bytes] = OrderedDict()
        self._failures: dict[int, LfsfsError] = {}
        self._landed = trio.lowlevel.ParkingLot()
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, size)

    @property
    def blocks(self) -> int:
        return len(self._states)

    @property
    def is_whole(self) -> bool:
        """Whether every block is kept."""
        return self._kept == self.blocks > 0

    @property
    def is_idle(self) -> bool:
        return self.users == 0 and self._flights == 0 and (not self.is_whole or self.settled.is_set())

    async def read(self, offset: int, size: int, ahead: int = 0) -> bytes:
        """`size` bytes from `offset`, all inside the object; `ahead` blocks after them are sent for as well.

        Unavailable at the deadline; Corrupt where the remote tier's bytes are not what was stored.
        """
        first, last = offset // BLOCK_BYTES, (offset + size - 1) // BLOCK_BYTES
        self._send_for(first, last + 1)
        if not self._has_room:
            ahead = min(ahead, AHEAD_WITHOUT_ROOM)
        self._send_for(last + 1, self._ahead_of(last + 1, ahead))
        pieces = []
        for number in range(first, last + 1):
            start = max(offset - number * BLOCK_BYTES, 0)
            end = min(offset + size - number * BLOCK_BYTES, BLOCK_BYTES)
            pieces.append(await self._piece(number, start, end))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _ahead_of(self, number: int, ahead: int) -> int:
        """Up to where blocks are sent for: a reader that goes on needs whole flights, not a block at a time."""
        end = number + ahead
        if end >= self.blocks:
            return self.blocks
        return end - end % FLIGHT_BLOCKS if ahead >= FLIGHT_BLOCKS else end

    async def seed(self, block: bytes) -> None:
        """Takes in the only block of an object that was fetched, and compared, to learn its digest."""
        landing = _Landing(self, 0, 1)
        room = self._room(0, 1)
        kept = await self._lanes.space.reserve_cache(room)
        landing.reserved = room if kept else 0
        if self._is_absent(0):
            self._land(landing, 0, None if kept and self._write(0, block) else block)
        self._lanes.space.release_cache(landing.reserved)

    async def fill(self) -> None:
        """Fetches every block; returns when `whole` was started, or when the cache had no room for some."""
        for number in range(self.blocks):
            await self.read(number * BLOCK_BYTES, 1, ahead=2 * FLIGHT_BLOCKS)

    def close(self) -> None:
        """Gives up what it holds. Nobody uses it any more."""
        self.retired = True
        os.close(self._fd)
        self._fd = -1
        self.path.unlink(missing_ok=True)
        self.give_back()

    def give_back(self) -> None:
        """What it holds is counted elsewhere now."""
        self._lanes.space.release_cache(self.room)
        self.room = 0

    async def _piece(self, number: int, start: int, end: int) -> bytes:
        waited = False
        while True:
            if self._states[number] == _KEPT:
                return os.pread(self._fd, end - start, number * BLOCK_BYTES + start)
            recent = self._recent.get(number)
            if recent is not None:
                self._recent.move_to_end(number)
                return recent[start:end]
            if self._states[number] == _MISSING:
                if waited and number in self._failures:
                    raise self._failures[number]
                self._send_for(number, number + 1)
            await self._landed.park()
            waited = True

    def _send_for(self, first: int, end: int) -> None:
        """Sends flights for those of the blocks that are neither here nor on their way."""
        start = first
        while start < end:
            number = start
            while number < end and number - start < FLIGHT_BLOCKS and self._is_absent(number):
                self._states[number] = _FLYING
                self._failures.pop(number, None)
                number += 1
            if number > start:
                self._flights += 1
                self._lanes.nursery.start_soon(self._fly, start, number)
            start = max(number, start + 1)

    def _is_absent(self, number: int) -> bool:
        return self._states[number] == _MISSING and number not in self._recent

    async def _fly(self, start: int, end: int) -> None:
        """One flight. Whatever happens, no block is left flying, and whoever waits looks again."""
        lanes = self._lanes
        landing = _Landing(self, start, end)
        failure: LfsfsError = Unavailable(f"object {self.oid}: the fetch was cut off")
        try:
            async with lanes.flights:
                reserved = self._room(start, end)
                landing.keep = await lanes.space.reserve_cache(reserved)
                landing.reserved = reserved if landing.keep else 0
                self._has_room = landing.keep
                try:
                    await lanes.circuit.call(landing.attempt, lanes.deadline)
                except Corrupt:  # perhaps on the way only
                    await lanes.circuit.call(landing.attempt, lanes.deadline)
        except LfsfsError as failed:
            failure = failed
        except Exception as unexpected:  # whatever it is, the store goes on
            log.exception("object %s: unexpected failure of a fetch", self.oid)
            failure = LfsfsError(str(unexpected))
        finally:
            self._flights -= 1
            lanes.space.release_cache(landing.reserved)
            for number in range(start, end):
                if self._states[number] == _FLYING:
                    self._states[number] = _MISSING
                    self._failures[number] = failure
            self._landed.unpark_all()
            self._ended(self)

    def _land(self, landing: "_Landing", number: int, block: bytes | None) -> None:
        """A block has come: it is in the file, or, where that found no room, handed over."""
        if block is None:
            room = self._room(number, number + 1)
            landing.reserved -= room
            self.room += room
            self._states[number] = _KEPT
            self._kept += 1
            if self.is_whole:
                self._lanes.nursery.start_soon(self._whole)
        else:
            self._states[number] = _MISSING
            self._recent[number] = block
            if len(self._recent) > RECENT_BLOCKS:
                self._recent.popitem(last=False)
        self._landed.unpark_all()

    def _write(self, number: int, block: bytes) -> bool:
        """Keeps the block; False where the disk does not take it. In a worker thread."""
        try:
            return os.pwrite(self._fd, block, number * BLOCK_BYTES) == len(block)
        except OSError:
            return False

    def _length(self, number: int) -> int:
        return min(BLOCK_BYTES, self.size - number * BLOCK_BYTES)

    def _room(self, start: int, end: int) -> int:
        return room_of(min(end * BLOCK_BYTES, self.size) - start * BLOCK_BYTES)


class _Landing:
    """The blocks of one flight, taken from the bytes as they arrive: cut, compared, written, announced."""

    def __init__(self, fetch: Fetch, start: int, end: int) -> None:
        self.keep = False
        self.reserved = 0  # of the flight's room, what no landed block has taken over yet
        self._fetch = fetch
        self._next = start
        self._end = end
        self._buffer = bytearray()
        self._token = trio.lowlevel.current_trio_token()

    async def attempt(self) -> None:
        """The ranged GET for what has not landed yet. May be repeated."""
        fetch = self._fetch
        self._buffer.clear()
        offset = self._next * BLOCK_BYTES
        size = min(self._end * BLOCK_BYTES, fetch.size) - offset
        if size > 0:
            await fetch._lanes.tier.fetch(fetch.oid, offset, size, self._take)
        if self._next < self._end:
            raise Corrupt(
                f"object {fetch.oid} ends at byte {self._next * BLOCK_BYTES + len(self._buffer)} remotely"
            )

    def _take(self, piece: bytes) -> None:
        """In a worker thread."""
        self._buffer += piece
        while self._next < self._end and len(self._buffer) >= self._fetch._length(self._next):
            length = self._fetch._length(self._next)
            block = bytes(memoryview(self._buffer)[:length])
            del self._buffer[:length]
            self._land(block)

    def _land(self, block: bytes) -> None:
        fetch, number = self._fetch, self._next
        expected = fetch._digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
        if block_digest(block) != expected:
            raise Corrupt(
                f"object {fetch.oid}: the block at {number * BLOCK_BYTES} is damaged in the remote tier"
            )
        kept = self.keep and fetch._write(number, block)
        self._next += 1
        self._token.run_sync_soon(fetch._land, self, number, None if kept else block)
