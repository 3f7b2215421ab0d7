"""Parcels: what clients have put into the bucket themselves, until it is known to be what they said.

A parcel has a name that nobody can guess, and is no object. Where the server compares SHA-256 itself, a parcel can hold
nothing but the object. Where it does not, the one who wrote the parcel may write it again while we look: so we look at
a copy, which nobody else has a URL for, and the copy becomes the object. The copies happen in the bucket: at most its
bytes come by us once, to be hashed. Layout: docs/FORMAT.md.
"""

import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import BinaryIO

import trio

from lfsfs.errors import HashMismatch, Infected, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.scan import Subject
from lfsfs.store import (
    catalog,
    deletion,
    digests,
    journal,
    references,
    rendered,
    residents,
    trashed,
    unreferenced,
)
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.fetches import SLOWEST_BYTES_PER_SECOND, UNKNOWN_MODE, UNKNOWN_TYPE
from lfsfs.store.hashing import Digest
from lfsfs.store.index import Tx
from lfsfs.store.remote import Remote
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.screening import Note
from lfsfs.store.store import Store
from lfsfs.tiers.remote import Direct

GRACE_SECONDS = 24 * 3600
"""How long after its URL has expired a parcel stays: an upload may have begun before that, and clocks differ."""
PAGE = 1000
_PREFIX = "parcels/"
_TIME_DIGITS = 12
_COPY = ".copy"
_PAUSE_SECONDS = 0.05


class Parcels:
    """The parcels of one store's bucket."""

    def __init__(self, store: Store, remote: Remote) -> None:
        self._store = store
        self._remote = remote

    def new(self, expires: int) -> str:
        """A name for one. `expires`: of the URL that writes it, seconds since 1970."""
        return f"{_PREFIX}{expires:0{_TIME_DIGITS}}-{uuid.uuid4().hex}"

    async def take(self, parcel: str, oid: Oid, size: int, repository: str) -> None:
        """Makes it the object that it was said to be, referred to by the repository of this name. It is gone then.

        NotFound where there is none; HashMismatch, Infected where it is something else, or must not be: then it is gone.
        """
        direct = await self._direct()
        deadline = self._remote.options.deadline + size / SLOWEST_BYTES_PER_SECOND
        try:
            found = await self._remote.circuit.call(
                lambda: direct.length(parcel), self._remote.options.deadline
            )
        except NotFound as absent:
            raise NotFound(f"the object {oid} was not uploaded") from absent
        try:
            if found != size:
                raise HashMismatch(f"the upload has {found} bytes, and the object {oid} {size}")
            screening = self._store.screening
            checks = await direct.checks_sha256()
            if checks and screening is None:
                await self._enter(direct, parcel, oid, size, None, repository)
                return
            copy = parcel + _COPY
            await self._remote.circuit.call(lambda: direct.copy(parcel, copy), deadline)
            blocks = None if checks else await self._examined(direct, copy, oid, size, deadline)
            note = None
            if (
                screening is not None
            ):  # what a scanner says is kept for the oid: the bytes must be known to be its own
                fetched = self._fetched(direct, copy, oid, size, deadline)
                note = await screening.admit_fetched(oid, size, fetched)
            await self._enter(direct, copy, oid, size, blocks, repository, note)
        except (HashMismatch, Infected):
            await self._drop(parcel)
            raise
        await self._drop(parcel)

    async def sweep(self, now: float) -> int:
        """Drops what was never asked for; how many. `now`: seconds since 1970."""
        tier = await self._remote.tier()
        end = f"{_PREFIX}{max(0, int(now) - GRACE_SECONDS):0{_TIME_DIGITS}}"
        swept, after = 0, None
        while page := await tier.notes(_PREFIX, after, PAGE):
            for key in page:
                if key >= end:
                    return swept
                await tier.delete_note(key)
                swept += 1
            after = page[-1]
        return swept

    async def _direct(self) -> Direct:
        direct = (await self._remote.tier()).direct
        if direct is None:
            raise NotFound("nothing can be uploaded past the server any more: ask for another action")
        return direct

    async def _examined(self, direct: Direct, note: str, oid: Oid, size: int, deadline: float) -> bytes:
        """The block digests of what has this oid. HashMismatch."""

        async def read() -> Digest:
            digest = Digest()
            await direct.fetch(note, digest.update)
            return digest

        digest = await self._remote.circuit.call(read, deadline)
        if digest.size != size or digest.sha256() != oid.to_bytes():
            raise HashMismatch(f"what was uploaded is not the object {oid}")
        return digest.blocks()

    @contextlib.asynccontextmanager
    async def _fetched(
        self, direct: Direct, note: str, oid: Oid, size: int, deadline: float
    ) -> AsyncIterator[Subject]:
        """What was uploaded, as a file for the scanner. NoSpace."""
        async with self._store.staging.place(size) as path:
            with path.open("wb") as file:
                await self._remote.circuit.call(lambda: _fetch(direct, note, file), deadline)
            yield Subject(oid, size, path)

    async def _enter(
        self, direct: Direct, note: str, oid: Oid, size: int, blocks: bytes | None, repository: str,
        verdict: Note | None = None,
    ) -> None:  # fmt: skip
        """As Store.commit: the bytes first, then row and reference, and anew where a deletion came between them."""
        index = self._store.index
        found = index.view(lambda tx: references.find_repository(tx, repository))
        if found is not None:
            self._store.admission.check_quota(found.id, oid, size)
        while True:
            before = index.view(deletion.deletions)
            row = index.view(lambda tx: rendered.find(tx, oid))
            if row is None or row.state == "corrupt":
                await self._remote.withdrawals.over(oid)
                await self._move(direct, note, oid, size, blocks, damaged=row is not None)

            def write(tx: Tx, before: int = before) -> bool:
                present = rendered.find(tx, oid)
                if deletion.deletions(tx) != before or (present is not None and present.state == "deleting"):
                    return False
                if not isinstance(present, RenderedStat) and (present is None or present.state != "whole"):
                    now = time.time_ns()
                    residents.drop(tx, oid)
                    journal.leave(tx, oid)
                    fresh = ObjectStat(oid, size, now, now, UNKNOWN_MODE, UNKNOWN_TYPE, "whole")
                    catalog.put(tx, fresh, blocks)
                unreferenced.forget(tx, oid)
                trashed.forget(tx, oid)
                references.add(tx, references.add_repository(tx, repository).id, oid)
                if verdict is not None:
                    verdict(tx)
                return True

            if await index.update(write):
                return
            await trio.sleep(_PAUSE_SECONDS)

    async def _move(
        self, direct: Direct, note: str, oid: Oid, size: int, blocks: bytes | None, *, damaged: bool
    ) -> None:
        """The note becomes the object. Its digests come first, where they are known: else with the first read."""
        tier = await self._remote.tier()
        if damaged:
            await self._store.tier.delete(oid)

        async def move() -> None:
            if blocks is None:
                await tier.delete_note(digests.note_key(oid))  # of what was damaged
            elif digests.needs_note(size):
                await tier.put_note(digests.note_key(oid), digests.encode(oid, size, blocks))
            await direct.adopt(note, oid)

        await self._remote.circuit.call(move, self._remote.options.deadline + size / SLOWEST_BYTES_PER_SECOND)
        if damaged:
            await self._remote.repairs.done(oid)

    async def _drop(self, parcel: str) -> None:
        """What stays all the same, a sweep finds."""
        tier = await self._remote.tier()
        with contextlib.suppress(LfsfsError):
            await tier.delete_note(parcel + _COPY)
            await tier.delete_note(parcel)


async def _fetch(direct: Direct, note: str, file: BinaryIO) -> None:
    """All of it, into the file, from the beginning."""
    file.seek(0)
    file.truncate()

    def write(piece: bytes) -> None:
        file.write(piece)

    await direct.fetch(note, write)
    file.flush()
