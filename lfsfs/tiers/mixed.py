"""Mixed: two remote tiers as one, while what lies in the old one moves into the new one.

Whatever is written goes into the new one. What is only in the old one is read there; what both have counts in the new.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from lfsfs.errors import NotFound
from lfsfs.oid import Oid
from lfsfs.tiers.remote import NOTE_BYTES, RemoteTier, Sink, Stored
from lfsfs.tiers.remote_wrapper import RemoteWrapper

T = TypeVar("T")
_AFTER_SLASH = chr(ord("/") + 1)


class Mixed(RemoteWrapper):
    """`inner` is the new one."""

    direct = None

    def __init__(self, new: RemoteTier, old: RemoteTier) -> None:
        super().__init__(new)
        self._old = old

    async def fetch(self, oid: Oid, offset: int, size: int, sink: Sink) -> None:
        await self._first(lambda tier: tier.fetch(oid, offset, size, sink))

    async def size(self, oid: Oid) -> int:
        return await self._first(lambda tier: tier.size(oid))

    async def delete(self, oid: Oid) -> None:
        await self._old.delete(oid)
        await self.inner.delete(oid)

    async def survey(self, after: Oid | None, limit: int) -> list[Stored]:
        found = {stored.oid: stored for stored in await self._old.survey(after, limit)}
        found |= {stored.oid: stored for stored in await self.inner.survey(after, limit)}
        return [found[oid] for oid in sorted(found)[:limit]]

    async def put_note(self, key: str, content: bytes, *, only_new: bool = False) -> bool:
        if only_new and await self._old.notes(key, None, 1) == [key]:
            return False
        written = await self.inner.put_note(key, content, only_new=only_new)
        if written and not only_new:
            await self._old.delete_note(key)
        return written

    async def note(self, key: str, limit: int = NOTE_BYTES) -> bytes:
        return await self._first(lambda tier: tier.note(key, limit))

    async def delete_note(self, key: str) -> None:
        await self._old.delete_note(key)
        await self.inner.delete_note(key)

    async def notes(self, prefix: str, after: str | None, limit: int) -> list[str]:
        old = await self._old.notes(prefix, after, limit)
        return sorted({*old, *await self.inner.notes(prefix, after, limit)})[:limit]

    async def abort_uploads(self, older_than_seconds: float, among: Collection[Oid] | None = None) -> int:
        aborted = await self.inner.abort_uploads(older_than_seconds, among)
        return aborted + await self._old.abort_uploads(older_than_seconds, among)

    async def _first(self, ask: Callable[[RemoteTier], Awaitable[T]]) -> T:
        """What the new one answers, or the old one; the new one once more, for what moved between the two."""
        for tier in (self.inner, self._old):
            try:
                return await ask(tier)
            except NotFound:
                pass
        return await ask(self.inner)


class Outside(RemoteWrapper):
    """A tier without the notes in a folder of it, where another tier lies."""

    def __init__(self, inner: RemoteTier, folder: str) -> None:
        super().__init__(inner)
        self._folder = folder

    async def notes(self, prefix: str, after: str | None, limit: int) -> list[str]:
        found: list[str] = []
        while len(found) < limit and (page := await self.inner.notes(prefix, after, limit)):
            found += [key for key in page if not key.startswith(f"{self._folder}/")]
            inside = page[-1].startswith(f"{self._folder}/")
            after = self._folder + _AFTER_SLASH if inside else page[-1]
        return found[:limit]
