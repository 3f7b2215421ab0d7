"""Upload: a sealed file becomes one key, whole or not at all.

A small file is one PutObject. A large one goes up in parts, several at a time; CompleteMultipartUpload is the
commit. Where the server has it, the commit is conditional (If-None-Match), so that an object that is there
stays as it is. boto3 repeats a request whose answer was lost, and the server may then say of our own write that
it is there already: so 412 means "look".
"""

import base64
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import trio
from botocore import exceptions as boto

from lfsfs.errors import LfsfsError, Unavailable
from lfsfs.tiers.remote import Check, Source
from lfsfs.tiers.s3.client import Client
from lfsfs.tiers.s3.download import length
from lfsfs.tiers.s3.failures import code, status, told

LOOK_FIRST_BYTES = 1 << 20  # from this size on, to ask whether it is there costs less than to send it
READ_AHEAD_BYTES = 256 << 10
PARTS_AT_ONCE = 4  # of one upload
MOST_PARTS = 10_000
MIB = 1 << 20
ABORT_SECONDS = 5.0  # that a failed or cancelled put may wait for it
CONFLICTS = 5  # attempts to commit while others write the same key
# What servers say to headers that they do not know, besides 501.
_REFUSALS = frozenset(("InvalidArgument", "InvalidRequest", "NotImplemented", "UnsupportedHeader"))

log = logging.getLogger(__name__)


class Body:
    """`size` bytes of a source from `offset` on, as boto3 wants a body: it reads, rewinds and reads again.

    Reading ends where the task is cancelled: the request is cut then, and the server drops it.
    """

    def __init__(self, source: Source, offset: int, size: int) -> None:
        self._source = source
        self._offset = offset
        self._size = size
        self._position = 0
        self._ahead, self._ahead_at = (
            b"",
            0,
        )  # sockets take little at once, and a source may have to make it anew

    def read(self, size: int | None = -1) -> bytes:
        trio.from_thread.check_cancelled()
        left = self._size - self._position
        wanted = left if size is None or size < 0 else min(size, left)
        start = self._position - self._ahead_at
        if not 0 <= start <= start + wanted <= len(self._ahead):
            start, self._ahead_at = 0, self._position
            self._ahead = self._source.read_at(
                self._offset + self._position, min(left, max(wanted, READ_AHEAD_BYTES))
            )
        piece = self._ahead[start : start + wanted]
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def md5(self) -> str:
        """Of all of it, as Content-MD5 has it."""
        self.seek(0)
        digest = hashlib.md5(usedforsecurity=False)
        while piece := self.read(MIB):
            digest.update(piece)
        self.seek(0)
        return base64.b64encode(digest.digest()).decode()


@dataclass(frozen=True)
class Asked:
    """What a server need not have: If-None-Match, and x-amz-checksum-sha256 of a whole object."""

    only_new: bool
    checksum: bool

    def less(self) -> "list[Asked]":
        """This, and what to try when it is refused."""
        return list(
            dict.fromkeys((self, replace(self, checksum=False), Asked(only_new=False, checksum=False)))
        )

    @property
    def condition(self) -> dict[str, str]:
        return {"IfNoneMatch": "*"} if self.only_new else {}


class Uploads:
    """Puts files into one bucket, and learns what its server does not have."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.asked = Asked(only_new=True, checksum=True)
        """What is asked of the server with a commit: less, once it has refused something and done the rest."""

    async def put(self, what: str, key: str, source: Source, check: Check) -> None:
        """As the tier's `put_source`. `what`: in words."""
        if source.size >= LOOK_FIRST_BYTES:
            found = await self._client.ask(what, length, self._client, key)
            if found is not None and _is_it(source, found):
                return
        if source.size > self._client.options.part_size:
            await self._put_parts(what, key, source, check)
        else:
            await check()
            body = Body(source, 0, source.size)
            await self._client.change(what, self._commit, key, source, self._put_object, body)

    # One request.

    def _put_object(self, key: str, source: Source, body: Body, asked: Asked) -> None:
        known = source.sha256 if asked.checksum else None
        checksum = {"ChecksumSHA256": base64.b64encode(known).decode()} if known is not None else {}
        body.seek(0)
        answer = self._client.boto.put_object(
            Bucket=self._client.bucket,
            Key=key,
            Body=body,
            **checksum,
            **asked.condition,
            **self._digest(body),
            **self._client.sealing["write"],
        )
        told(answer, "ETag")  # or it was not S3 that said 200

    def _digest(self, body: Body) -> dict[str, str]:
        """Over http the signature covers the bytes; over TLS it does not, and Content-MD5 lets the server check."""
        return {} if self._client.plain else {"ContentMD5": body.md5()}

    def _commit(self, key: str, source: Source, write: Callable[..., None], *arguments: object) -> bool:
        """Runs the request that makes the key appear, and learns what the server refuses to be asked.

        False: the key was there already.
        """
        for asked in self.asked.less():
            try:
                written = self._write(key, source, asked, partial(write, key, source, *arguments))
                self.asked = asked
                return written
            except boto.ClientError as error:
                refused = status(error) == 501 or (status(error) == 400 and code(error) in _REFUSALS)
                if not refused or asked == self.asked.less()[-1]:
                    raise
        raise AssertionError("there is always something to ask")

    def _write(self, key: str, source: Source, asked: Asked, write: Callable[[Asked], None]) -> bool:
        """A key that is there and has the size is as good; another one is damaged, and is replaced."""
        for _ in range(CONFLICTS):
            try:
                write(asked)
                return True
            except boto.ClientError as error:
                if status(error) == 412:
                    found = length(self._client, key)
                    if found is not None and _is_it(source, found):
                        return False
                    asked = replace(asked, only_new=found is None)
                elif status(error) != 409:
                    raise
        raise Unavailable(f"cannot store {key}: others write it all the time")

    # In parts.

    async def _put_parts(self, what: str, key: str, source: Source, check: Check) -> None:
        client = self._client
        upload = await client.change(what, self._create, key)
        try:
            parts = await self._send_parts(what, key, upload, source)
            await check()
            if not await client.change(what, self._commit, key, source, self._complete, upload, parts):
                await self._try_to_abort(key, upload)
        except BaseException:
            await self._try_to_abort(key, upload)
            raise

    async def _try_to_abort(self, key: str, upload: str) -> None:
        """In vain when the server is gone: `abort_uploads` finds it later."""
        with trio.move_on_after(ABORT_SECONDS, shield=True):
            try:
                await self._client.ask(f"cannot abort the upload of {key}", self.abort, key, upload)
            except LfsfsError as error:
                log.warning("%s", error)

    def _create(self, key: str) -> str:
        answer = self._client.boto.create_multipart_upload(
            Bucket=self._client.bucket, Key=key, **self._client.sealing["write"]
        )
        return str(told(answer, "UploadId"))

    async def _send_parts(self, what: str, key: str, upload: str, source: Source) -> list[dict[str, Any]]:
        size = source.size
        each = part_size(size, self._client.options.part_size)
        offsets = range(0, size, each)
        parts: list[dict[str, Any]] = [{}] * len(offsets)
        remaining = iter(enumerate(offsets))

        async def send() -> None:
            for index, offset in remaining:
                body = Body(source, offset, min(each, size - offset))
                try:
                    parts[index] = await self._client.change(what, self._send, key, upload, index + 1, body)
                except LfsfsError as error:  # several may fail at once: the first tells
                    failures.append(error)
                    nursery.cancel_scope.cancel()

        failures: list[LfsfsError] = []
        async with trio.open_nursery() as nursery:
            for _ in range(min(PARTS_AT_ONCE, len(offsets))):
                nursery.start_soon(send)
        if failures:
            raise failures[0]
        return parts

    def _send(self, key: str, upload: str, number: int, body: Body) -> dict[str, Any]:
        answer = self._client.boto.upload_part(
            Bucket=self._client.bucket,
            Key=key,
            UploadId=upload,
            PartNumber=number,
            Body=body,
            **self._digest(body),
            **self._client.sealing["read"],
        )
        return {"PartNumber": number, "ETag": told(answer, "ETag")}

    def _complete(
        self, key: str, source: Source, upload: str, parts: list[dict[str, Any]], asked: Asked
    ) -> None:
        try:
            answer = self._client.boto.complete_multipart_upload(
                Bucket=self._client.bucket,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                **asked.condition,
            )
            told(answer, "ETag")
        except boto.ClientError as error:
            # A repeated request whose first answer was lost: the upload is over, and the object is there.
            if code(error) != "NoSuchUpload" or length(self._client, key) != source.size:
                raise

    def abort(self, key: str, upload: str) -> None:
        """Absent is success. Runs in a thread."""
        try:
            self._client.boto.abort_multipart_upload(Bucket=self._client.bucket, Key=key, UploadId=upload)
        except boto.ClientError as error:
            if code(error) not in ("NoSuchUpload", "404"):
                raise


def part_size(size: int, least: int) -> int:
    """Bytes of each part, in whole MiB, so that there are at most 10,000."""
    needed = -(-size // MOST_PARTS)
    return max(least, -(-needed // MIB) * MIB)


def _is_it(source: Source, length: int) -> bool:
    """Whether what has so many bytes may be the object of the source."""
    return not source.over and (not source.exact or length == source.size)
