"""Download: the bytes of one key, from anywhere in it, through cuts of the connection."""

import threading
from typing import Any

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.tiers.remote import PIECE_BYTES, Sink
from lfsfs.tiers.s3.client import Client
from lfsfs.tiers.s3.failures import code, status, told

IDLE_TRIES = 3  # bodies in a row that may be cut before their first byte
LARGEST_OBJECT = 1 << 50  # bytes: no S3 has larger ones, and some cannot read a larger number
_CUT = (boto.ReadTimeoutError, boto.ResponseStreamingError, boto.IncompleteReadError, HTTPError)


class Closed(Exception):
    """Nobody wants the bytes any more."""


class Gate:
    """Passes pieces to a sink until it is closed: a thread that was left behind does no harm then."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._closed = False
        self._body: Any = None

    def __call__(self, piece: bytes) -> None:
        with self._lock:
            if self._closed:
                raise Closed
            self._sink(piece)

    def watch(self, body: Any) -> None:
        """The response (urllib3's) that pieces come from now."""
        self._body = body

    def close(self) -> None:
        """Returns when the sink is not running and never will again. A thread that waits for bytes wakes up."""
        with self._lock:
            self._closed = True
        if self._body is not None:
            try:
                self._body.shutdown()
            except (OSError, RuntimeError, ValueError):  # it is over already
                pass


def download(client: Client, key: str, offset: int, size: int, sink: Gate) -> None:
    """Hands `size` bytes from `offset` on to `sink`; fewer where the object ends. Runs in a thread.

    A body that is cut is asked for again from there. Errors are boto3's, and what the sink raises.
    """
    end = min(offset + size, LARGEST_OBJECT)
    if offset >= end:
        client.boto.head_object(Bucket=client.bucket, Key=key, **client.sealing["read"])
        return
    position, idle = offset, 0
    while position < end:
        answer = _answer(client, key, position, end)
        if answer is None:
            return
        began, whole = position, min(position + int(told(answer, "ContentLength")), end)
        body = answer["Body"].__enter__()  # urllib3's own: boto3's waits until a piece is full
        sink.watch(body)
        try:
            while position < whole and (piece := body.read1(min(PIECE_BYTES, whole - position))):
                position += len(piece)
                sink(piece)
            if position == whole:
                return
            raise boto.IncompleteReadError(actual_bytes=position - began, expected_bytes=whole - began)
        except _CUT:
            idle = 0 if position > began else idle + 1
            if idle == IDLE_TRIES:
                raise
        finally:
            body.close()


def _answer(client: Client, key: str, position: int, end: int) -> dict[str, Any] | None:
    """What the server says to a request for the bytes from `position` on; None when the object has none there."""
    wanted = f"bytes={position}-{end - 1}"
    try:
        answer = client.boto.get_object(Bucket=client.bucket, Key=key, Range=wanted, **client.sealing["read"])
    except boto.ClientError as error:
        if code(error) == "InvalidRange" or status(error) == 416:
            return None
        raise
    begins = f"bytes {position}-"
    if position > 0 and not answer.get("ContentRange", "").startswith(begins):
        answer["Body"].close()
        raise LfsfsError(
            f"{client.where.endpoint} answers with other bytes than the range that was asked for"
        )
    return dict(answer)


def content(client: Client, key: str, limit: int) -> bytes:
    """All of a small key; Corrupt where it has more than `limit` bytes. Runs in a thread."""
    pieces: list[bytes] = []
    download(client, key, 0, limit + 1, Gate(pieces.append))
    found = b"".join(pieces)
    if len(found) > limit:
        raise Corrupt(f"{key} has more than {limit} bytes: it is none of ours")
    return found


def length(client: Client, key: str) -> int | None:
    """Bytes of a key; None if it is not there. Runs in a thread."""
    try:
        answer = client.boto.head_object(Bucket=client.bucket, Key=key, **client.sealing["read"])
    except boto.ClientError as error:
        if is_absent(error):
            return None
        raise
    return int(told(answer, "ContentLength"))


def is_absent(error: boto.ClientError) -> bool:
    """Whether the server said that there is no such key. A bucket that is not there is another matter."""
    return code(error) in ("NoSuchKey", "404", "NotFound")


def not_found(what: str) -> NotFound:
    return NotFound(f"no {what}")
