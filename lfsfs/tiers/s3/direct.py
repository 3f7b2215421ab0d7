"""Direct: URLs by which others move bytes past us, from the bucket and into a corner of it; and what follows there."""

import base64
import os
import secrets
from typing import Any

import trio
from botocore import exceptions as boto
from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session

from lfsfs.oid import Oid
from lfsfs.tiers.remote import Signed, Sink
from lfsfs.tiers.s3.client import Client
from lfsfs.tiers.s3.download import LARGEST_OBJECT, Gate, download, is_absent, length, not_found
from lfsfs.tiers.s3.failures import told
from lfsfs.tiers.s3.keys import Keys

_TRIED, _WRONG = b"0123456789", b"9876543210"
_REFUSED = range(400, 500)
_HEADERS = {
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}


class S3Direct:
    """The Direct of a bucket and a prefix."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._checks: bool | None = None
        self._trying = trio.Lock()

    async def url_to_read(self, oid: Oid, seconds: int) -> Signed:
        what = {"Key": self._keys.key(oid)}
        return Signed(await self._sign("get_object", what, seconds), {})

    async def url_to_write(self, note: str, oid: Oid, size: int, seconds: int) -> Signed:
        sealed = {
            name: value for name, value in self._client.sealing["write"].items() if name in _HEADERS
        }  # the storage class is the copy's concern
        said = {"ChecksumSHA256": base64.b64encode(oid.to_bytes()).decode(), **sealed}
        what = {"Key": self._keys.note(note), "ContentLength": size, **said}
        headers = {_HEADERS[name]: value for name, value in said.items()}
        return Signed(await self._sign("put_object", what, seconds), headers)

    async def checks_sha256(self) -> bool:
        async with self._trying:
            if self._checks is None:
                note = f"doctor/{secrets.token_hex(8)}/direct"
                signed = await self.url_to_write(note, Oid.of(_TRIED), len(_WRONG), 60)
                self._checks = await self._client.change(
                    "cannot try out checksums", self._refuses, self._keys.note(note), signed
                )
            return self._checks

    async def length(self, note: str) -> int:
        found = await self._client.ask(f"cannot read {note}", length, self._client, self._keys.note(note))
        if found is None:
            raise not_found(note)
        return found

    async def fetch(self, note: str, sink: Sink) -> None:
        gate = Gate(sink)
        try:
            await self._client.ask(
                f"cannot read {note}", download, self._client, self._keys.note(note), 0, LARGEST_OBJECT, gate
            )
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(gate.close)

    async def copy(self, note: str, target: str) -> None:
        await self._client.change(
            f"cannot copy {note}", self._copy, self._keys.note(note), self._keys.note(target)
        )

    async def adopt(self, note: str, oid: Oid) -> None:
        await self._client.change(
            f"cannot store {oid}", self._copy, self._keys.note(note), self._keys.key(oid)
        )

    # Requests. What follows and is not async runs in a thread.

    async def _sign(self, method: str, what: dict[str, Any], seconds: int) -> str:
        def sign() -> str:
            place = {"Bucket": self._client.bucket, **what}
            return str(self._client.boto.generate_presigned_url(method, Params=place, ExpiresIn=seconds))

        return await self._client.ask("cannot sign a URL", sign)

    def _copy(self, source: str, target: str) -> None:
        """Without what the one who wrote it said of it."""
        try:
            answer = self._client.boto.copy_object(
                Bucket=self._client.bucket,
                Key=target,
                CopySource={"Bucket": self._client.bucket, "Key": source},
                MetadataDirective="REPLACE",
                ContentType="application/octet-stream",
                **self._client.sealing["write"],
            )
        except boto.ClientError as error:
            if is_absent(error):
                raise not_found(source) from error
            raise
        told(answer, "CopyObjectResult")

    def _refuses(self, key: str, signed: Signed) -> bool:
        """Whether a PUT of other bytes than the URL is for is refused, and leaves nothing."""
        bundle = self._client.options.ca_bundle or os.environ.get("AWS_CA_BUNDLE")
        session = URLLib3Session(verify=str(bundle) if bundle else True)
        try:
            request = AWSRequest("PUT", signed.url, headers=signed.headers, data=_WRONG)
            status = session.send(request.prepare()).status_code
            return status in _REFUSED and length(self._client, key) is None
        finally:
            session.close()
            self._client.boto.delete_object(Bucket=self._client.bucket, Key=key)
