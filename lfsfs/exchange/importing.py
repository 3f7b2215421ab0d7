"""Importing: the objects of clones, of other servers and of buckets, into a store.

What is there already is not read: so a run that was interrupted, repeated, goes on where it was. Every other object is
compared with its name first. What it came from stays where it is, whatever happens.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from lfsfs.crew import Crew, crew
from lfsfs.errors import (
    Corrupt,
    HashMismatch,
    Infected,
    InvalidName,
    LfsfsError,
    NotFound,
    Refused,
    TooLarge,
)
from lfsfs.exchange import forms
from lfsfs.exchange.finding import FoundObject, Problems, Source, find, objects
from lfsfs.exchange.sharing import Way
from lfsfs.exchange.taking import take_file, take_key
from lfsfs.git.roots import is_its_own, names_for, note_import, safe_name
from lfsfs.oid import Oid
from lfsfs.store import references
from lfsfs.store.index import Tx
from lfsfs.store.layout import check_server_name, is_server_name
from lfsfs.store.references import Repository
from lfsfs.store.store import Store
from lfsfs.tiers.s3.foreign import ForeignBucket

PARALLEL = 16  # concurrent fsyncs share the commits of the journal of the file system
BATCH = 500  # references that one transaction adds
_ITS_OWN = (HashMismatch, Corrupt, Infected, TooLarge, OSError)
"""What concerns one object alone: the others are imported."""


@dataclass
class Tally:
    """Objects, and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


@dataclass
class Imported:
    """What an import did, or would do. Each file counts once.

    `known`: what the store had already, from before or from another of these clones. `new`: what it had not;
    `shared`: those of them that take no room of their own, as they share it with the file that they came from.
    `corrupt`: paths whose bytes are not what their names say.
    """

    found: Tally = field(default_factory=Tally)
    known: Tally = field(default_factory=Tally)
    new: Tally = field(default_factory=Tally)
    shared: Tally = field(default_factory=Tally)
    sources: dict[str, tuple[str, Tally]] = field(default_factory=dict)
    """By path: the repository that refers to what lay there, and how much that is."""
    attached: list[str] = field(default_factory=list)
    """Clones that keep their objects in a mount of lfsfs: there is nothing to import."""
    corrupt: list[str] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)
    done_bytes: int = 0

    def source(self, path: object, repository: str) -> Tally:
        return self.sources.setdefault(str(path), (repository, Tally()))[1]


class Import:
    """One run. `repository`: what refers to all that is imported; None: as each source says."""

    def __init__(self, store: Store, *, repository: str | None = None, may_link: bool = True) -> None:
        self.result = Imported()
        self._store = store
        self._repository = repository
        self._may_link = may_link
        self._coming: dict[Oid, trio.Event] = {}
        self._waiting: dict[int, list[FoundObject]] = defaultdict(list)

    # Looking, which changes nothing.

    def look(self, places: Iterable[Path]) -> list[Source]:
        """What there is to import, in which sources. NotFound where a place has nothing. Blocks."""
        sources: list[Source] = []
        seen: set[Path] = set()
        for place in places:
            found = list(find(place, self.result.problems, self._store.layout.path))
            if not found:
                raise NotFound(f"nothing to import at {place}: no clone, and no objects of Git LFS")
            for source in found:
                if source.attached:
                    self.result.attached.append(str(source.path.parent.parent))
                elif source.path not in seen:  # several clones may share a storage: each is to refer to it
                    sources.append(source)
        new: set[Oid] = set()
        for source in sources:
            tally = self.result.source(source.path, self._repository or source.repository)
            for one in objects(source, Problems()):  # those are told when it comes to it
                self._count(one.oid, one.size, tally, new)
        return sources

    async def look_at_bucket(self, bucket: ForeignBucket, name: str) -> None:
        """As `look`, of all that is named as an object in a bucket. NotFound."""
        new: set[Oid] = set()
        async for _, oid, size, repository in _keys(bucket, self._repository, name):
            self._count(oid, size, self.result.source(repository, repository), new)
        if not self.result.found.objects:
            raise NotFound("nothing to import there: no key is named as an object of Git LFS")

    def _count(self, oid: Oid, size: int, tally: Tally, new: set[Oid]) -> None:
        tally.add(size)
        self.result.found.add(size)
        if oid in new or self._has(oid):
            self.result.known.add(size)
        else:
            new.add(oid)
            self.result.new.add(size)

    def _has(self, oid: Oid) -> bool:
        row = self._store.lookup(oid)
        return row is not None and row.state == "whole"

    # Doing.

    async def run(self, sources: Iterable[Source]) -> Imported:
        """Imports all that lies there. NoSpace, Unavailable, QuotaExceeded end it; a repeat goes on."""
        self._begin()
        async with crew(PARALLEL) as workers:
            for source in sources:
                root = await self._root_for(source)
                tally = self.result.source(source.path, root.name)
                for found in objects(source, self.result.problems):
                    tally.add(found.size)
                    self.result.found.add(found.size)
                    await self._next(workers, found, root)
                    await trio.lowlevel.checkpoint()
        for number in list(self._waiting):
            await self._refer(number)
        return self.result

    async def run_bucket(self, bucket: ForeignBucket, name: str) -> Imported:
        """As `run`, of a bucket. `name`: what refers to objects whose keys name no repository."""
        self._begin()
        roots: dict[str, Repository] = {}
        async with crew(PARALLEL) as workers:
            async for key, oid, size, repository in _keys(bucket, self._repository, name):
                root = roots.get(repository) or roots.setdefault(repository, await self._named(repository))
                self.result.source(repository, repository).add(size)
                self.result.found.add(size)
                await self._next(workers, FoundObject(oid, Path(key), size), root, bucket)
        for number in list(self._waiting):
            await self._refer(number)
        return self.result

    def _begin(self) -> None:
        self.result = Imported(attached=self.result.attached, problems=self.result.problems)

    async def _next(
        self, workers: Crew, found: FoundObject, root: Repository, bucket: ForeignBucket | None = None
    ) -> None:
        while found.oid in self._coming:  # another clone's
            await self._coming[found.oid].wait()
        if self._has(found.oid):
            self.result.known.add(found.size)
            self.result.done_bytes += found.size
            self._waiting[root.id].append(found)
            if len(self._waiting[root.id]) >= BATCH:
                await self._refer(root.id)
            return
        self._coming[found.oid] = trio.Event()
        await workers.start(partial(self._one, found, root, bucket))

    async def _one(self, found: FoundObject, root: Repository, bucket: ForeignBucket | None) -> None:
        try:
            if bucket is not None:
                key = str(found.path)
                await take_key(self._store, bucket, key, found.oid, found.size, root, self._told)
                self._took(found, "copy")
            else:
                way = await take_file(self._store, found, root, self._told, may_link=self._may_link)
                self._took(found, way)
        except HashMismatch:
            self.result.corrupt.append(str(found.path))
        except FileNotFoundError:
            pass  # a prune was quicker: it is not wanted any more
        except (LfsfsError, OSError) as error:
            if not isinstance(error, _ITS_OWN):
                raise
            why = error.strerror if isinstance(error, OSError) else str(error)
            self.result.problems.add(found.path, why or type(error).__name__)
        finally:
            self._coming.pop(found.oid).set()

    def _told(self, size: int) -> None:
        self.result.done_bytes += size  # from several threads: it may fall behind, and is only looked at

    def _took(self, found: FoundObject, way: Way) -> None:
        self.result.new.add(found.size)
        if way != "copy":
            self.result.shared.add(found.size)

    async def _refer(self, number: int) -> None:
        """Adds the references that wait. An object that gc has taken meanwhile is left to the next run, and told."""
        batch, self._waiting[number] = self._waiting[number], []

        def write(tx: Tx) -> list[FoundObject]:
            gone = [one for one in batch if not references.is_object(tx, one.oid)]
            for one in batch:
                if one not in gone:
                    references.add(tx, number, one.oid)
            return gone

        for one in await self._store.index.update(write):
            self.result.problems.add(one.path, "was deleted from the store just now: import it once more")

    # What refers to it.

    async def _root_for(self, source: Source) -> Repository:
        if self._repository is not None:
            return await self._named(self._repository)
        if source.clone is None:
            return await self._named(source.repository)
        repositories = self._store.layout.repositories
        for name in names_for(source.clone):
            made = self._store.index.view(lambda tx, name=name: references.find_repository(tx, name))  # type: ignore[misc]
            if made is None:
                made = await self._store.add_repository(name)
                note_import(repositories / name, source.clone)
                return made
            if is_its_own(repositories / name, source.clone):
                return made
        raise Refused(
            f"there are too many repositories named {safe_name(source.repository)}: give --repo NAME"
        )

    async def _named(self, name: str) -> Repository:
        """The repository root, or with a slash before it that of the server, which is made if it is not there."""
        name = valid_name(name)
        if is_server_name(name):
            return await self._store.index.update(lambda tx: references.add_repository(tx, name))
        return await self._store.add_repository(name)


def valid_name(name: str) -> str:
    """A name that a repository may have, as like this one as may be."""
    if is_server_name(name):
        try:
            return check_server_name(name)
        except InvalidName:
            name = name.rpartition("/")[2]
    return safe_name(name)


async def _keys(
    bucket: ForeignBucket, repository: str | None, name: str
) -> AsyncIterator[tuple[str, Oid, int, str]]:
    """Key, oid, bytes and repository of whatever in the bucket is named as an object."""
    async for key, size in bucket.keys():
        named = forms.named(tuple(key.split("/")))
        if named is None:
            continue
        own = named.above[-2:] if not named.split and len(named.above) >= 2 else ()
        yield key, named.oid, size, repository or ("/" + "/".join(own) if own else name)
