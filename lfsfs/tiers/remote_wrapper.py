"""RemoteWrapper: a remote tier that passes everything on to another one. A decorator overrides what it changes."""

from collections.abc import Collection
from pathlib import Path

from lfsfs.oid import Oid
from lfsfs.tiers.remote import NOTE_BYTES, Check, Direct, RemoteTier, Sink, Source, Stored
from lfsfs.tiers.source import open_source
from lfsfs.tiers.tier import check_range


async def unchecked() -> None:
    """Of bytes that need no check."""


class RemoteWrapper:
    """Passes everything on to `inner`, but for what can be made of other calls: those go through `self`."""

    def __init__(self, inner: RemoteTier) -> None:
        self.inner = inner

    @property
    def direct(self) -> Direct | None:
        return self.inner.direct

    async def put(self, oid: Oid, source: Path) -> None:
        await self.put_checked(oid, source, unchecked)

    async def put_checked(self, oid: Oid, source: Path, check: Check) -> None:
        with open_source(oid, source) as opened:
            await self.put_source(oid, opened, check)

    async def put_source(self, oid: Oid, source: Source, check: Check) -> None:
        await self.inner.put_source(oid, source, check)

    async def read(self, oid: Oid, offset: int, size: int) -> bytes:
        check_range(offset, size)
        pieces: list[bytes] = []
        await self.fetch(oid, offset, size, pieces.append)
        return b"".join(pieces)

    async def fetch(self, oid: Oid, offset: int, size: int, sink: Sink) -> None:
        await self.inner.fetch(oid, offset, size, sink)

    async def size(self, oid: Oid) -> int:
        return await self.inner.size(oid)

    async def delete(self, oid: Oid) -> None:
        await self.inner.delete(oid)

    async def scan(self, after: Oid | None, limit: int) -> list[Oid]:
        return [stored.oid for stored in await self.survey(after, limit)]

    async def survey(self, after: Oid | None, limit: int) -> list[Stored]:
        return await self.inner.survey(after, limit)

    async def put_note(self, key: str, content: bytes, *, only_new: bool = False) -> bool:
        return await self.inner.put_note(key, content, only_new=only_new)

    async def grants_names(self) -> bool:
        return await self.inner.grants_names()

    async def note(self, key: str, limit: int = NOTE_BYTES) -> bytes:
        return await self.inner.note(key, limit)

    async def delete_note(self, key: str) -> None:
        await self.inner.delete_note(key)

    async def notes(self, prefix: str, after: str | None, limit: int) -> list[str]:
        return await self.inner.notes(prefix, after, limit)

    async def check(self) -> None:
        await self.inner.check()

    async def abort_uploads(self, older_than_seconds: float, among: Collection[Oid] | None = None) -> int:
        return await self.inner.abort_uploads(older_than_seconds, among)
