"""Space: the two bounds on local bytes of a store that has a remote tier. Room is reserved before it is filled.

*Cache* is what the remote tier has too: residents that were uploaded, blocks that were fetched. *Pending* is what only
this disk has: files being written, objects that wait for their upload. What the index knows is counted there; what is
on its way is reserved here, and given back when the index counts it: for a moment something may count twice, never not
at all. Used from one trio thread; other processes' commits count through the index.
"""

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from lfsfs.errors import NoSpace
from lfsfs.store import journal, residents
from lfsfs.store.index import Index
from lfsfs.store.rooms import Reserved, Rooms
from lfsfs.units import format_size

GRAB_BYTES = 1 << 20  # what a writer reserves at once, so that it asks seldom
SLACK_BYTES = 2 * residents.DISK_BLOCK_BYTES  # a write that is not aligned touches one block more at each end
RESERVE_SHARE = 20  # with no bound of its own, pending leaves a 20th of the disk free
RESERVE_BYTES = 10 << 30  # or this, where that is less
IDLE_SECONDS = 5.0  # a privileged writer that asks for nothing so long makes way for the next
POLL_SECONDS = 1.0  # a disk gets room without telling us
STAT_BLOCK_BYTES = 512
TURN_SECONDS = 0.001  # until another process's turn to reserve is over
TURNS = 2_000  # a process that stands still in its turn does not hold up the others for ever
ATTEMPTS = 8  # to make room that others do not take at once
Evict = Callable[[int], Awaitable[bool]]
Stored = Callable[[int], int]
"""The bytes of the file of an object of so many."""


class Space:
    """Reservations under the two bounds. `pending_limit` None: the free disk less a reserve.

    `evict` frees at least so many bytes of cache; False where it cannot. It is set by whoever knows what may go.
    `sealed`: that of an object whose file is not the staged one, but is made of it, beside it.
    """

    def __init__(
        self, index: Index, path: Path, *, cache_limit: int, pending_limit: int | None, deadline: float,
        sealed: Stored | None = None,
    ) -> None:  # fmt: skip
        self.cache_limit = cache_limit
        self.pending_limit = pending_limit
        self.deadline = deadline
        self.evict: Evict | None = None
        self._sealed = sealed
        self._index = index
        self._path = path
        self._rooms = Rooms(path)
        self._staged = 0
        self._fetching = 0
        self._grants: dict[object, Grant] = {}
        self._waiting: list[Grant] = []
        self._privileged: Grant | None = None
        self._number = 0
        self._uploaded = -math.inf  # when something was, last
        self._freed = trio.lowlevel.ParkingLot()
        self._room = trio.Lock()

    # What is used.

    def pending(self) -> int:
        """Bytes on disk that only this disk has."""
        staged = self._staged + self._rooms.others().staged
        return staged + self._index.view(journal.backlog).room

    def cached(self) -> int:
        """Bytes on disk that the remote tier has too, those that are being fetched included."""
        fetching = self._fetching + self._rooms.others().fetching
        return fetching + self._index.view(residents.total)

    def close(self) -> None:
        """This process reserves nothing any more."""
        self._rooms.close()

    def _stage(self, size: int) -> None:
        self._staged += size
        self._rooms.set(Reserved(self._staged, self._fetching))

    def _fetch(self, size: int) -> None:
        self._fetching += size
        self._rooms.set(Reserved(self._staged, self._fetching))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Inside, no other process reserves: two that look at the same room must not both take it."""
        for _ in range(TURNS):
            with self._rooms.turn() as ours:
                if ours:
                    yield
                    return
            await trio.sleep(TURN_SECONDS)
        yield

    # Pending: files being written.

    @property
    def seals(self) -> bool:
        """Whether a staged file and its object lie on the disk side by side for a moment."""
        return self._sealed is not None

    def object_room(self, size: int) -> int:
        """The bytes that an object of so many takes on the disk."""
        return residents.room_of(size if self._sealed is None else self._sealed(size))

    def beside(self, size: int) -> int:
        """The bytes that the object of a staged file of so many takes beside it."""
        return 0 if self._sealed is None else self.object_room(size)

    def grant(self, key: object = None) -> "Grant":
        """The reservation of one file being written; that of the same `key`, if there is one still."""
        found = self._grants.get(key)
        if found is None:
            self._number += 1
            key = ("grant", self._number) if key is None else key
            found = self._grants[key] = Grant(self, key, self._number)
        return found

    def forget(self, key: object) -> None:
        """The file of that key is gone."""
        found = self._grants.get(key)
        if found is not None:
            found.close()

    async def reserve_pending(self, grant: "Grant", size: int) -> None:
        """Waits until there is room for so many bytes more. NoSpace where waiting cannot help, and when nothing was
        uploaded for as long as the deadline.
        """
        if self.pending_limit is not None and grant.reserved + size > self.pending_limit:
            limit = format_size(self.pending_limit)
            twice = ", and takes twice its size while it is encrypted" if self.seals else ""
            raise NoSpace(
                f"the file is larger than all that may wait for its upload (--pending-size {limit}){twice}"
            )
        if not self._waiting and await self._take(grant, size):
            return
        self._waiting.append(grant)
        self._waiting.sort(key=lambda waiting: waiting.number)
        begun = trio.current_time()
        try:
            while not await self._take(grant, size):
                end = max(begun, self._uploaded) + self.deadline
                if trio.current_time() >= end:
                    raise NoSpace(
                        f"{format_size(self.pending())} wait for their upload, and no more may:"
                        f" nothing was uploaded for {self.deadline:.0f} s"
                    )
                with trio.move_on_at(min(end, trio.current_time() + POLL_SECONDS)):
                    await self._freed.park()
        finally:
            self._waiting.remove(grant)

    async def _take(self, grant: "Grant", size: int) -> bool:
        if not self._may_take(grant, size) or not await self._disk_has(size):
            return False
        if self.pending_limit is not None:
            async with self._turn():
                if not self._may_take(grant, size):
                    return False
                self._stage(size)
        else:
            self._stage(size)
        grant.reserved += size
        return True

    def _may_take(self, grant: "Grant", size: int) -> bool:
        """Up to half the bound for whoever asks; the rest is for one writer at a time, the oldest.

        Otherwise many writers could fill it with files of which none can be finished.
        """
        if self.pending_limit is None:
            return True
        used = self.pending() + size
        if used <= self.pending_limit // 2:
            return True
        if used > self.pending_limit:
            return False
        now = trio.current_time()
        privileged = self._privileged
        if privileged is None or privileged.closed or now - privileged.asked > IDLE_SECONDS:
            first = self._waiting[0] if self._waiting else grant
            self._privileged = first
            first.asked = now
        if self._privileged is not grant:
            return False
        grant.asked = now
        return True

    async def _disk_has(self, size: int) -> bool:
        """Whether the disk itself has room and a reserve, if need be after an eviction."""
        lacking = self._disk_lacks(size)
        if lacking > 0 and self.evict is not None and self.cached() > 0 and await self.evict(lacking):
            lacking = self._disk_lacks(size)  # others may have written meanwhile
        return lacking <= 0

    def _disk_lacks(self, size: int) -> int:
        if self.pending_limit is not None:
            return 0
        disk = os.statvfs(self._path)
        reserve = min(disk.f_blocks * disk.f_frsize // RESERVE_SHARE, RESERVE_BYTES)
        return size + reserve - disk.f_bavail * disk.f_frsize

    async def reserve_spare(self, size: int) -> bool:
        """Whether there is room for so many bytes of what can be done without; then it is taken. Never waits for any.

        Nothing of the half that one writer may need is taken, and nothing that somebody waits for.
        """
        if not self._is_spare(size) or not await self._disk_has(size):
            return False
        if self.pending_limit is None:
            self._stage(size)
            return True
        async with self._turn():
            if not self._is_spare(size):
                return False
            self._stage(size)
        return True

    def _is_spare(self, size: int) -> bool:
        if self._waiting:
            return False
        return self.pending_limit is None or self.pending() + size <= self.pending_limit // 2

    def release_pending(self, size: int) -> None:
        self._stage(-size)
        self._freed.unpark_all()

    def wake(self) -> None:
        """Something was uploaded: whoever waits looks again, and has reason to go on waiting."""
        self._uploaded = trio.current_time()
        self._freed.unpark_all()

    # Cache: blocks being fetched, objects that were uploaded.

    async def reserve_cache(self, size: int) -> bool:
        """Makes room for so many bytes of cache, by eviction where need be; False where there can be none."""
        async with self._room:
            for _ in range(ATTEMPTS):
                lacking = self._cache_lacks(size)
                if lacking > 0 and (
                    size > self.cache_limit or self.evict is None or not await self.evict(lacking)
                ):
                    return False
                async with self._turn():
                    if self._cache_lacks(size) <= 0:
                        self._fetch(size)
                        return True
        return False

    def _cache_lacks(self, size: int) -> int:
        return self.cached() + self._overhead() + size - self.cache_limit

    def release_cache(self, size: int) -> None:
        self._fetch(-size)

    def _overhead(self) -> int:
        """The index lies on the same disk: what it takes, the cache does without."""
        try:
            return os.stat(self._index.path / "data.mdb").st_blocks * STAT_BLOCK_BYTES
        except OSError:
            return 0


class Grant:
    """What one file being written has reserved, and how much of that it has not used yet."""

    def __init__(self, space: Space, key: object, number: int) -> None:
        self.number = number
        self.reserved = 0
        self.asked = 0.0
        self.closed = False
        self._key = key
        self._space = space
        self._left = 0

    async def cover(self, room: Callable[[], int], size: int) -> None:
        """Waits until there is room for so many bytes more in the file. NoSpace.

        `room` measures what the file takes, or will take once it lies on disk, and what its object will take beside it.

        They are to be written before anything else happens: several tasks may write to the file, and what one of them
        has written while another one waited is measured.
        """
        size += self._space.beside(size)
        wanted = size + SLACK_BYTES
        while self._left < wanted:
            await self._grow(room(), wanted)
            if self.closed:
                break
            self._left = self.reserved - room()
        self._left -= size
        if self.closed:  # the file ended while we waited
            self._space.release_pending(self.reserved)
            self.reserved = self._left = 0

    async def complete(self, room: int) -> None:
        """Waits until that much is reserved, where the object of the file is to lie beside it. NoSpace."""
        if self._space.seals and room > self.reserved:
            await self._space.reserve_pending(self, room - self.reserved)

    def room_of(self, size: int, taken: int | None) -> int:
        """What a file of so many bytes counts, of which that much is `taken` on disk; None: it lies in memory."""
        return self._space.object_room(size) if taken is None else taken + self._space.beside(size)

    def adopt(self, size: int) -> None:
        """Counts a file that lies there already, room or not."""
        if size > self.reserved:
            self._space.release_pending(self.reserved - size)
            self.reserved = size

    def shrink(self, room: int) -> None:
        """The file takes so much, and will be written no more: gives back what it did not need."""
        spare = self.reserved - room
        if spare > 0:
            self.reserved -= spare
            self._left = 0
            self._space.release_pending(spare)

    def close(self) -> None:
        """The file is gone, or counted elsewhere."""
        if not self.closed:
            self.closed = True
            self._space._grants.pop(self._key, None)
            if self._space._privileged is self:
                self._space._privileged = None
            self._space.release_pending(self.reserved)
            self.reserved = self._left = 0

    async def _grow(self, actual: int, size: int) -> None:
        lacking = actual + size - self.reserved
        if lacking > 0:
            limit = self._space.pending_limit
            roomy = limit is None or limit >= 64 * GRAB_BYTES
            await self._space.reserve_pending(self, max(lacking, GRAB_BYTES) if roomy else lacking)
