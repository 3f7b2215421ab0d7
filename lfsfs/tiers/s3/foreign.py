"""ForeignBucket: keys that other programs have named, in a bucket: listed, read and written as they are."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from lfsfs.config import S3Options
from lfsfs.oid import Oid
from lfsfs.tiers.remote import Sink
from lfsfs.tiers.remote_wrapper import unchecked
from lfsfs.tiers.s3.client import Client, open_client
from lfsfs.tiers.s3.download import Gate, download, length
from lfsfs.tiers.s3.tier import PAGE, S3Tier, _present
from lfsfs.tiers.source import open_source


class ForeignBucket:
    """The keys below the prefix of some options; a key is named by what follows the prefix. `open_foreign` makes one."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tier = S3Tier(client)
        self._root = self._tier.keys.root

    async def check(self) -> None:
        """As every remote tier: what is wrong with the bucket, if anything."""
        await self._tier.check()

    async def keys(self) -> AsyncIterator[tuple[str, int]]:
        """Every key with its bytes, ascending; a request for each thousand."""
        start, more = "", True
        while more:
            found, more = await self._tier._list("cannot list the bucket", self._root, start, PAGE)
            for item in found:
                start = str(item["Key"])
                yield start[len(self._root) :], int(item["Size"])

    async def size(self, key: str) -> int | None:
        """None where it is not there."""
        return await self._client.ask(f"cannot read {key}", length, self._client, self._root + key)

    async def fetch(self, key: str, size: int, sink: Sink) -> None:
        """Hands the first `size` bytes of the key on; fewer where it has no more. NotFound."""
        gate = Gate(sink)
        call = partial(_present, f"key {key}", download, self._client, self._root + key, 0, size, gate)
        try:
            await self._client.ask(f"cannot read {key}", call)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(gate.close)

    async def put(self, key: str, oid: Oid, source: Path) -> None:
        """The file's bytes, which are those of `oid`, under this key: whole, or not at all."""
        with open_source(oid, source) as opened:
            await self._tier.uploads.put(f"cannot store {key}", self._root + key, opened, unchecked)


@asynccontextmanager
async def open_foreign(options: S3Options) -> AsyncIterator[ForeignBucket]:
    """The bucket, until the block ends. Asks it nothing."""
    async with open_client(options) as client:
        yield ForeignBucket(client)
