"""Facts: what the pages show, gathered for one viewer: nothing that they may not know of leaves this file."""

import os
from dataclasses import dataclass

from lfsfs.server.page.viewer import Viewer
from lfsfs.server.service import Service
from lfsfs.store import activity, query, references
from lfsfs.store.activity import Activity
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.keepers import Keeper
from lfsfs.store.layout import is_server_name
from lfsfs.store.query import ListQuery
from lfsfs.store.references import Repository
from lfsfs.store.remote import RemoteStatus


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


def collections(service: Service, viewer: Viewer) -> list[tuple[str, int]]:
    """The collections of embeddings, and how many vectors each has, for those who see the whole store."""
    if not viewer.sees_all:
        return []
    embeddings = service.store.embeddings
    return [(name, embeddings.collection(name).count()) for name in embeddings.collections()]


def disk(service: Service) -> Disk:
    space = os.statvfs(service.store.layout.path)
    return Disk(space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize)


def remote(service: Service) -> RemoteStatus | None:
    return None if service.store.remote is None else service.store.remote.status()
