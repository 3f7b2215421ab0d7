"""Tier: where object bytes live. The five methods that every leaf and every decorator has."""

from pathlib import Path
from typing import Protocol

from lfsfs.oid import Oid


class Tier(Protocol):
    """Immutable bytes under an oid. A tier knows nothing of index, mount or network API.

    Objects never change; the oid names the plaintext. Bytes were hashed before they come here (the seal), so
    a tier trusts the oid that it is given. Every method may be called by any number of tasks at once.
    """

    async def put(self, oid: Oid, source: Path) -> None:
        """Stores the sealed file `source` under `oid`. Durable on return; on error nothing is visible.

        Repeating is harmless: an object that is there already stays as it is, and its readers are
        undisturbed. The source is never modified and may be hard-linked, so nobody may write to it
        afterwards. NoSpace or TooLarge where it does not fit.
        """

    async def read(self, oid: Oid, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, short only at the end. NotFound if absent; ValueError below 0."""

    async def size(self, oid: Oid) -> int:
        """The object's length in bytes. NotFound if absent."""

    async def delete(self, oid: Oid) -> None:
        """Removes it. Absent is success; open readers keep what they read."""

    async def scan(self, after: Oid | None, limit: int) -> list[Oid]:
        """One ascending page of at most `limit` (1 or more) oids greater than `after`; empty at the end."""


class Wrapper:
    """A tier that passes everything on to `inner`. A decorator overrides what it changes."""

    def __init__(self, inner: Tier) -> None:
        self.inner = inner

    async def put(self, oid: Oid, source: Path) -> None:
        await self.inner.put(oid, source)

    async def read(self, oid: Oid, offset: int, size: int) -> bytes:
        return await self.inner.read(oid, offset, size)

    async def size(self, oid: Oid) -> int:
        return await self.inner.size(oid)

    async def delete(self, oid: Oid) -> None:
        await self.inner.delete(oid)

    async def scan(self, after: Oid | None, limit: int) -> list[Oid]:
        return await self.inner.scan(after, limit)


def check_range(offset: int, size: int) -> None:
    """ValueError for a read that no object can answer: python would count a negative offset from the end."""
    if offset < 0 or size < 0:
        raise ValueError(f"no bytes {size} from {offset}: both must be 0 or more")


def check_limit(limit: int) -> None:
    """ValueError for a page that could hold nothing, and so would look like the end."""
    if limit < 1:
        raise ValueError(f"a page of {limit} objects: it must be 1 or more")
