"""Turns: one task at a time for each oid."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from lfsfs.oid import Oid


class Turns:
    """Lets several puts of one oid wait for each other, so that only the first needs room for it.

    Puts of different oids do not wait. A turn ends with its block, however that ends.
    """

    def __init__(self) -> None:
        self._taken: dict[Oid, trio.Event] = {}

    @asynccontextmanager
    async def of(self, oid: Oid) -> AsyncIterator[None]:
        while oid in self._taken:
            await self._taken[oid].wait()
        self._taken[oid] = trio.Event()
        try:
            yield
        finally:
            self._taken.pop(oid).set()
