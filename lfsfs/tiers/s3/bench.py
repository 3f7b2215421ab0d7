"""Bench: a corner of the bucket where the doctor tries things, and cleans up after itself."""

import itertools
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
from botocore import exceptions as boto

from lfsfs.tiers.s3.client import Client
from lfsfs.tiers.s3.failures import code, status

RACERS = 12


class Bench:
    """Requests to keys of its own, below PREFIX/doctor/. All of it runs in threads; errors are boto3's."""

    def __init__(self, client: Client, root: str) -> None:
        self.client = client
        self.boto = client.boto
        self.place = {"Bucket": client.bucket}
        self.root = f"{root}doctor/{secrets.token_hex(8)}/"
        self._numbers = itertools.count(1)

    def key(self, name: str = "") -> str:
        """A key that nobody has used."""
        return f"{self.root}{next(self._numbers):03}{name}"

    def put(self, key: str, content: bytes = b"0123456789", **more: Any) -> None:
        write = self.client.sealing["write"]
        self.boto.put_object(**self.place, Key=key, Body=content, **write, **more)

    def get(self, key: str, **more: Any) -> tuple[int, bytes]:
        """HTTP status and content."""
        answer = self.boto.get_object(**self.place, Key=key, **self.client.sealing["read"], **more)
        with answer["Body"] as body:
            return answer["ResponseMetadata"]["HTTPStatusCode"], body.read()

    def head(self, key: str, **more: Any) -> dict[str, Any]:
        return dict(self.boto.head_object(**self.place, Key=key, **self.client.sealing["read"], **more))

    def exists(self, key: str) -> bool:
        try:
            self.head(key)
        except boto.ClientError as error:
            if status(error) == 404:
                return False
            raise
        return True

    def listed(self, **more: Any) -> list[str]:
        answer = self.boto.list_objects_v2(**self.place, Prefix=self.root, **more)
        return [item["Key"] for item in answer.get("Contents", [])]

    def parts(self, key: str, contents: list[bytes], **complete: Any) -> None:
        """A multipart upload."""
        upload = self.begin(key)
        try:
            parts = [self.part(key, upload, number, one) for number, one in enumerate(contents, 1)]
            self.boto.complete_multipart_upload(
                **self.place, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **complete
            )
        except boto.ClientError:
            self.abort(key, upload)
            raise

    def begin(self, key: str) -> str:
        write = self.client.sealing["write"]
        return str(self.boto.create_multipart_upload(**self.place, Key=key, **write)["UploadId"])

    def part(self, key: str, upload: str, number: int, content: bytes) -> dict[str, Any]:
        answer = self.boto.upload_part(
            **self.place,
            Key=key,
            UploadId=upload,
            PartNumber=number,
            Body=content,
            **self.client.sealing["read"],
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def abort(self, key: str, upload: str) -> None:
        try:
            self.boto.abort_multipart_upload(**self.place, Key=key, UploadId=upload)
        except boto.ClientError as error:
            if status(error) != 404:
                raise

    def refused(self, key: str, content: bytes, **more: Any) -> bool:
        """Whether a put is answered with an error of the kind 400, and leaves nothing."""
        try:
            self.put(key, content, **more)
        except boto.ClientError as error:
            if status(error) not in (400, 403, 422):
                raise
            return not self.exists(key)
        return False

    @contextmanager
    def damaging(self) -> Iterator[None]:
        """The first byte of every body is damaged after it was signed."""

        def damage(request: Any, **_: object) -> None:
            if request.body:
                body = request.body if isinstance(request.body, bytes) else request.body.read()
                request.body = bytes((body[0] ^ 1,)) + body[1:]

        self.boto.meta.events.register("before-send.s3", damage)
        try:
            yield
        finally:
            self.boto.meta.events.unregister("before-send.s3", damage)

    def race(self, key: str) -> list[bytes]:
        """RACERS conditional puts of one key at once: the contents of those that were told that they won."""

        def attempt(content: bytes) -> None:
            try:
                self.put(key, content, IfNoneMatch="*")
                won.append(content)
            except boto.ClientError as error:
                if status(error) not in (409, 412):
                    failed.append(error)

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                for number in range(RACERS):
                    nursery.start_soon(trio.to_thread.run_sync, attempt, b"%d" % number)

        won: list[bytes] = []
        failed: list[boto.ClientError] = []
        trio.from_thread.run(run)
        if failed:
            raise failed[0]
        return won

    def sweep(self) -> int:
        """Removes what was made here; how many keys are still there."""
        for item in self.boto.list_multipart_uploads(**self.place, Prefix=self.root).get("Uploads", []):
            self.abort(item["Key"], item["UploadId"])
        for key in self.listed():
            self.boto.delete_object(**self.place, Key=key)
        return len(self.listed())


def said(error: boto.ClientError) -> str:
    """In a few words what the server answered."""
    word = code(error)
    return f"{status(error)} {word}" if word and not word.isdigit() else f"{status(error)}"
