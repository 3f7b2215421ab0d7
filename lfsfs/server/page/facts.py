"""Facts: what the pages show, gathered for one viewer: nothing that they may not know of leaves this file."""

import os
from dataclasses import dataclass

import trio

from lfsfs.errors import LfsfsError
from lfsfs.server.page.viewer import Viewer
from lfsfs.server.service import Service
from lfsfs.store import activity, query, references
from lfsfs.store.activity import Activity
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.keepers import Keeper
from lfsfs.store.layout import is_server_name
from lfsfs.store.locks import Lock, LockFilter
from lfsfs.store.query import ListQuery
from lfsfs.store.references import Repository
from lfsfs.store.remote import RemoteStatus

LOCKS_SECONDS = 3.0
LOCKED_REPOSITORIES = 200
"""Repositories whose locks one page looks at."""
LOCKS = 500
"""Of one repository."""
LOCKS_IN_ALL = 2_000
PARALLEL = 8


@dataclass(frozen=True, slots=True)
class Standing:
    """A repository and how many objects it refers to. `bytes` None: not counted yet."""

    repository: Repository
    objects: int
    bytes: int | None

    @property
    def is_root(self) -> bool:
        """Of the mount."""
        return not is_server_name(self.repository.name)


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


@dataclass(frozen=True, slots=True)
class Disk:
    """Of the file system that the store is on, in bytes."""

    free: int
    size: int


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as a viewer sees it. `keepers`: those that they may know of; `name`: by which it was found."""

    row: ObjectStat
    keepers: list[Keeper]
    name: str = ""


def standings(service: Service, viewer: Viewer, sizes: dict[int, int] | None) -> list[Standing]:
    """Of every repository that they see, those of the server first. `sizes`: bytes by id."""

    def look(tx: Tx) -> list[Standing]:
        return [
            Standing(one, references.count(tx, one.id), None if sizes is None else sizes.get(one.id, 0))
            for one in viewer.readable.values()
        ]

    found = service.store.index.view(look)
    return sorted(found, key=lambda one: (one.is_root, one.repository.name))


async def locks(service: Service, repositories: list[Repository]) -> HeldLocks:
    """The locks of these. They may be elsewhere, and not to be had just now."""
    limiter = trio.CapacityLimiter(PARALLEL)
    found: list[Held] = []
    problems: list[str] = []
    complete = len(repositories) <= LOCKED_REPOSITORIES

    async def ask(name: str) -> None:
        nonlocal complete
        async with limiter:
            if len(found) >= LOCKS_IN_ALL:
                complete = False
                return
            try:
                page = await service.locks.list(name, LockFilter(), None, LOCKS)
            except LfsfsError as error:
                problems.append(str(error))
                return
        found.extend(Held(name, lock) for lock in page.locks)
        complete = complete and page.cursor is None

    with trio.move_on_after(LOCKS_SECONDS) as patience:
        async with trio.open_nursery() as nursery:
            for repository in repositories[:LOCKED_REPOSITORIES]:
                nursery.start_soon(ask, repository.name)
    if patience.cancelled_caught:
        problems.append("where the locks are kept does not answer")
    found.sort(key=lambda held: -held.lock.locked_at)
    return HeldLocks(found, complete and not problems, problems[0] if problems else "")


def newest_activity(service: Service, repositories: list[Repository], limit: int) -> list[Activity]:
    """Newest first."""

    def look(tx: Tx) -> list[Activity]:
        return [done for one in repositories for done in activity.newest(tx, one.name, limit)]

    return sorted(service.store.index.view(look), key=lambda done: -done.at)[:limit]


def newest_objects(service: Service, viewer: Viewer, limit: int) -> list[Seen]:
    """Of the whole store, for those who see it; for others there are none."""
    if not viewer.sees_all:
        return []

    def look(tx: Tx) -> list[Seen]:
        page = query.list_objects(tx, ListQuery(sort="created", descending=True, limit=limit))
        return [Seen(row, viewer.keepers(tx, row.oid)) for row in page.objects]

    return service.store.index.view(look)


def disk(service: Service) -> Disk:
    space = os.statvfs(service.store.layout.path)
    return Disk(space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize)


def remote(service: Service) -> RemoteStatus | None:
    return None if service.store.remote is None else service.store.remote.status()
