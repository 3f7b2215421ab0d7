"""Store: the public face of one store. Commits, reads, lists and deletes objects; knows nothing of mounts."""

import builtins
import errno
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import trio

from lfsfs.config_policy import Policy
from lfsfs.errors import MAKE_ROOM, Corrupt, LfsfsError, NoSpace, NotFound, ReadOnly, Refused
from lfsfs.oid import Oid
from lfsfs.scan import scanner_of
from lfsfs.store import catalog, deletion, keepers, query, references, rendered
from lfsfs.store.admission import Admission
from lfsfs.store.bursts import Bursts
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.clerk import Clerk
from lfsfs.store.commits import Commits
from lfsfs.store.content_types import ContentTypes
from lfsfs.store.deletions import Deletions
from lfsfs.store.index import Index, Told, Tx
from lfsfs.store.layout import Layout
from lfsfs.store.limits import limits_of
from lfsfs.store.names import Naming
from lfsfs.store.query import ListQuery, Match, Page
from lfsfs.store.rebuild import rebuild_from_remote
from lfsfs.store.references import References, Repository
from lfsfs.store.remote import Remote
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.screening import Screening
from lfsfs.store.staged_file import Sealed
from lfsfs.store.staging import Staging
from lfsfs.store.transfers import HealingReader, ObjectReader, Progress, Reader, Upload, chunks, write_file
from lfsfs.store.trash import Trash
from lfsfs.store.trashed import Reason
from lfsfs.store.unrecorded import is_reconciled, mark_reconciled
from lfsfs.store.write_ahead import WriteAhead
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.tier import Tier

if TYPE_CHECKING:
    from lfsfs.embeddings.embeddings import Embeddings
    from lfsfs.store.incoming import Incoming

Durability = Literal["sync", "fast"]
NO_POLICY = Policy()
ACCESS_RESOLUTION_NS = 3600 * 10**9  # an access within an hour of the last one recorded is not recorded
CHUNK_BYTES = 1 << 20
PARALLEL = 8
_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals of the store. `bytes`: of all objects, each counted once."""

    objects: int
    bytes: int
    names: int
    repositories: int


class Store:
    """One store, open. Made by `open_store`; any number of tasks of one trio run may use it at once."""

    def __init__(
        self, layout: Layout, index: Index, tier: Tier, staging: Staging, remote: Remote | None = None,
        policy: Policy = NO_POLICY,
    ) -> None:  # fmt: skip
        self.layout = layout
        self.policy = policy
        self.limits = limits_of(policy, layout.path)
        self.index = index
        self.tier = tier
        self.staging = staging
        staging.limits = self.limits
        self.remote = remote
        self.references = References(index)
        self._reconciling = trio.Lock()
        self.bursts = Bursts() if remote is None else remote.bursts
        self.content_types = ContentTypes(self)
        self.write_ahead: WriteAhead | None = None
        if isinstance(tier, LocalTier) and (remote is None or remote.options.mode == "write-back"):
            self.write_ahead = WriteAhead(index, tier, staging, bounded=remote is not None)
        self.clerk: Clerk | None = None
        if self.write_ahead is not None and type(tier) is LocalTier:  # what is encrypted wants keys
            self.clerk = Clerk(index, layout, staging.directory, uploads=remote is not None)
        self.deletions = Deletions(layout, index, tier, remote)
        self._commits = Commits(
            index, tier, remote, self.write_ahead, self.deletions, self.bursts, self.limits, self.clerk
        )
        self.screening: Screening | None = None
        scanner = scanner_of(policy.scan)
        if scanner is not None:
            self.screening = Screening(index, policy.scan, scanner)
        self.admission = Admission(index, self.references, self.limits, policy.quota, self.screening)
        self.trash = Trash(layout, index, staging, self._commits, self.deletions, remote, tier)

    @cached_property
    def embeddings(self) -> "Embeddings":
        """The vectors of the store. Brings numpy, which most commands never need."""
        from lfsfs.embeddings.embeddings import (
            Embeddings,  # the one import that points up: pyproject.toml says so
        )

        return Embeddings(self)

    @cached_property
    def incoming(self) -> "Incoming":
        """The names below incoming/, as a mount shows them."""
        from lfsfs.store.incoming import Incoming

        return Incoming(self)

    # Objects in.

    async def put(
        self,
        source: Path | bytes,
        *,
        oid: Oid | None = None,
        repository: str | None = None,
        progress: Progress | None = None,
    ) -> ObjectStat:
        """Stores a file's or a string's bytes; the object's row. HashMismatch if they are not those of `oid`."""
        total = len(source) if isinstance(source, bytes) else None
        async with self.create_upload(oid, total, repository, progress) as upload:
            if isinstance(source, bytes):
                await upload.write(source)
            else:
                async with await trio.open_file(source, "rb") as file:
                    while piece := await file.read(CHUNK_BYTES):
                        await upload.write(piece)
            return await upload.finalize()

    def create_upload(
        self,
        oid: Oid | None = None,
        size: int | None = None,
        repository: str | None = None,
        progress: Progress | None = None,
    ) -> Upload:
        """A stream that becomes an object at its `finalize`, referred to by `repository` where one is named."""
        commit = self._commit_of(repository)
        return Upload(self.staging, commit, oid=oid, size=size, progress=progress)

    def resume_upload(self, path: Path, oid: Oid, size: int, repository: str) -> Upload:
        """As `create_upload`, of which the file `path`, on the store's disk, has the beginning. It goes in the end."""
        file = self.staging.follow(path, ("upload", path))
        commit = self._commit_of(repository)
        return Upload(self.staging, commit, oid=oid, size=size, progress=None, file=file)

    def _commit_of(self, repository: str | None) -> Callable[[Sealed], Awaitable[ObjectStat]]:
        if self.index.read_only:
            raise ReadOnly("the store is open read-only")

        async def commit(sealed: Sealed) -> ObjectStat:
            if repository is None:
                return await self.commit(sealed)
            root = self.repository(repository)
            self.admission.check_quota(root.id, sealed.oid, sealed.size)
            return await self.commit(sealed, lambda tx: references.add(tx, root.id, sealed.oid))

        return commit

    async def put_many(
        self,
        items: Iterable[Path | bytes],
        *,
        repository: str | None = None,
        parallel: int = PARALLEL,
        came: Callable[[int], None] | None = None,
    ) -> Sequence[ObjectStat | LfsfsError]:
        """Puts all of them, `parallel` at once; for each its row or its error, in the order given.

        `came`: told of bytes as they come, of all together.
        """

        async def one(item: Path | bytes) -> ObjectStat:
            told = 0

            def progress(done: int, _: int | None) -> None:
                nonlocal told
                if came is not None:
                    came(done - told)
                told = done

            return await self.put(item, repository=repository, progress=progress)

        return await _each(list(items), one, parallel)

    async def commit(self, sealed: Sealed, with_it: Callable[[Tx], None] | None = None) -> ObjectStat:
        """Makes a sealed file an object: bytes first, then row and whatever `with_it` writes, in one transaction.

        The sealed file is left where it is, but shares its bytes with the object from now on: whoever owns it
        removes the name and never writes to it again. Committing what is there already adds only `with_it`.

        The npz file of a vector that the store has in a pack is not stored once more: the object is made of the vector.

        TooLarge, NoSpace where the store's limits say so; Infected where its scanner does, Unavailable where that is
        to be asked and says nothing.
        """
        with_it = await self.admission.admit(sealed, with_it)
        if sealed.content_type == rendered.CONTENT_TYPE:
            made = await self._commit_rendered(sealed, with_it)
            if made is not None:
                return made
        return await self._commits.commit(sealed, with_it)

    def commit_later(self, sealed: Sealed, naming: Naming, told: Told[ObjectStat | None]) -> bool:
        """As `commit` where nothing is to be waited for but the transaction: `told` gets its result, or its error.

        None: no object was made, nor a file of it: `commit` is to be asked. False: at once, and `told` nothing.
        """
        if not self.admission.asks_nothing or sealed.content_type == rendered.CONTENT_TYPE:
            return False
        return self._commits.commit_later(sealed, naming, told)

    async def _commit_rendered(
        self, sealed: Sealed, with_it: Callable[[Tx], None] | None
    ) -> ObjectStat | None:
        if self.index.view(lambda tx: catalog.get(tx, sealed.oid)) is not None:
            return None  # its bytes are there, or are to be mended
        return await self.embeddings.adopt_npz(sealed, with_it)

    # Objects out.

    async def exists(self, oid: Oid) -> bool:
        """Unavailable where only a remote tier could say, and does not."""
        return await self.find_row(oid) is not None

    async def stat(self, oid: Oid) -> ObjectStat:
        """NotFound if there is no such object."""
        found = await self.find_row(oid)
        if found is None:
            raise NotFound(f"no object {oid}")
        return found

    async def find_row(self, oid: Oid) -> ObjectStat | None:
        """The object's row; where there is none, the remote tier is asked: another machine may have committed it."""
        discovered = None if self.remote is None else self.remote.fetches.discovered(oid)
        row, incomplete = self.index.view(lambda tx: (rendered.find(tx, oid), rendered.incomplete(tx)))
        row = row or discovered
        if row is None and incomplete is not None and not self.index.read_only:
            await self.embeddings.derive_npz()
            row = self.index.view(lambda tx: rendered.find(tx, oid))
        if row is None and self.remote is not None and not self.index.read_only:
            row = await self.remote.fetches.discover(oid)
            if row is None and await self.embeddings.discover_npz(oid):
                row = self.index.view(lambda tx: rendered.find(tx, oid))
        return None if row is None or row.state == "deleting" else row

    @property
    def knows_all_objects(self) -> bool:
        """Whether `lookup` finds all that `find_row` would: not where another place is to be asked as well."""
        return self.remote is None and self.index.view(rendered.incomplete) is None

    def lookup(self, oid: Oid) -> ObjectStat | None:
        """The object's row, without waiting for anything; None if there is no such object."""
        discovered = None if self.remote is None else self.remote.fetches.discovered(oid)
        row = self.index.view(lambda tx: rendered.find(tx, oid)) or discovered
        return None if row is None or row.state == "deleting" else row

    async def open(self, oid: Oid) -> Reader:
        """Random access to the bytes, verified. NotFound if there is none; Corrupt if it was found so."""
        row = await self.stat(oid)
        if isinstance(row, RenderedStat):
            return await self.embeddings.open_npz(oid)
        remote = self.remote
        if row.state == "corrupt" and not (remote is not None and await remote.fetches.recheck(row)):
            raise Corrupt(f"object {oid} was found corrupt: not served")
        self.record_access(row)
        if remote is None:
            return self.local_reader(row)
        if not remote.cache.has(oid):
            return await remote.fetches.reader(row)
        remote.moved.hits += 1
        return HealingReader(self.local_reader(row), lambda: remote.fetches.heal(row))

    @contextmanager
    def kept(self, oid: Oid) -> Iterator[None]:
        """The object's local file is not evicted meanwhile: somebody has it open."""
        if self.remote is None:
            yield
            return
        self.remote.cache.hold(oid)
        try:
            yield
        finally:
            self.remote.cache.unhold(oid)

    def local_reader(self, row: ObjectStat) -> ObjectReader:
        """A reader of the local bytes alone."""
        return ObjectReader(
            self.tier, row.oid, row.size, self.index.view(lambda tx: catalog.digests(tx, row.oid))
        )

    async def get(self, oid: Oid, target: Path, *, progress: Progress | None = None) -> None:
        """Writes the object to `target`, verified: under its name whole, or not at all."""
        async with await self.open(oid) as reader:
            await write_file(reader, target, progress)

    async def download(
        self, oid: Oid, *, chunk: int = CHUNK_BYTES, progress: Progress | None = None
    ) -> AsyncIterator[bytes]:
        """The object's bytes, verified, `chunk` at a time."""
        async with (
            await self.open(oid) as reader,
            aclosing(chunks(reader, chunk, progress)) as pieces,  # type: ignore[type-var]
        ):
            async for piece in pieces:
                yield piece

    async def get_many(
        self, items: Iterable[tuple[Oid, Path]], *, parallel: int = PARALLEL
    ) -> Sequence[Path | LfsfsError]:
        """Gets all of them, `parallel` at once; for each its target or its error, in the order given."""

        async def one(item: tuple[Oid, Path]) -> Path:
            await self.get(*item)
            return item[1]

        return await _each(list(items), one, parallel)

    def record_access(self, row: ObjectStat) -> None:
        """Somebody reads the object. Costs the reader nothing."""
        now = time.time_ns()
        if now - row.accessed < ACCESS_RESOLUTION_NS:
            return

        def write(tx: Tx) -> None:
            present = catalog.get(tx, row.oid)
            if present is not None:
                catalog.put(tx, replace(present, accessed=now))

        self.index.defer(write)

    # Lists.

    async def list(self, wanted: ListQuery) -> Page:
        """One page of objects. Reads the index only."""
        await self.index.flush()
        return self.index.view(lambda tx: query.list_objects(tx, wanted))

    async def search(self, term: str, *, limit: int = 100) -> builtins.list[Match]:
        """Objects whose oid, name in incoming/ or content type begins with `term`."""
        return self.index.view(lambda tx: query.search(tx, term, limit))

    async def find(self, prefix: str) -> Oid:
        """The one object whose oid begins with `prefix` (at least 4 digits). NotFound; Refused if there are several."""
        if len(prefix) == 64:
            return (await self.stat(Oid(prefix))).oid
        if len(prefix) < 4 or prefix.strip("0123456789abcdef"):
            raise NotFound(f"not an oid: {prefix!r}: at least 4 of its lower-case hex digits are needed")
        found = self.index.view(lambda tx: query.find_by_prefix(tx, prefix))
        if not found:
            raise NotFound(f"no object begins with {prefix}")
        if len(found) > 1:
            raise Refused(f"several objects begin with {prefix}: {found[0]}, {found[1]}…")
        return found[0]

    async def usage(self) -> Usage:
        """Totals. Reads the index only."""

        def look(tx: Tx) -> Usage:
            objects, size = catalog.totals(tx)
            return Usage(objects, size, tx.count("entries"), len(references.roots(tx)))

        return self.index.view(look)

    async def names_of(self, oid: Oid) -> builtins.list[str]:
        """The paths below incoming/ whose content the object is; bytes that are no UTF-8 as surrogates."""
        return self.index.view(lambda tx: keepers.paths(tx, oid))

    async def why(self, oid: Oid) -> builtins.list[str]:
        """What keeps the object alive, a sentence each; empty if nothing does."""
        await self.index.flush()
        return [str(keeper) for keeper in self.index.view(lambda tx: keepers.keepers(tx, oid))]

    # Repository roots.

    async def repositories(self) -> builtins.list[Repository]:
        """The repository roots, by name."""
        return self.index.view(references.roots)

    def repository(self, name: str) -> Repository:
        """NotFound if there is none of that name."""
        found = self.index.view(lambda tx: references.find_repository(tx, name))
        if found is None:
            raise NotFound(f"no repository {name!r}")
        return found

    def repository_name(self, number: int) -> str:
        """The name of the repository root with this id. NotFound if it was removed."""
        for found in self.index.view(references.repositories):
            if found.id == number:
                return found.name
        raise NotFound("the repository was removed")

    async def add_repository(self, name: str) -> Repository:
        """Makes the repository root; the one that is there if there is one."""
        made = await self.index.update(lambda tx: references.add_repository(tx, name))
        workspace = self.layout.workspace(name)
        await trio.to_thread.run_sync(lambda: workspace.mkdir(parents=True, exist_ok=True))
        return made

    async def remove_repository(self, name: str) -> None:
        """Removes the root, its references and its git-lfs files. Objects stay."""
        root = self.repository(name)
        await self.index.update(lambda tx: references.remove_repository(tx, root))
        await trio.to_thread.run_sync(lambda: shutil.rmtree(self.layout.workspace(name), ignore_errors=True))

    # Deletion.

    async def delete(self, oid: Oid, *, force: bool = False, everywhere: bool = True) -> None:
        """Removes an object. NotFound if there is none; InUse while anything refers to it, unless `force`.

        What refers to it keeps doing so: with `force`, a name in incoming/ then names nothing. `everywhere` False:
        only this machine forgets it, and the remote tier keeps it.
        """
        await self.deletions.delete(oid, force=force, everywhere=everywhere)

    async def discard(self, oid: Oid, *, reason: Reason = "rm", force: bool = False) -> None:
        """As `delete`, but to the trash, from where `trash.restore` brings it back until the trash is emptied.

        The remote tier keeps the bytes until then.
        """
        await self.deletions.discard(oid, reason, force=force)

    async def report_corrupt(self, oid: Oid) -> None:
        """Notes that the object's bytes were found damaged: the next commit of the same oid replaces them."""
        if not self.index.read_only:
            await self.index.update(lambda tx: deletion.mark(tx, oid, "corrupt"))

    async def check(self, oid: Oid) -> bool:
        """Reads the whole object and compares its SHA-256; whether it is whole. Notes in its row what was found."""
        row = self.lookup(oid)
        if row is None:
            return False
        if isinstance(row, RenderedStat):
            return await self.embeddings.is_npz_whole(oid)
        whole = await self._sha256(row) == oid.to_bytes()
        if whole != (row.state == "whole"):
            await self.index.update(lambda tx: deletion.mark(tx, oid, "whole" if whole else "corrupt"))
        return whole

    async def _sha256(self, row: ObjectStat) -> bytes:
        digest = hashlib.sha256()
        try:
            for offset in range(0, row.size + 1, CHUNK_BYTES):  # one byte more than there should be
                digest.update(await self.tier.read(row.oid, offset, CHUNK_BYTES))
        except (NotFound, Corrupt):
            return b""
        return digest.digest()

    async def rebuild_from_remote(self) -> int:
        """Brings the catalog to agree with the remote tier; how many objects it did not know.

        What this machine had recorded there comes back as well: repository roots, references, names, pins.
        """
        if self.remote is None or not isinstance(self.tier, LocalTier):
            return 0
        await self.remote.withdrawals.join()
        added = await rebuild_from_remote(self.index, self.tier, self.remote)
        if await self.remote.records.exist():
            await self.remote.records.restore()
            if self.index.view(lambda tx: tx.count("packs")):
                await self.embeddings.derive_npz()
                await self.remote.records.restore()  # now that it is known which objects vectors make
            for repository in await self.repositories():
                await self.add_repository(repository.name)
        await self.index.update(mark_reconciled)
        return added

    async def _reconcile(self) -> None:
        """What is to be done when the remote tier answers. Deletions end that it had not answered to.

        An index that was made anew knows less than what this machine had recorded: that comes back first.
        """
        if self.remote is None:
            return
        await self.deletions.finish()
        await self.remote.withdrawals.join()
        async with self._reconciling:  # or one would record what the other has not brought back yet
            if self.index.view(is_reconciled):
                return
            if await self.remote.records.exist():
                await self.rebuild_from_remote()
            await self.index.update(mark_reconciled)

    async def close(self) -> None:
        """What leaving `open_store` does."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.index.close)
            await trio.to_thread.run_sync(self.staging.close)


async def _each(items: Sequence[T], run: Callable[[T], Awaitable[R]], parallel: int) -> list[R | LfsfsError]:
    results: dict[int, R | LfsfsError] = {}
    limiter = trio.CapacityLimiter(parallel)

    async def one(number: int, item: T) -> None:
        async with limiter:
            try:
                results[number] = await run(item)
            except LfsfsError as error:
                results[number] = error
            except OSError as error:
                results[number] = as_error(error)

    async with trio.open_nursery() as nursery:
        for number, item in enumerate(items):
            nursery.start_soon(one, number, item)
    return [results[number] for number in range(len(items))]


def as_error(error: OSError) -> LfsfsError:
    """In words for a person: "films/a.mov: Permission denied"."""
    what = error.strerror or str(error)
    text = f"{os.fsdecode(error.filename)}: {what}" if isinstance(error.filename, (str, bytes)) else what
    if error.errno in _NO_SPACE:
        return NoSpace(f"{text}. {MAKE_ROOM}")
    if isinstance(error, FileNotFoundError):
        return NotFound(text)
    return LfsfsError(text)
