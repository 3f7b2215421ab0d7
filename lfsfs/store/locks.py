"""Locks: who holds which path of which repository of the server. At most one lock a path, granted atomically.

A path is locked on all branches: the branch it was locked from is kept, and can be asked for. Whatever says that a
lock was granted has committed it first: it survives kill -9.
"""

import errno
import hashlib
import json
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Protocol

from lfsfs.errors import Exists, LfsfsError, NotFound
from lfsfs.store.index import Index, Tx

PATH_LIMIT_BYTES = 4096
PAGE_LIMIT = 1000
"""Locks: what one page holds at most."""
_SCOPE_BYTES = 16
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Lock:
    """A held lock. `owner`: the name of an identity. `locked_at`: nanoseconds since 1970. `ref`: may be empty."""

    id: str
    path: str
    owner: str
    locked_at: int
    ref: str = ""


@dataclass(frozen=True, slots=True)
class LockPage:
    """Some locks, in no order that means anything but always the same. `cursor`: where the next page begins, if any."""

    locks: list[Lock]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class LockFilter:
    """Which locks a list wants; None: any."""

    path: str | None = None
    id: str | None = None
    ref: str | None = None


class LockTaken(Exists):
    """The path is locked: `lock` says by whom."""

    def __init__(self, lock: Lock) -> None:
        super().__init__(f"{lock.path} is locked by {lock.owner}")
        self.lock = lock


class NoLocks(LfsfsError):
    """Locks cannot be kept there: it would be a race who gets one."""

    errno, status = errno.ENOTSUP, 501


class Locks(Protocol):
    """The locks of all repositories of a server. `repository`: its name, "/owner/repo". Any may be Unavailable."""

    async def create(self, repository: str, path: str, owner: str, ref: str = "") -> Lock:
        """LockTaken if somebody has it, the owner too. Of any number that try at once, one gets it."""

    async def get(self, repository: str, lock_id: str) -> Lock:
        """NotFound."""

    async def list(
        self, repository: str, wanted: LockFilter, cursor: str | None = None, limit: int = PAGE_LIMIT
    ) -> LockPage:
        """One page, of at most `limit`. ValueError where the cursor is none of ours."""

    async def delete(self, repository: str, lock_id: str) -> Lock:
        """Ends the lock; the lock as it was. NotFound; of any number that try at once, one succeeds."""


class LocalLocks:
    """Locks in the store's index: for one server on one store."""

    def __init__(self, index: Index) -> None:
        self._index = index

    async def create(self, repository: str, path: str, owner: str, ref: str = "") -> Lock:
        lock = Lock(uuid.uuid4().hex, path, owner, time.time_ns(), ref)
        scope, key = _scope(repository), _key(path)

        def write(tx: Tx) -> Lock:
            held = tx.get("locks", scope + key)
            if held is not None:
                raise LockTaken(_decode(held))
            tx.put("locks", scope + key, _encode(lock))
            tx.put("locks_by_id", scope + lock.id.encode(), key)
            return lock

        return await self._index.update(write)

    async def get(self, repository: str, lock_id: str) -> Lock:
        found = self._index.view(lambda tx: _find(tx, repository, lock_id))
        if found is None:
            raise NotFound(f"no lock {lock_id!r}")
        return found

    async def list(
        self, repository: str, wanted: LockFilter, cursor: str | None = None, limit: int = PAGE_LIMIT
    ) -> LockPage:
        start = _start(cursor)
        if wanted.id is not None:
            found = self._index.view(lambda tx: _find(tx, repository, wanted.id or ""))
            return LockPage([found] if found is not None and matches(found, wanted) else [])
        if wanted.path is not None:
            return LockPage(self._at(repository, wanted, wanted.path))
        return self._index.view(lambda tx: _page(tx, _scope(repository), wanted, start, limit))

    async def delete(self, repository: str, lock_id: str) -> Lock:
        scope = _scope(repository)

        def write(tx: Tx) -> Lock:
            found = _find(tx, repository, lock_id)
            if found is None:
                raise NotFound(f"no lock {lock_id!r}")
            tx.delete("locks", scope + _key(found.path))
            tx.delete("locks_by_id", scope + found.id.encode())
            return found

        return await self._index.update(write)

    def _at(self, repository: str, wanted: LockFilter, path: str) -> "list[Lock]":  # type: ignore[valid-type]
        held = self._index.view(lambda tx: tx.get("locks", _scope(repository) + _key(path)))
        return [lock for lock in ([_decode(held)] if held is not None else []) if matches(lock, wanted)]


def matches(lock: Lock, wanted: LockFilter) -> bool:
    """A lock that was taken without a branch is there on each."""
    return (
        (wanted.path is None or lock.path == wanted.path)
        and (wanted.id is None or lock.id == wanted.id)
        and (wanted.ref is None or lock.ref in ("", wanted.ref))
    )


def _page(tx: Tx, scope: bytes, wanted: LockFilter, start: bytes, limit: int) -> LockPage:
    found: list[Lock] = []
    for key, value in tx.scan("locks", scope + start, scope):
        lock = _decode(value)
        if not matches(lock, wanted):
            continue
        if len(found) == limit:
            return LockPage(found, key[_SCOPE_BYTES:].hex())
        found.append(lock)
    return LockPage(found)


def _find(tx: Tx, repository: str, lock_id: str) -> Lock | None:
    scope = _scope(repository)
    if len(lock_id) != _KEY_BYTES or not lock_id.isascii():  # an id has as many digits as a key has bytes
        return None
    key = tx.get("locks_by_id", scope + lock_id.encode())
    held = None if key is None else tx.get("locks", scope + key)
    return None if held is None else _decode(held)


def _start(cursor: str | None) -> bytes:
    start = bytes.fromhex(cursor or "")
    if cursor and len(start) != _KEY_BYTES:
        raise ValueError(f"no cursor of ours: {cursor!r}")
    return start


def _scope(repository: str) -> bytes:
    return hashlib.blake2b(repository.encode(), digest_size=_SCOPE_BYTES).digest()


def _key(path: str) -> bytes:
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()


def _encode(lock: Lock) -> bytes:
    return json.dumps(asdict(lock)).encode()


def _decode(value: bytes) -> Lock:
    return Lock(**json.loads(value))
