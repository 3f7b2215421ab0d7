"""Stores with S3 behind the local disk, as their own processes see them, and the bucket looked at from the side."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from lfsfs import Oid, Store, open_store
from lfsfs.config import CacheOptions, S3Options
from lfsfs.store import journal
from lfsfs.store.store import Durability

from .proxy import Proxy
from .servers import Server

MIB = 1 << 20
DEADLINE = 2.0
PATIENCE = 15.0  # what a busy machine may take for what waits for nobody
Machine = Callable[..., AbstractAsyncContextManager[Store]]


class Bucket:
    """A place in a bucket, looked at from the side."""

    def __init__(self, server: Server, options: S3Options) -> None:
        self.server = server
        self.options = options

    def key(self, name: str) -> str:
        return f"{self.options.url.prefix}/{name}"

    def names(self, folder: str = "objects") -> set[str]:
        with self.server.client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.server.bucket, Prefix=self.key(f"{folder}/")
            )
            return {item["Key"].rpartition("/")[2] for page in pages for item in page.get("Contents", [])}

    def get(self, name: str) -> bytes:
        with self.server.client() as client:
            return bytes(client.get_object(Bucket=self.server.bucket, Key=self.key(name))["Body"].read())

    def put(self, name: str, content: bytes) -> None:
        with self.server.client() as client:
            client.put_object(Bucket=self.server.bucket, Key=self.key(name), Body=content)

    def delete(self, name: str) -> None:
        with self.server.client() as client:
            client.delete_object(Bucket=self.server.bucket, Key=self.key(name))

    def flip(self, name: str, at: int) -> None:
        content = bytearray(self.get(name))
        content[at] ^= 1
        self.put(name, bytes(content))

    def put_object(self, content: bytes) -> Oid:
        """As a program that is not lfsfs would: no digest note."""
        oid = Oid.of(content)
        self.put(object_name(oid), content)
        return oid


def object_name(oid: Oid) -> str:
    return f"objects/{oid.path()}"


@pytest.fixture
def bucket(rgw_server: Server, proxy: Proxy) -> Bucket:
    return Bucket(
        rgw_server, rgw_server.options(endpoint=proxy.endpoint, part_size=5 * MIB, read_timeout=1.0)
    )


@pytest.fixture
def machine(bucket: Bucket, tmp_path: Path) -> Machine:
    """`async with machine("a", mode=…) as store`: a store directory of that name; uploads run unless told not to."""

    @asynccontextmanager
    async def opened(
        name: str, *, uploads: bool = True, durability: Durability = "fast", **cache: Any
    ) -> AsyncIterator[Store]:
        options = CacheOptions(**{"deadline": DEADLINE, **cache})
        remote = (bucket.options, options)
        async with (
            open_store(tmp_path / name, create=True, durability=durability, remote=remote) as store,
            trio.open_nursery() as nursery,
        ):
            if uploads and store.remote is not None:
                nursery.start_soon(store.remote.run)
            yield store
            nursery.cancel_scope.cancel()

    return opened


async def content_of(store: Store, oid: Oid) -> bytes:
    return b"".join([piece async for piece in store.download(oid)])


async def uploaded(store: Store, seconds: float = 20.0) -> None:
    """Returns when nothing waits for its upload."""
    with trio.fail_after(seconds):
        while store.index.view(journal.backlog).objects:
            await trio.sleep(0.02)


def local_files(store: Store) -> set[str]:
    return {path.name for path in (store.layout.objects).rglob("*") if path.is_file()}


def damage(store: Store, oid: Oid, at: int) -> None:
    path = store.layout.objects / oid.path()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


def on_disk(*places: Path) -> int:
    """The bytes that the files there take; without those that go while it looks."""
    found = 0
    for folder, _, names in (each for place in places for each in os.walk(place)):
        for name in names:
            with suppress(FileNotFoundError):
                found += os.stat(f"{folder}/{name}").st_blocks * 512
    return found
