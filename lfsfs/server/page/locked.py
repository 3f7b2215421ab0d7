"""Locked: the locks of many repositories, which may lie in a bucket: each list is kept for as long as it was dear."""

import time
from collections import OrderedDict
from dataclasses import dataclass

import trio

from lfsfs.errors import LfsfsError
from lfsfs.server.page.derived import SHARE
from lfsfs.store.locks import LocalLocks, Lock, LockFilter, LockPage, Locks
from lfsfs.store.references import Repository

PATIENCE_SECONDS = 3.0
REPOSITORIES = 200
"""Whose locks one page looks at."""
LOCKS = 200
"""Of one repository."""
LOCKS_IN_ALL = 2_000
PARALLEL = 8
REMEMBERED = 1_000
"""Lists."""


@dataclass(frozen=True, slots=True)
class Held:
    """A lock, and in which repository."""

    repository: str
    lock: Lock


@dataclass(frozen=True, slots=True)
class HeldLocks:
    """Locks, newest first. `complete` False: there are more. `problem`: why some are not known, or nothing."""

    locks: list[Held]
    complete: bool = True
    problem: str = ""


class Locked:
    """The locks as the pages show them. A list that comes from elsewhere is shown again for SHARE times as long as it
    took; those of the store itself are as they are.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks
        self._share = 0 if isinstance(locks, LocalLocks) else SHARE
        self._lists: OrderedDict[str, tuple[float, LockPage]] = OrderedDict()  # and until when it is shown

    async def of(self, repositories: list[Repository]) -> HeldLocks:
        """The locks of these, as far as they are to be had just now."""
        limiter = trio.CapacityLimiter(PARALLEL)
        found: list[Held] = []
        problems: list[str] = []
        complete = len(repositories) <= REPOSITORIES

        async def ask(name: str) -> None:
            nonlocal complete
            async with limiter:
                if len(found) >= LOCKS_IN_ALL:
                    complete = False
                    return
                try:
                    page = await self._list(name)
                except LfsfsError as error:
                    problems.append(str(error))
                    return
            found.extend(Held(name, lock) for lock in page.locks)
            complete = complete and page.cursor is None

        with trio.move_on_after(PATIENCE_SECONDS) as patience:
            async with trio.open_nursery() as nursery:
                for repository in repositories[:REPOSITORIES]:
                    nursery.start_soon(ask, repository.name)
        if patience.cancelled_caught:
            problems.append("where the locks are kept does not answer")
        found.sort(key=lambda held: -held.lock.locked_at)
        return HeldLocks(found, complete and not problems, problems[0] if problems else "")

    async def _list(self, repository: str) -> LockPage:
        until, page = self._lists.pop(repository, (0.0, LockPage([])))
        if time.monotonic() >= until:
            begun = time.monotonic()
            page = await self._locks.list(repository, LockFilter(), None, LOCKS)
            now = time.monotonic()
            until = now + self._share * (now - begun)
        self._lists[repository] = until, page
        if len(self._lists) > REMEMBERED:
            self._lists.popitem(last=False)
        return page
