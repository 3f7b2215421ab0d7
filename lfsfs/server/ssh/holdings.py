"""Holdings: the objects that a repository of the server refers to. No other object of the store is there for it."""

from collections.abc import Iterable

from lfsfs.errors import NotFound
from lfsfs.oid import Oid
from lfsfs.server.links import find, held
from lfsfs.store import feeds, references
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.store import Store


class Holdings:
    """Those of one repository. It need not be there yet: then it holds nothing."""

    def __init__(self, store: Store, repository: str) -> None:
        self._store = store
        self.repository = repository

    def get(self, oid: Oid) -> ObjectStat:
        """NotFound; also for what only other repositories refer to."""
        row = held(self._store, self.repository, oid)
        if row is None:
            raise NotFound(f"{self.repository[1:]} has no object {oid}")
        return row

    async def take(self, wanted: Iterable[tuple[Oid, int]]) -> dict[Oid, ObjectStat]:
        """Those that need no upload: it refers to them, or a root that feeds it does, and then it does as well."""
        found, fed = {}, []
        repository = find(self._store, self.repository)
        roots = self._store.index.view(lambda tx: feeds.roots(tx, repository.id)) if repository else []
        for oid, size in wanted:
            row = held(self._store, self.repository, oid)
            if row is None and any(self._store.references.has(root, oid) for root in roots):
                row = self._store.lookup(oid)
                if row is None or row.size != size:
                    continue
                fed.append(oid)
            if row is not None and row.state == "whole":
                found[oid] = row
        taken = [oid for oid in fed if oid in found]
        if repository is not None and taken:
            await self._store.index.update(lambda tx: feeds.take(tx, repository.id, taken))
        return found

    async def ensure(self) -> None:
        """Whoever may write to a repository makes it by doing so."""
        if find(self._store, self.repository) is None:
            await self._store.index.update(lambda tx: references.add_repository(tx, self.repository))
