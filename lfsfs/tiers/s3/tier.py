"""S3Tier: objects in a bucket of an S3-compatible server."""

import math
import socket
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio
from botocore import exceptions as boto

from lfsfs.config import S3Options
from lfsfs.errors import Denied, InvalidConfig, LfsfsError
from lfsfs.oid import Oid
from lfsfs.tiers.remote import NOTE_BYTES, Check, Sink, Source, Stored
from lfsfs.tiers.remote_wrapper import unchecked
from lfsfs.tiers.s3.client import Client, open_client
from lfsfs.tiers.s3.direct import S3Direct
from lfsfs.tiers.s3.download import Closed, Gate, content, download, is_absent, length, not_found
from lfsfs.tiers.s3.failures import code, status, told
from lfsfs.tiers.s3.keys import Keys
from lfsfs.tiers.s3.upload import CONFLICTS, Uploads
from lfsfs.tiers.source import open_source
from lfsfs.tiers.tier import check_limit, check_range
from lfsfs.tiers.turns import Turns
from lfsfs.units import SECOND_NS

PAGE = 1000  # keys: what a server lists at once
A_SECOND = timedelta(seconds=1)  # what the server's time, in an answer's Date, may be behind
TLS_SECONDS = 2.0
BUCKET_SECONDS = 30.0  # how long it is believed, from one look to the next, that the bucket is there
_WRITER = "lfsfs-write"  # metadata of a note: which call wrote it


class S3Tier:
    """The RemoteTier of a bucket and a prefix. `open_s3` makes one."""

    def __init__(self, client: Client, prefix: str | None = None) -> None:
        """`prefix`: of the keys, if it is not that of the client's options."""
        self.client = client
        self._prefix = client.options.url.prefix if prefix is None else prefix
        self.keys = Keys(self._prefix, client.options.layout)
        self.uploads = Uploads(client)
        self._turns = Turns()
        self._grants: bool | None = None
        self._trying = trio.Lock()
        self.direct = S3Direct(client, self.keys) if client.options.sse != "c" else None
        self._bucket_seen = -math.inf  # when it was last seen to be there

    # Objects.

    async def put(self, oid: Oid, source: Path) -> None:
        await self.put_checked(oid, source, unchecked)

    async def put_checked(self, oid: Oid, source: Path, check: Check) -> None:
        with open_source(oid, source) as opened:
            await self.put_source(oid, opened, check)

    async def put_source(self, oid: Oid, source: Source, check: Check) -> None:
        async with self._turns.of(oid):  # or each of them would send the bytes
            await self.uploads.put(f"cannot store {oid}", self.keys.key(oid), source, check)

    def below(self, name: str) -> "S3Tier":
        return S3Tier(self.client, f"{self._prefix}/{name}" if self._prefix else name)

    async def read(self, oid: Oid, offset: int, size: int) -> bytes:
        check_range(offset, size)
        pieces: list[bytes] = []
        await self.fetch(oid, offset, size, pieces.append)
        return b"".join(pieces)

    async def fetch(self, oid: Oid, offset: int, size: int, sink: Sink) -> None:
        check_range(offset, size)
        gate = Gate(sink)
        try:
            await self.client.ask(
                f"cannot read {oid}",
                _present,
                f"object {oid}",
                download,
                self.client,
                self.keys.key(oid),
                offset,
                size,
                gate,
            )
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(gate.close)

    async def size(self, oid: Oid) -> int:
        size = await self.client.ask(f"cannot read {oid}", length, self.client, self.keys.key(oid))
        if size is None:
            await self._find_bucket(f"cannot read {oid}")
            raise not_found(f"object {oid}")
        return size

    async def _find_bucket(self, what: str) -> None:
        """InvalidConfig where there is no bucket any more: a HEAD's answer does not tell that from an absent key."""
        now = time.monotonic()
        if now - self._bucket_seen > BUCKET_SECONDS:
            with suppress(Denied):  # who may not list cannot know
                await self._list(what, self.keys.root, "", 1)
            self._bucket_seen = now

    async def delete(self, oid: Oid) -> None:
        await self._delete(f"cannot delete {oid}", self.keys.key(oid))

    async def scan(self, after: Oid | None, limit: int) -> list[Oid]:
        return [stored.oid for stored in await self.survey(after, limit)]

    async def survey(self, after: Oid | None, limit: int) -> list[Stored]:
        check_limit(limit)
        page: list[Stored] = []
        start: str | None = self.keys.key(after) if after is not None else ""
        while start is not None and len(page) < limit:
            found, more = await self._list("cannot list objects", self.keys.objects, start, limit - len(page))
            page += [stored for item in found if (stored := self._stored(item)) is not None]
            if not more:
                break
            last = str(found[-1]["Key"])
            start = last if self.keys.oid(last) is not None else self.keys.beyond(last)
        return page

    # Notes.

    async def put_note(self, key: str, content: bytes, *, only_new: bool = False) -> bool:
        write = self._put_new if only_new else self._put_any
        return await self.client.change(f"cannot write {key}", write, self.keys.note(key), content)

    async def grants_names(self) -> bool:
        async with self._trying:
            if self._grants is None:
                from lfsfs.tiers.s3.probe import grants_names  # knows this module

                self._grants = await grants_names(self)
            return self._grants

    async def note(self, key: str, limit: int = NOTE_BYTES) -> bytes:
        name = self.keys.note(key)
        return await self.client.ask(f"cannot read {key}", _present, key, content, self.client, name, limit)

    async def delete_note(self, key: str) -> None:
        await self._delete(f"cannot delete {key}", self.keys.note(key))

    async def notes(self, prefix: str, after: str | None, limit: int) -> list[str]:
        check_limit(limit)
        page: list[str] = []
        root, start = self.keys.root, "" if after is None else self.keys.root + after
        while len(page) < limit:
            found, more = await self._list(f"cannot list {prefix}", root + prefix, start, limit - len(page))
            keys = [str(item["Key"]) for item in found]
            page += [key[len(root) :] for key in keys if self.keys.oid(key) is None]
            if not more:
                break
            start = keys[-1]
        return page

    # The whole.

    async def check(self) -> None:
        try:
            await self._list(f"{self.client.options.url} cannot be used", self.keys.root, "", 1)
        except LfsfsError as error:
            closed = isinstance(error.__cause__, boto.HTTPClientError) or code(error.__cause__) == "400"
            if self.client.plain and closed and await trio.to_thread.run_sync(self._speaks_tls):
                other = self.client.where.endpoint.replace("http://", "https://")
                raise InvalidConfig(
                    f"{self.client.where.endpoint} speaks TLS: give the endpoint as {other}"
                ) from error
            raise

    async def abort_uploads(self, older_than_seconds: float, among: Collection[Oid] | None = None) -> int:
        what = "cannot look for abandoned uploads"
        pages = await self.client.ask(what, self._uploads_under_way)
        count = 0
        for key, upload, began, now in pages:
            if among is not None and self.keys.oid(key) not in among:
                continue
            if now + A_SECOND - began >= timedelta(seconds=older_than_seconds):
                await self.client.change(what, self.uploads.abort, key, upload)
                count += 1
        return count

    # Requests. What follows and is not async runs in a thread.

    async def _delete(self, what: str, key: str) -> None:
        def delete() -> None:
            try:
                self.client.boto.delete_object(Bucket=self.client.bucket, Key=key)
            except boto.ClientError as error:
                if not is_absent(error):
                    raise

        await self.client.change(what, delete)

    def _stored(self, item: dict[str, Any]) -> Stored | None:
        oid = self.keys.oid(item["Key"])
        if oid is None:
            return None
        return Stored(oid, item["Size"], int(item["LastModified"].timestamp() * SECOND_NS))

    async def _list(
        self, what: str, prefix: str, start: str, limit: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Items whose keys begin with `prefix`, greater than `start`, ascending; and whether there are more.

        A page may hold fewer than `limit` (at most PAGE) all the same, but is empty only at the end.
        """
        return await self.client.ask(what, self._page, prefix, start, limit)

    def _page(self, prefix: str, start: str, limit: int) -> tuple[list[dict[str, Any]], bool]:
        from_here: dict[str, str] = {"StartAfter": start}
        while True:
            answer = self.client.boto.list_objects_v2(
                Bucket=self.client.bucket, Prefix=prefix, MaxKeys=min(PAGE, limit), **from_here
            )
            more = bool(told(answer, "IsTruncated"))  # where it is missing, this is no listing
            items = list(answer.get("Contents", []))
            if items or not more:
                return items, more
            from_here = {"ContinuationToken": told(answer, "NextContinuationToken")}

    def _speaks_tls(self) -> bool:
        """Whether there is TLS where we are told to speak plain HTTP. Runs in a thread."""
        address = urlsplit(self.client.where.endpoint)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection((address.hostname, address.port or 80), TLS_SECONDS) as plain:
                context.wrap_socket(plain).close()
        except OSError:
            return False
        return True

    def _put_any(self, key: str, content: bytes) -> bool:
        self._put(key, content, {}, {})
        return True

    def _put_new(self, key: str, content: bytes) -> bool:
        """A server may refuse boto3's second attempt because the first, whose answer was lost, had succeeded."""
        writer = uuid.uuid4().hex
        for _ in range(CONFLICTS):
            try:
                self._put(key, content, {_WRITER: writer}, {"IfNoneMatch": "*"})
                return True
            except boto.ClientError as error:
                if status(error) == 412:
                    return self._writer(key) == writer
                if status(error) == 501:
                    raise LfsfsError(
                        f"{self.client.where.endpoint} has no conditional writes, which this needs"
                    ) from error
                if status(error) != 409:
                    raise
        return False

    def _put(self, key: str, content: bytes, metadata: dict[str, str], condition: dict[str, str]) -> None:
        answer = self.client.boto.put_object(
            Bucket=self.client.bucket,
            Key=key,
            Body=content,
            Metadata=metadata,
            **self.client.sealing["write"],
            **condition,
        )
        told(answer, "ETag")  # or it was not S3 that said 200

    def _writer(self, key: str) -> str | None:
        try:
            answer = self.client.boto.head_object(
                Bucket=self.client.bucket, Key=key, **self.client.sealing["read"]
            )
        except boto.ClientError as error:
            if is_absent(error):
                return None
            raise
        found = answer.get("Metadata", {}).get(_WRITER)
        return None if found is None else str(found)

    def _uploads_under_way(self) -> list[tuple[str, str, datetime, datetime]]:
        """Key, id, when it began, and the server's time now."""
        found = []
        pages = self.client.boto.get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=self.client.bucket, Prefix=self.keys.root):
            now = server_time(page)
            found += [
                (item["Key"], item["UploadId"], item["Initiated"], now) for item in page.get("Uploads", [])
            ]
        return found


def server_time(answer: dict[str, Any]) -> datetime:
    """What the server's clock said when it answered, to the second."""
    return parsedate_to_datetime(told(answer["ResponseMetadata"]["HTTPHeaders"], "date"))


def _present(name: str, call: Callable[..., Any], *arguments: object) -> Any:
    """NotFound with a name, for what the server does not have."""
    try:
        return call(*arguments)
    except boto.ClientError as error:
        if is_absent(error):
            raise not_found(name) from error
        raise
    except Closed:
        return None  # nobody waits for it


@asynccontextmanager
async def open_s3(options: S3Options) -> AsyncIterator[S3Tier]:
    """The tier, until the block ends. Asks the server nothing: `check` does."""
    async with open_client(options) as client:
        yield S3Tier(client)
