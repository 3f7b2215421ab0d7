"""Fetch: one object on its way from the remote tier, block by block, into a sparse local file.

However many readers ask, a block is fetched once: a *flight* is one ranged GET for a run of blocks that nobody has
asked for yet. Each block is compared with its digest before anybody gets a byte of it; digests that are still on their
way themselves hold up the comparison, not the flight. Where the cache has no room the blocks of a flight are kept in
memory for those who wait, and for a short while after.
"""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from lfsfs.errors import Corrupt, LfsfsError, Unavailable
from lfsfs.oid import Oid
from lfsfs.store.circuit import Circuit
from lfsfs.store.digests import block_count
from lfsfs.store.hashing import BLOCK_BYTES, DIGEST_BYTES, block_digest
from lfsfs.store.moved import Moved
from lfsfs.store.space import Space
from lfsfs.tiers.local_file import Part
from lfsfs.tiers.remote import RemoteTier

log = logging.getLogger("lfsfs.remote")
FLIGHT_BLOCKS = 8
RECENT_BLOCKS = 8  # of those that found no room, kept in memory for the next reads
AHEAD_WITHOUT_ROOM = 2  # blocks read ahead while there is no room: fewer than are kept in memory
MOST_PIECES = 64  # of a block: with more it is put together first
_MISSING, _FLYING, _KEPT = 0, 1, 2
Block = Sequence[bytes | memoryview]
"""The bytes of a block, in the pieces that they came in."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """What all fetches of a store share."""

    tier: RemoteTier
    circuit: Circuit
    space: Space
    nursery: trio.Nursery
    flights: trio.CapacityLimiter
    deadline: float
    moved: Moved = field(default_factory=Moved)

    def end(self, begun: float) -> float:
        """When what was begun then has waited long enough, as far as is known now.

        The wait for a turn counts, as one read(2) has one deadline; but not while others get what they asked for.
        """
        return max(begun, self.circuit.answered_at) + self.deadline

    @asynccontextmanager
    async def turn(self, begun: float) -> AsyncIterator[None]:
        """One of the flights that there may be at once. Unavailable."""
        while (end := self.end(begun)) > trio.current_time():
            with trio.move_on_at(end) as patience:
                await self.flights.acquire()
            if patience.cancelled_caught:
                continue
            try:
                yield
            finally:
                self.flights.release()
            return
        raise self.circuit.unavailable()


class Fetch:
    """The blocks of one object of `size` bytes, in `part` as far as they were kept. Used from one trio thread.

    `learn` brings the block digests, and is asked at the first read; `whole` is started once, when every block is kept;
    `ended` is called after each flight.
    """

    def __init__(
        self, lanes: Lanes, oid: Oid, size: int, part: Part, *, learn: Callable[[], Awaitable[bytes]],
        whole: Callable[[], Awaitable[None]], ended: Callable[["Fetch"], None],
    ) -> None:  # fmt: skip
        self.oid = oid
        self.size = size
        self.part = part
        self.users = 0
        self.retired = False  # later readers go elsewhere
        self.held = False  # the resident that it has become is kept while somebody reads this
        self.settled = trio.Event()  # what `whole` started is done
        self.used = trio.current_time()
        self.room = 0  # bytes of cache that its blocks hold
        self._lanes = lanes
        self._learn = learn
        self._learning: trio.Event | None = None  # set when `learn` has ended, one way or the other
        self._digests: bytes | None = None
        self._ignorance: LfsfsError | None = None  # why the digests are not known
        self._whole = whole
        self._ended = ended
        self._states = bytearray(block_count(size))
        self._kept = 0
        self._flights = 0
        self._has_room = True  # for the blocks of the last flight
        self._doubted: set[int] = set()  # kept, and not compared since nobody had it open
        self._recent: OrderedDict[int, bytes] = OrderedDict()
        self._failures: dict[int, LfsfsError] = {}
        self._landed = trio.lowlevel.ParkingLot()

    @property
    def blocks(self) -> int:
        return len(self._states)

    @property
    def is_whole(self) -> bool:
        """Whether every block is kept."""
        return self._kept == self.blocks > 0

    @property
    def is_idle(self) -> bool:
        if self.users or self._flights or (self._learning is not None and not self._learning.is_set()):
            return False
        return not self.is_whole or self.settled.is_set()

    async def read(self, offset: int, size: int, ahead: int = 0) -> bytes:
        """`size` bytes from `offset`, all inside the object; `ahead` blocks after them are sent for as well.

        Unavailable at the deadline; Corrupt where the remote tier's bytes are not what was stored.
        """
        first, last = offset // BLOCK_BYTES, (offset + size - 1) // BLOCK_BYTES
        self._ask_for_digests()
        self._send_for(first, last + 1)
        if not self._has_room:
            ahead = min(ahead, AHEAD_WITHOUT_ROOM)
        if self._digests is None:
            ahead = 0  # what cannot be compared yet is kept in memory
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

    def know(self, digests: bytes) -> None:
        """The block digests, 32 bytes each."""
        self._digests = digests

    def _ask_for_digests(self) -> None:
        """Sends for them where they are not known, nor on their way."""
        if self._digests is None and (self._learning is None or self._learning.is_set()):
            self._learning, self._ignorance = trio.Event(), None
            self._lanes.nursery.start_soon(self._learn_digests, self._learning)

    async def _learn_digests(self, done: trio.Event) -> None:
        try:
            self.know(await self._learn())
        except LfsfsError as failed:
            self._ignorance = failed
        except Exception as unexpected:  # whatever it is, the store goes on
            log.exception("object %s: unexpected failure while its digests were looked for", self.oid)
            self._ignorance = LfsfsError(str(unexpected))
        finally:
            done.set()
            self._landed.unpark_all()
            self._ended(self)

    async def _known(self) -> None:
        """Returns when the digests are known; raises what kept them from being so."""
        if self._digests is None and self._learning is not None:
            await self._learning.wait()
        if self._ignorance is not None:
            raise self._ignorance

    async def seed(self, block: bytes) -> None:
        """Takes in the only block of an object that was fetched, and compared, to learn its digest."""
        landing = _Landing(self, 0, 1)
        room = self._room(0, 1)
        kept = await self._lanes.space.reserve_cache(room)
        landing.reserved = room if kept else 0
        if self._is_absent(0):
            self._land(landing, 0, None if kept and self._write(0, [block]) else block)
        self._lanes.space.release_cache(landing.reserved)

    async def fill(self) -> None:
        """Fetches every block; returns when `whole` was started, or when the cache had no room for some."""
        for number in range(self.blocks):
            await self.read(number * BLOCK_BYTES, 1, ahead=2 * FLIGHT_BLOCKS)

    def close(self) -> None:
        """Gives up what it holds. Nobody uses it any more. Repeating is harmless."""
        self.retired = True
        self.part.close()
        self.give_back()

    def give_back(self) -> None:
        """What it holds is counted elsewhere now."""
        self._lanes.space.release_cache(self.room)
        self.room = 0

    async def _piece(self, number: int, start: int, end: int) -> bytes:
        waited = False
        while True:
            if self._states[number] == _KEPT and self._is_still(number):
                try:
                    return self.part.read(number * BLOCK_BYTES + start, end - start)
                except Corrupt:
                    self._lose(number)
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

    def acquire(self) -> None:
        """One more reads it. What lies on the disk since others did is compared once more."""
        if self.users == 0:
            self._doubted = {number for number, state in enumerate(self._states) if state == _KEPT}
        self.users += 1

    def _is_still(self, number: int) -> bool:
        """Whether a block that was kept is what it was; else it is missing from now on."""
        if number not in self._doubted:
            return True
        self._doubted.discard(number)
        expected = (self._digests or b"")[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
        try:
            if block_digest(self.part.read(number * BLOCK_BYTES, self._length(number))) == expected:
                return True
        except Corrupt:
            pass
        self._lose(number)
        return False

    def _lose(self, number: int) -> None:
        """A block that was kept is missing from now on."""
        log.warning("object %s: the local copy of a block is damaged, fetching it again", self.oid)
        self._states[number] = _MISSING
        self._kept -= 1
        room = min(self._room(number, number + 1), self.room)
        self.room -= room
        self._lanes.space.release_cache(room)

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
        begun = trio.current_time()
        failure: LfsfsError = Unavailable(f"object {self.oid}: the fetch was cut off")
        try:
            try:
                await self._bring(landing, begun)
            except Corrupt:  # perhaps on the way only
                if self._digests is None:
                    raise
                await self._bring(landing, begun)
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

    async def _bring(self, landing: "_Landing", begun: float) -> None:
        lanes = self._lanes
        async with lanes.turn(begun):
            if not landing.keep:
                reserved = self._room(landing.start, landing.end)
                landing.keep = await lanes.space.reserve_cache(reserved)
                landing.reserved = reserved if landing.keep else 0
                self._has_room = landing.keep
            await lanes.circuit.call(landing.attempt, lanes.end(begun) - trio.current_time())
        if landing.unverified:
            await self._known()
            await trio.to_thread.run_sync(landing.verify)

    def _land(self, landing: "_Landing", number: int, block: bytes | None) -> None:
        """A block has come: it is in the file, or, where that found no room, handed over."""
        self._lanes.moved.fetched_bytes += min(BLOCK_BYTES, self.size - number * BLOCK_BYTES)
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

    def _write(self, number: int, block: Block) -> bool:
        """Keeps the block; False where the disk does not take it. In a worker thread."""
        return self.part.write(number * BLOCK_BYTES, block)

    def _length(self, number: int) -> int:
        return min(BLOCK_BYTES, self.size - number * BLOCK_BYTES)

    def _room(self, start: int, end: int) -> int:
        """The bytes that these blocks take on disk, at most: the sum of what each of them does."""
        return sum(self.part.room_of(self._length(number)) for number in range(start, end))


class _Landing:
    """The blocks of one flight, taken from the bytes as they arrive: cut, compared, written, announced."""

    def __init__(self, fetch: Fetch, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.keep = False
        self.reserved = 0  # of the flight's room, what no landed block has taken over yet
        self.unverified: list[bytes] = []  # the blocks that came before the digests
        self._fetch = fetch
        self._next = start  # the next that lands
        self._pieces: list[memoryview] = []
        self._gathered = 0
        self._token = trio.lowlevel.current_trio_token()

    async def attempt(self) -> None:
        """The ranged GET for what has not come yet. May be repeated."""
        fetch = self._fetch
        self._pieces, self._gathered = [], 0
        offset = self._coming * BLOCK_BYTES
        size = min(self.end * BLOCK_BYTES, fetch.size) - offset
        if size > 0:
            await fetch._lanes.tier.fetch(fetch.oid, offset, size, self._take)
        if self._coming < self.end:
            raise Corrupt(
                f"object {fetch.oid} ends at byte {self._coming * BLOCK_BYTES + self._gathered} remotely"
            )

    @property
    def _coming(self) -> int:
        """The block that is on its way."""
        return self._next + len(self.unverified)

    def _take(self, piece: bytes) -> None:
        """In a worker thread."""
        rest = memoryview(piece)
        while self._coming < self.end and (
            (lacking := self._fetch._length(self._coming) - self._gathered) <= len(rest)
        ):
            block: Block = [*self._pieces, rest[:lacking]]
            if len(block) > MOST_PIECES:
                block = [b"".join(block)]
            rest = rest[lacking:]
            self._pieces, self._gathered = [], 0
            if self._fetch._digests is None:
                self.unverified.append(b"".join(block))
            else:
                self.verify()
                self._land(block)
        if rest:
            self._pieces.append(rest)
            self._gathered += len(rest)

    def verify(self) -> None:
        """Lands the blocks that have come; Corrupt where one is not what was stored. In a worker thread."""
        while self.unverified:
            try:
                self._land([self.unverified[0]])
            except Corrupt:
                self.unverified.clear()
                raise
            del self.unverified[0]

    def _land(self, block: Block) -> None:
        fetch, number = self._fetch, self._next
        digests = fetch._digests or b""
        if block_digest(*block) != digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
            raise Corrupt(
                f"object {fetch.oid}: the block at {number * BLOCK_BYTES} is damaged in the remote tier"
            )
        kept = self.keep and fetch._write(number, block)
        self._token.run_sync_soon(fetch._land, self, number, None if kept else b"".join(block))
        self._next += 1
