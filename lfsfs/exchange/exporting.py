"""Exporting: the objects of a store as other programs keep them, in a directory or a bucket.

Each object is compared with its name on the way. It is there whole, under its name, or not at all; one that is there is
not written again: so a run that was interrupted, repeated, goes on where it was.
"""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from lfsfs import durable
from lfsfs.crew import crew
from lfsfs.errors import Corrupt, InUse, InvalidConfig, NotFound, Refused
from lfsfs.exchange import forms, sharing
from lfsfs.exchange.forms import Form
from lfsfs.exchange.importing import Tally
from lfsfs.mounts import mount_of
from lfsfs.oid import Oid
from lfsfs.store import packs, references, rendered
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.hashing import BLOCK_BYTES, Digest
from lfsfs.store.index import Tx
from lfsfs.store.layout import is_server_name
from lfsfs.store.references import Repository
from lfsfs.store.store import Store, as_error
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.s3.foreign import ForeignBucket

PARALLEL = 4
PAGE = 1_000
WORK = ".lfsfs-export"
"""A folder in the target, with what is not whole yet: held (flock) while an export runs, and gone afterwards."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object, and where it is to be: below the target."""

    row: ObjectStat
    path: str


@dataclass
class Exported:
    """What an export did, or would do. `known`: what the target had already."""

    found: Tally = field(default_factory=Tally)
    known: Tally = field(default_factory=Tally)
    written: Tally = field(default_factory=Tally)
    shared: Tally = field(default_factory=Tally)
    """Those that were written, and share their room with the store."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Oid and why: the other objects were exported."""
    done_bytes: int = 0


class Target(Protocol):
    """Where objects go."""

    async def has(self, wanted: Wanted) -> bool:
        """Whether there is something of its size under its name."""

    async def write(self, store: Store, wanted: Wanted) -> bool:
        """Writes it, compared; whether it shares its room with the store's."""


# What is exported.


def chosen(store: Store, form: Form, names: Sequence[str], project: str | None) -> list[tuple[int, str]]:
    """The numbers of the repositories whose objects are exported, and ORG/REPO of each for giftless; [] for all objects.

    `names`: the repositories; `project`: ORG/REPO of the one that is named. InvalidConfig, NotFound.
    """
    roots = [store.repository(name) for name in names]
    if form != "giftless":
        if project is not None:
            raise InvalidConfig("--project is for --layout giftless")
        return [(root.id, "") for root in roots]
    if project is not None:
        if len(roots) != 1:
            raise InvalidConfig("--project names the one repository of --repo")
        if len(project.strip("/").split("/")) != 2:
            raise InvalidConfig(f"not ORG/REPO: {project!r}")
        return [(roots[0].id, project.strip("/"))]
    if not roots:
        roots = [found for found in store.index.view(references.repositories) if is_server_name(found.name)]
        if not roots:
            raise NotFound(
                "giftless keeps objects by ORG/REPO, and no repository of the server is there:"
                " give --repo NAME --project ORG/REPO"
            )
    return [(root.id, _project(root)) for root in roots]


def _project(root: Repository) -> str:
    if not is_server_name(root.name):
        raise InvalidConfig(f"giftless keeps objects by ORG/REPO: say --project ORG/REPO for {root.name}")
    return root.name.strip("/")


async def wanted(store: Store, form: Form, of: Sequence[tuple[int, str]]) -> AsyncIterator[Wanted]:
    """What there is to export, a page at a time. Packs of vectors are ours alone: they are left out."""
    await store.index.flush()
    seen: set[str] = set()
    everything: list[tuple[int | None, str]] = [(None, "")]
    for number, project in of or everything:
        after: Oid | None = None
        while page := store.index.view(partial(_page, number=number, after=after)):
            after = page[-1]
            rows = store.index.view(partial(_rows, page=page))
            for row in rows:
                path = forms.path(form, row.oid, project)
                if len(of) > 1 and path in seen:
                    continue
                seen.update([path] if len(of) > 1 else [])
                if row.state != "deleting" and row.content_type != packs.CONTENT_TYPE:
                    yield Wanted(row, path)


def _page(tx: Tx, number: int | None, after: Oid | None) -> list[Oid]:
    """The next oids, ascending: of a repository, or of the store, whichever kind of object they are."""
    start = b"" if after is None else after.to_bytes() + b"\0"
    if number is not None:
        head = number.to_bytes(4, "big")
        keys = (key[4:] for key, _ in tx.scan("references", head + start, prefix=head))
        return [Oid.from_bytes(key) for key, _ in zip(keys, range(PAGE), strict=False)]
    stored = [key for (key, _), _ in zip(tx.scan("objects", start), range(PAGE), strict=False)]
    head = rendered.PREFIX
    made = [
        key[4:]
        for (key, _), _ in zip(tx.scan("vectors", head + start, prefix=head), range(PAGE), strict=False)
    ]
    return [Oid.from_bytes(key) for key in sorted({*stored, *made})[:PAGE]]


def _rows(tx: Tx, page: Sequence[Oid]) -> list[ObjectStat]:
    return [row for oid in page if (row := rendered.find(tx, oid)) is not None]


class Export:
    """One run, into one target."""

    def __init__(self, store: Store, form: Form, of: Sequence[tuple[int, str]]) -> None:
        self.result = Exported()
        self._store = store
        self._form = form
        self._of = of

    async def look(self) -> Exported:
        """How much there is to export. Changes nothing."""
        async for one in wanted(self._store, self._form, self._of):
            self.result.found.add(one.row.size)
        return self.result

    async def run(self, target: Target) -> Exported:
        """Exports all of it. What fails for one object is told; NoSpace and the like end it."""
        self.result = Exported()
        async with crew(PARALLEL) as workers:
            async for one in wanted(self._store, self._form, self._of):
                self.result.found.add(one.row.size)
                await workers.start(partial(self._one, target, one))
        return self.result

    async def _one(self, target: Target, one: Wanted) -> None:
        try:
            if await target.has(one):
                self.result.known.add(one.row.size)
            else:
                shared = await target.write(self._store, one)
                self.result.written.add(one.row.size)
                if shared:
                    self.result.shared.add(one.row.size)
        except (Corrupt, NotFound) as error:
            self.result.failed.append((one.row.oid, str(error)))
        self.result.done_bytes += one.row.size


# Where it goes.


class BucketTarget:
    """A bucket of somebody else's."""

    def __init__(self, bucket: ForeignBucket) -> None:
        self._bucket = bucket

    async def has(self, wanted: Wanted) -> bool:
        return await self._bucket.size(wanted.path) == wanted.row.size

    async def write(self, store: Store, wanted: Wanted) -> bool:
        async with store.staging.place(wanted.row.size) as path:
            await store.get(wanted.row.oid, path)
            await self._bucket.put(wanted.path, wanted.row.oid, path)
        return False


class DirectoryTarget:
    """A directory. `open_directory` makes one."""

    def __init__(self, top: Path, work: Path) -> None:
        self._top = top
        self._work = work
        self._number = 0

    async def has(self, wanted: Wanted) -> bool:
        try:
            found = (self._top / wanted.path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return found.st_size == wanted.row.size and (self._top / wanted.path).is_file()

    async def write(self, store: Store, wanted: Wanted) -> bool:
        self._number += 1
        fresh = self._work / str(self._number)
        try:
            tier = store.tier
            local = tier.path(wanted.row.oid) if isinstance(tier, LocalTier) and tier.plain else None
            shared = local is not None and await trio.to_thread.run_sync(_share, local, fresh, wanted.row.oid)
            if not shared:
                await store.get(wanted.row.oid, fresh)
            await trio.to_thread.run_sync(self._place, fresh, self._top / wanted.path, wanted.row.mode)
        except OSError as error:
            raise as_error(error) from error
        finally:
            fresh.unlink(missing_ok=True)
        return shared

    @staticmethod
    def _place(fresh: Path, target: Path, mode: int) -> None:
        """As lasting as the object is in the store."""
        fresh.chmod((mode & 0o777) | 0o600)
        durable.fsync_path(fresh, "fsync-exported")
        target.parent.mkdir(parents=True, exist_ok=True)
        durable.rename(fresh, target, "rename-exported")
        durable.fsync_path(target.parent, "fsync-exported-directory")


def _share(local: Path, fresh: Path, oid: Oid) -> bool:
    """Whether `fresh` shares the object's blocks now, and has the bytes that it should."""
    try:
        fd = sharing.open_regular(local)
    except OSError:  # it is in the bucket alone, or in a pack
        return False
    try:
        if not sharing.reflink(fd, fresh):
            return False
    finally:
        os.close(fd)
    digest = Digest()
    with fresh.open("rb", buffering=0) as file:
        while piece := file.read(BLOCK_BYTES):
            trio.from_thread.check_cancelled()
            digest.update_sha256(piece)
    if digest.sha256() == oid.to_bytes():
        return True
    fresh.unlink()  # reading it as everybody does says what is wrong with it, or heals it
    return False


@asynccontextmanager
async def open_directory(store: Store, top: Path) -> AsyncIterator[DirectoryTarget]:
    """The directory, made where there is none. Refused where it is in the store; InUse while another export runs."""
    place = Path(os.path.abspath(top))
    if mount_of(place) is not None:
        raise Refused(f"{top} is in a mount of lfsfs: an export goes elsewhere")
    if store.layout.path.resolve() in (place.resolve(), *place.resolve().parents):
        raise Refused(f"{top} is in the store itself: an export goes elsewhere")
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place / WORK) as work:
            yield DirectoryTarget(place, work)
    except OSError as error:
        raise as_error(error) from error


@contextmanager
def _alone(work: Path) -> Iterator[Path]:
    """The folder of what is not whole yet, empty, and nobody else's until the block ends."""
    work.mkdir(exist_ok=True)
    lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"another export runs into {work.parent}") from error
        for left in work.iterdir():  # of one that was killed
            left.unlink()
        try:
            yield work
        finally:
            with suppress(OSError):  # what a killed one leaves here, the next one takes away
                work.rmdir()
    finally:
        os.close(lock)
