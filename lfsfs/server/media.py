"""The JSON of the API, in and out: its media type, and bodies that are bounded before they are parsed."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from lfsfs.errors import LfsfsError

LFS_JSON = "application/vnd.git-lfs+json"
JSON_TYPES = frozenset((LFS_JSON, "application/json"))


class BadRequest(LfsfsError):
    """A body or a parameter that makes no sense. The API's documents say 422 for it."""

    status = 422


class UnsupportedType(LfsfsError):
    """A body of another type. A browser cannot be made to send ours to another site without asking first."""

    status = 415


class NotAcceptable(LfsfsError):
    """The client takes nothing that we could say."""

    status = 406


class BodyTooLarge(LfsfsError):
    """More bytes than a request of this kind may have."""

    status = 413


def as_json(value: object) -> bytes:
    return orjson.dumps(value)


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(as_json(value), status, dict(headers or {}), media_type=LFS_JSON)


def check_accept(headers: Mapping[str, str]) -> None:
    """NotAcceptable where the client says that it takes other types only."""
    accept = headers.get("accept", "")
    if not accept:
        return
    offered = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    if not any(kind in JSON_TYPES or kind in ("*/*", "application/*") for kind in offered):
        raise NotAcceptable(f"the answer would be {LFS_JSON}")


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The JSON object that is the request's body. BodyTooLarge, UnsupportedType, BadRequest."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON_TYPES:
        raise UnsupportedType(f"the body must be {LFS_JSON}")
    return parse_object(await read_body(request, limit))


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, in memory. BodyTooLarge before more than `limit` bytes of it are there."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLarge(f"the body has more than {limit} bytes")
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                raise BodyTooLarge(f"the body has more than {limit} bytes")
    except ClientDisconnect as gone:
        raise BadRequest("the body ended early") from gone
    return bytes(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """BadRequest unless it is a JSON object. One that is nested too deep is none: the parser stops at its limit."""
    try:
        value = orjson.loads(body)
    except ValueError as error:
        raise BadRequest("the body is no JSON") from error
    if not isinstance(value, dict):
        raise BadRequest("the body is no JSON object")
    return value
