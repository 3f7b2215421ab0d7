"""Locks in the bucket: for any number of machines that have it in common, and no server.

Each path that was ever locked has *turns*, notes with ascending numbers; the one with the highest number holds: somebody
has the lock, or it was given back. A turn is written by a conditional write, which one machine wins, and never changed.
Turns below the highest are of no use and are removed; the highest never is, so the numbers never begin anew. A machine
that was stopped between its look and its write may still write a turn of a number that is long over: so it looks
again, and has the lock only if its turn is the highest. Layout: docs/FORMAT.md.
"""

import builtins
import hashlib
import json
import time
import uuid
from dataclasses import asdict, dataclass

import trio

from lfsfs.errors import Corrupt, NotFound, Unavailable
from lfsfs.store.locks import PAGE_LIMIT, Lock, LockFilter, LockPage, LockTaken, NoLocks, matches
from lfsfs.store.remote import Remote

PAGE = 1000
READERS = 8
TRIAL_SECONDS = 60.0  # what trying out the bucket may take
TRIES = 20  # while others lock and unlock the same path all the time
REMEMBERED = 20_000
_DIGEST_BYTES = 16
_TURN_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Turn:
    """`lock`: as it is, or, where it was given back, as it was. `writer`: who wrote this, to know one's own."""

    number: int
    lock: Lock
    held: bool
    writer: str


class BucketLocks:
    """The Locks of a store whose remote tier is the bucket. Where that cannot tell who was first, NoLocks for who wants
    one; then there are none, and to look for some does no harm.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._known: dict[str, Turn] = {}  # by key: what is written stays as it is

    async def create(self, repository: str, path: str, owner: str, ref: str = "") -> Lock:
        await self._check_granting()
        place = _place(repository, path)
        for _ in range(TRIES):
            latest = await self._latest(place)
            if latest is not None and latest.held:
                raise LockTaken(latest.lock)
            number = 1 if latest is None else latest.number + 1
            lock = Lock(_id(place, number), path, owner, time.time_ns(), ref)
            if await self._write(place, Turn(number, lock, True, uuid.uuid4().hex)):
                numbers = await self._numbers(place)
                await self._remove(place, [other for other in numbers if other < numbers[-1]])
                if numbers[-1] == number:
                    return lock
        raise Unavailable(f"{path} is locked and unlocked by others all the time")

    async def get(self, repository: str, lock_id: str) -> Lock:
        return (await self._held(repository, lock_id)).lock

    async def list(
        self, repository: str, wanted: LockFilter, cursor: str | None = None, limit: int = PAGE_LIMIT
    ) -> LockPage:
        after = _check_cursor(cursor)
        if wanted.id is not None or wanted.path is not None:
            return LockPage([lock for lock in await self._one(repository, wanted) if matches(lock, wanted)])
        found: list[Lock] = []
        names = await self._names(repository, after)
        for start in range(0, len(names), PAGE):
            for lock in await self._locks(names[start : start + PAGE]):
                if not matches(lock, wanted):
                    continue
                if len(found) == limit:
                    return LockPage(found, _path_digest(found[-1].path))
                found.append(lock)
        return LockPage(found)

    async def delete(self, repository: str, lock_id: str) -> Lock:
        """As the protocol has it. Of two that give one lock back, the other may be told that it succeeded as well if
        a third has taken and given back the lock in between: nothing but its answer is affected.
        """
        turn = await self._held(repository, lock_id)
        place = _place(repository, turn.lock.path)
        given = Turn(turn.number + 1, turn.lock, False, uuid.uuid4().hex)
        if not await self._write(place, given):
            raise NotFound(f"no lock {lock_id!r}")
        numbers = await self._numbers(place)
        await self._remove(place, [other for other in numbers if other < numbers[-1]])
        return turn.lock

    # What a path's turns say.

    async def _latest(self, place: str) -> Turn | None:
        while numbers := await self._numbers(place):
            try:
                return await self._read(f"{place}{numbers[-1]:0{_TURN_DIGITS}}")
            except NotFound:
                continue  # another turn has begun
        return None

    async def _held(self, repository: str, lock_id: str) -> Turn:
        digest, _, number = lock_id.partition("-")
        if not _is_digest(digest) or not (number.isascii() and number.isdigit()):
            raise NotFound(f"no lock {lock_id!r}")
        turn = await self._latest(f"{_scope(repository)}{digest}/")
        if turn is None or not turn.held or turn.lock.id != lock_id:
            raise NotFound(f"no lock {lock_id!r}")
        return turn

    async def _one(self, repository: str, wanted: LockFilter) -> builtins.list[Lock]:
        if wanted.id is None:
            turn = await self._latest(_place(repository, wanted.path or ""))
            return [turn.lock] if turn is not None and turn.held else []
        try:
            return [(await self._held(repository, wanted.id)).lock]
        except NotFound:
            return []

    async def _locks(self, keys: builtins.list[str]) -> builtins.list[Lock]:
        """Those that are held, of paths whose highest turns were these."""
        found: dict[str, Turn | None] = {}
        readers = trio.CapacityLimiter(READERS)

        async def read(key: str) -> None:
            async with readers:
                try:
                    found[key] = await self._read(key)
                except NotFound:
                    found[key] = await self._latest(key[: key.rindex("/") + 1])

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(read, key)
        turns = [found[key] for key in keys]
        return [turn.lock for turn in turns if turn is not None and turn.held]

    # Notes.

    async def _check_granting(self) -> None:
        tier = await self._remote.tier()
        if await self._remote.circuit.call(tier.grants_names, TRIAL_SECONDS):
            return
        raise NoLocks(
            f"{self._remote.url} cannot keep locks: its server lets two machines write one new name at once"
            ' (`lfsfs doctor`). With a single server for everybody, locks = "store" in [server] keeps them there'
        )

    async def _names(self, repository: str, after: str) -> builtins.list[str]:
        """The key of the highest turn of each path behind `after`, ascending."""
        scope = _scope(repository)
        highest: dict[str, str] = {}
        start = f"{scope}{after}0" if after else None  # "0" is what follows "/"
        while page := await self._listed(scope, start):
            start = page[-1]
            for key in page:
                highest[key[: key.rindex("/")]] = key
        return list(highest.values())

    async def _numbers(self, place: str) -> builtins.list[int]:
        """The numbers of the turns that are there, ascending."""
        return [
            int(key[len(place) :]) for key in await self._listed(place, None) if key[len(place) :].isdigit()
        ]

    async def _listed(self, prefix: str, after: str | None) -> builtins.list[str]:
        tier = await self._remote.tier()
        return await self._remote.circuit.call(
            lambda: tier.notes(prefix, after, PAGE), self._remote.options.deadline
        )

    async def _read(self, key: str) -> Turn:
        if key not in self._known:
            tier = await self._remote.tier()
            note = await self._remote.circuit.call(lambda: tier.note(key), self._remote.options.deadline)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = _decode(note)
        return self._known[key]

    async def _write(self, place: str, turn: Turn) -> bool:
        """Whether the turn is ours. A server may say of our own write, whose answer was lost, that it was another's."""
        key = f"{place}{turn.number:0{_TURN_DIGITS}}"
        tier = await self._remote.tier()
        note = json.dumps(asdict(turn)).encode()
        if await self._remote.circuit.call(
            lambda: tier.put_note(key, note, only_new=True), self._remote.options.deadline
        ):
            return True
        try:
            return (await self._read(key)).writer == turn.writer
        except NotFound:
            return False

    async def _remove(self, place: str, numbers: builtins.list[int]) -> None:
        tier = await self._remote.tier()

        async def remove() -> None:
            for number in numbers:
                await tier.delete_note(f"{place}{number:0{_TURN_DIGITS}}")

        await self._remote.circuit.call(remove, self._remote.options.deadline)


def _scope(repository: str) -> str:
    return f"locks/{hashlib.blake2b(repository.encode(), digest_size=_DIGEST_BYTES).hexdigest()}/"


def _place(repository: str, path: str) -> str:
    return f"{_scope(repository)}{_path_digest(path)}/"


def _path_digest(path: str) -> str:
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def _id(place: str, number: int) -> str:
    return f"{place.split('/')[2]}-{number}"


def _is_digest(text: str) -> bool:
    return len(text) == 2 * _DIGEST_BYTES and not text.strip("0123456789abcdef")


def _check_cursor(cursor: str | None) -> str:
    if cursor and not _is_digest(cursor):
        raise ValueError(f"no cursor of ours: {cursor!r}")
    return cursor or ""


def _decode(note: bytes) -> Turn:
    """Corrupt unless it is one, whatever somebody has put there."""
    try:
        said = json.loads(note)
        lock = said["lock"]
        kept = Lock(
            str(lock["id"]), str(lock["path"]), str(lock["owner"]), int(lock["locked_at"]), str(lock["ref"])
        )
        return Turn(int(said["number"]), kept, bool(said["held"]), str(said["writer"]))
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as wrong:
        raise Corrupt("a lock in the bucket is damaged") from wrong
