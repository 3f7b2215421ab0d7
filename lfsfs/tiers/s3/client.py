"""Client: boto3 set up as this machine and the server need it, and its calls as trio sees them."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import boto3
import trio
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session
from botocore.utils import parse_timestamp

from lfsfs import durable
from lfsfs.config import S3Options
from lfsfs.errors import InvalidConfig
from lfsfs.tiers.s3.failures import REDIRECTS, Where, translated

ATTEMPTS = 4  # of one request, by botocore, with pauses of at most 1, 2 and 4 s
DEFAULT_REGION = "us-east-1"  # servers other than Amazon's take any
CUSTOMER_KEY_BYTES = 32
CUT_ANSWER = b"<Error><Code>RequestTimeout</Code><Message>The answer was cut</Message></Error>"
T = TypeVar("T")


class Client:
    """One boto3 client and the threads that wait for it.

    Reading and writing have limits of their own: no read waits behind uploads. Everything that begins here
    ends: after ATTEMPTS times the timeouts at the latest.
    """

    def __init__(self, boto: Any, options: S3Options) -> None:
        self.boto = boto
        self.bucket = options.url.bucket
        self.options = options
        self.sealing = sealing(options)
        self.where = Where(boto.meta.endpoint_url, self.bucket)
        self.plain = boto.meta.endpoint_url.startswith("http://")
        self._readers = trio.CapacityLimiter(options.connections)
        self._writers = trio.CapacityLimiter(options.connections)
        # A task that was cancelled does not wait for the attempts that would still follow.
        boto.meta.events.register("before-send.s3", _stop_when_cancelled)
        boto.meta.events.register("response-received.s3.HeadBucket", _stop_redirects)
        boto.meta.events.register("before-parse.s3", _refuse_cut_answers)

    async def ask(self, what: str, call: Callable[..., T], *arguments: object) -> T:
        """Runs what changes nothing. A cancelled caller goes on at once; the thread ends by itself."""
        return await self._threaded(self._readers, True, what, call, *arguments)

    async def change(self, what: str, call: Callable[..., T], *arguments: object) -> T:
        """Runs what changes something. A cancelled caller waits until it is certain that nothing follows."""

        def step() -> T:
            with durable.step("change-bucket"):
                return call(*arguments)

        return await self._threaded(self._writers, False, what, step)

    async def _threaded(
        self,
        limiter: trio.CapacityLimiter,
        abandon: bool,
        what: str,
        call: Callable[..., T],
        *arguments: object,
    ) -> T:
        def run() -> T:
            with translated(what, self.where):
                return call(*arguments)

        return await trio.to_thread.run_sync(run, limiter=limiter, abandon_on_cancel=abandon)


@asynccontextmanager
async def open_client(options: S3Options) -> AsyncIterator[Client]:
    """A client, whose connections end with the block. InvalidConfig where boto3 cannot use the options."""
    boto = await trio.to_thread.run_sync(make, options)
    try:
        yield Client(boto, options)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(boto.close)


def sealing(options: S3Options) -> dict[str, dict[str, Any]]:
    """What encryption adds to the calls that write ("write"), and to those that touch the bytes again ("read")."""
    write: dict[str, Any] = {}
    read: dict[str, Any] = {}
    if options.storage_class is not None:
        write["StorageClass"] = options.storage_class
    if options.sse == "s3":
        write["ServerSideEncryption"] = "AES256"
    elif options.sse == "kms":
        write["ServerSideEncryption"] = "aws:kms"
        if options.kms_key is not None:
            write["SSEKMSKeyId"] = options.kms_key
    elif options.customer_key is not None:
        read = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": _customer_key(options.customer_key)}
        write |= read
    return {"write": write, "read": read}


def _customer_key(file: Path) -> bytes:
    try:
        key = file.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"customer_key in [s3]: {file}: {error.strerror}") from error
    if len(key) != CUSTOMER_KEY_BYTES:
        raise InvalidConfig(
            f"customer_key in [s3]: {file} has {len(key)} bytes: it must have {CUSTOMER_KEY_BYTES}"
        )
    return key


def make(options: S3Options, **changes: Any) -> Any:
    """A boto3 client, with `changes` to its Config. Takes some hundred ms: boto3 reads the description of S3."""
    if options.ca_bundle is not None and not os.path.isfile(options.ca_bundle):
        raise InvalidConfig(f"ca_bundle in [s3]: {options.ca_bundle}: there is no such file")
    try:
        session = boto3.session.Session(
            botocore_session=_session(),
            aws_access_key_id=options.access_key_id,
            aws_secret_access_key=options.secret_access_key,
            aws_session_token=options.session_token,
        )
        return session.client(
            "s3",
            region_name=options.region or session.region_name or DEFAULT_REGION,
            endpoint_url=options.endpoint,
            verify=None if options.ca_bundle is None else str(options.ca_bundle),
            config=_boto_config(options).merge(BotoConfig(**changes)),
        )
    except (BotoCoreError, ValueError) as error:
        raise InvalidConfig(f"boto3 cannot use these S3 options: {error}") from error


def _session() -> Any:
    """A session that reads times without dateutil, which takes 0.1 ms for each: a page of a listing has a thousand."""
    session = get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
    return session


def _time(text: Any) -> datetime:
    """As servers write it: 2026-11-21T14:30:00.000Z, or Sat, 21 Nov 2026 14:30:00 GMT; whatever boto3 takes else."""
    try:
        found = datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)
    except (TypeError, ValueError):
        found = parse_timestamp(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _boto_config(options: S3Options) -> BotoConfig:
    """What boto3 does by itself since 1.36, aws-chunked bodies with a checksum behind, many servers refuse."""
    return BotoConfig(
        signature_version="s3v4",
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        max_pool_connections=2 * options.connections,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        s3={"addressing_style": options.addressing},
        user_agent="lfsfs",  # boto3's own is put together anew for each request
    )


def _stop_when_cancelled(**_: object) -> None:
    trio.from_thread.check_cancelled()


def _refuse_cut_answers(operation_model: Any, response_dict: dict[str, Any], **_: object) -> None:
    """boto3 does not compare lengths: a listing that is cut before its first byte would be an empty one.

    What is not whole becomes an error that boto3 tries again.
    """
    body, length = response_dict.get("body"), response_dict["headers"].get("content-length")
    if length is None or not isinstance(body, bytes) or operation_model.http["method"] == "HEAD":
        return
    if len(body) != int(length):
        response_dict["status_code"], response_dict["body"] = 500, CUT_ANSWER


def _stop_redirects(parsed_response: dict[str, Any] | None, **_: object) -> None:
    """boto3 answers a redirect by asking where the bucket is, and a redirect of that again, without end."""
    if parsed_response and parsed_response["ResponseMetadata"]["HTTPStatusCode"] in REDIRECTS:
        raise ClientError(parsed_response, "HeadBucket")
