"""Viewer: who looks at the pages, and what they may see of the store.

Whoever may administer every repository sees the whole store: its totals, its tiers, the roots of its mount, the names
in incoming/. Everybody else sees the repositories that they may read, and no trace of anything else.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import trio
from starlette.requests import Request

from lfsfs.errors import NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.server.access.access import WHOLE_STORE, Access, Action, Identity
from lfsfs.server.errors import unidentified
from lfsfs.server.peers import address_of
from lfsfs.server.service import Service, check_host
from lfsfs.store import references
from lfsfs.store.index import Tx
from lfsfs.store.keepers import Keeper, others, referring
from lfsfs.store.layout import is_server_name
from lfsfs.store.references import Repository

PARALLEL = 8
CHECK_SECONDS = 10.0
CHECKED = 500
"""Repositories that are looked at for one page: a forge may be asked about each."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who looks, and the repositories of the server that they may read, by id; where they see the whole store,
    the roots of the mount as well. `complete` False: there are more than could be asked about.
    """

    identity: Identity
    sees_all: bool
    has_users: bool
    readable: dict[int, Repository]
    complete: bool = True

    def served(self) -> list[Repository]:
        """The repositories of the server."""
        return [found for found in self.readable.values() if is_server_name(found.name)]

    def keepers(self, tx: Tx, oid: Oid) -> list[Keeper]:
        """Those of the object's keepers that they may know of."""
        by_reference = referring(tx, oid, {number: one.name for number, one in self.readable.items()})
        return others(tx, oid) + by_reference if self.sees_all else by_reference


async def look(service: Service, request: Request) -> Viewer:
    """Who it is. Unidentified where there is nothing to see for somebody who has not said who they are."""
    access = service.access
    check_host(service, request)
    identity = await access.identify(request.headers, address_of(request))
    request.scope["lfsfs.user"] = identity.name
    sees_all = not access.has_users or await _is_allowed(access, identity, WHOLE_STORE, "admin")
    there = service.store.index.view(references.repositories)
    complete = True
    if not sees_all:
        there = [one for one in there if is_server_name(one.name)]
        complete = len(there) <= CHECKED
        there, all_answered = await _allowed(access, identity, there[:CHECKED])
        complete = complete and all_answered
    if not (identity.known or sees_all or there):
        raise unidentified()
    return Viewer(identity, sees_all, access.has_users, {one.id: one for one in there}, complete)


async def find(service: Service, viewer: Viewer, name: str) -> Repository:
    """The repository of this name. NotFound where there is none, or none for them."""
    for repository in viewer.readable.values():
        if repository.name == name:
            return repository
    found = service.store.index.view(lambda tx: references.find_repository(tx, name))
    if found is None or viewer.complete or not is_server_name(name):
        raise NotFound(f"no repository {name.removeprefix('/')}")
    if not await service.access.allowed(viewer.identity, name, "read"):
        raise NotFound(f"no repository {name.removeprefix('/')}")
    return found


async def _is_allowed(access: Access, identity: Identity, name: str, action: Action) -> bool:
    """Not on a doubt."""
    try:
        return await access.allowed(identity, name, action)
    except Unavailable:
        return False


async def _allowed(
    access: Access, identity: Identity, there: Iterable[Repository]
) -> tuple[list[Repository], bool]:
    """Those that they may read, and whether that is known of all: nothing is shown on a doubt."""
    limiter = trio.CapacityLimiter(PARALLEL)
    answers: dict[Repository, bool] = {}

    async def ask(repository: Repository) -> None:
        async with limiter:
            with contextlib.suppress(Unavailable):
                answers[repository] = await access.allowed(identity, repository.name, "read")

    asked = list(there)
    with trio.move_on_after(CHECK_SECONDS):
        async with trio.open_nursery() as nursery:
            for repository in asked:
                nursery.start_soon(ask, repository)
    return [one for one in asked if answers.get(one, False)], len(answers) == len(asked)
