"""tus uploads (https://tus.io/protocols/resumable-upload, 1.0.0): what was sent before a connection broke is kept.

The URL of an upload names its oid, so it is there before anything was sent, with an offset of 0. An upload that is
whole becomes an object, verified, with the answer to its last PATCH. The parts survive a restart of the server.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import trio
from starlette.requests import Request
from starlette.responses import Response

from lfsfs.errors import LfsfsError
from lfsfs.oid import Oid
from lfsfs.server.content import check_object_size, check_room, ensure_repository, oid_of, pour, refusals_for
from lfsfs.server.errors import HttpError
from lfsfs.server.links import held
from lfsfs.server.media import BadRequest, UnsupportedType
from lfsfs.server.service import Caller, Service, admit
from lfsfs.server.turns import Turn
from lfsfs.server.unfinished import Key, Partial
from lfsfs.store import activity

VERSION = "1.0.0"
PIECE_TYPE = "application/offset+octet-stream"
_HEADERS = {"Tus-Resumable": VERSION, "Cache-Control": "no-store"}


async def describe(service: Service, request: Request) -> Response:
    """OPTIONS: what this server can do."""
    headers = _HEADERS | {"Tus-Version": VERSION, "Tus-Extension": "creation,termination"}
    if service.options.object_size is not None:
        headers["Tus-Max-Size"] = str(service.options.object_size)
    return Response(status_code=204, headers=headers)


async def create(service: Service, request: Request) -> Response:
    """POST: begins the upload anew; 201 with its URL, which is this one."""
    oid, caller = await _enter(service, request)
    _check_idle(service.unfinished.find(_key(caller, oid)))
    await _begin(service, request, caller, oid, _number(request, "upload-length"))
    return Response(
        status_code=201, headers=_HEADERS | {"Location": request.scope["raw_path"].decode("ascii")}
    )


async def offset(service: Service, request: Request) -> Response:
    """HEAD: how much is there."""
    oid, caller = await _enter(service, request)
    key = _key(caller, oid)
    partial = service.unfinished.find(key)
    if partial is not None and partial.offset == partial.size and not partial.turn.locked():
        async with partial.turn:  # the server was stopped between the last byte and the object
            await _complete(service, request, key, partial)
        partial = None
    row = held(service.store, caller.repository, oid) if partial is None else None
    there = partial.offset if partial is not None else row.size if row is not None else 0
    headers = _HEADERS | {"Upload-Offset": str(there)}
    size = row.size if row is not None else caller.ticket.size if caller.ticket is not None else None
    return Response(status_code=200, headers=headers | ({} if size is None else {"Upload-Length": str(size)}))


async def append(service: Service, request: Request) -> Response:
    """PATCH: goes on at Upload-Offset. 409 if that is not where the upload ends."""
    oid, caller = await _enter(service, request)
    if request.headers.get("content-type", "") != PIECE_TYPE:
        raise UnsupportedType(f"the body must be {PIECE_TYPE}")
    start = _number(request, "upload-offset")
    key = _key(caller, oid)
    partial = service.unfinished.find(key)
    if partial is None:
        if start != 0:
            raise HttpError(409, "the upload is at 0")
        partial = await _begin(service, request, caller, oid, None)
    try:
        partial.turn.acquire_nowait()
    except trio.WouldBlock as busy:
        raise HttpError(423, "another request is writing to this upload") from busy
    try:
        async with Turn(service), _writing(service, partial):
            await _write(service, request, key, partial, start)
    finally:
        partial.turn.release()
    return Response(status_code=204, headers=_HEADERS | {"Upload-Offset": str(partial.offset)})


async def abandon(service: Service, request: Request) -> Response:
    """DELETE: what was sent is dropped."""
    oid, caller = await _enter(service, request)
    _check_idle(service.unfinished.find(_key(caller, oid)))
    await service.unfinished.drop(_key(caller, oid))
    return Response(status_code=204, headers=_HEADERS)


@asynccontextmanager
async def _writing(service: Service, partial: Partial) -> AsyncIterator[None]:
    """It counts as an upload while somebody sends, not while it waits for more."""
    limits = service.store.limits
    with nullcontext() if limits is None else limits.writing(partial):
        yield


async def _write(service: Service, request: Request, key: Key, partial: Partial, start: int) -> None:
    if start != partial.offset:
        raise HttpError(409, f"the upload is at {partial.offset}")

    async def write(piece: bytes) -> None:
        await partial.upload.write(piece)
        partial.offset += len(piece)

    try:
        await pour(service, request, write)
    except (BadRequest, HttpError):
        raise  # it came to an early end: what is there is good
    except LfsfsError:
        await service.unfinished.drop(key)
        raise
    if partial.offset == partial.size:
        await _complete(service, request, key, partial)


async def _complete(service: Service, request: Request, key: Key, partial: Partial) -> None:
    """All bytes are there. HashMismatch where they are not those of the object: then they are dropped."""
    try:
        with refusals_for(request):
            row = await partial.upload.finalize()
    finally:
        await service.unfinished.drop(key)
    repository, user, _ = key
    activity.pushed(service.store.index, repository, user, [row.size])


def _check_idle(partial: Partial | None) -> None:
    if partial is not None and partial.turn.locked():
        raise HttpError(423, "another request is writing to this upload")


async def _enter(service: Service, request: Request) -> tuple[Oid, Caller]:
    if request.method != "OPTIONS" and request.headers.get("tus-resumable") != VERSION:
        raise HttpError(412, f"Tus-Resumable must be {VERSION}", {"Tus-Version": VERSION})
    oid = oid_of(request)
    return oid, await admit(service, request, "write", oid)


async def _begin(service: Service, request: Request, caller: Caller, oid: Oid, size: int | None) -> Partial:
    expected = caller.ticket.size if caller.ticket is not None and caller.ticket.oid else size
    if expected is None:
        raise BadRequest("how long will the upload be? POST it first, with Upload-Length")
    if size is not None and size != expected:
        raise HttpError(422, f"the object has {expected} bytes")
    check_object_size(service, expected)
    with refusals_for(request):
        check_room(service, caller.repository, oid, expected)
    await ensure_repository(service, caller.repository)
    return await service.unfinished.keep(_key(caller, oid), expected)


def _key(caller: Caller, oid: Oid) -> Key:
    return caller.repository, caller.identity.name, oid


def _number(request: Request, name: str) -> int:
    text = request.headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadRequest(f"{name} must be a number")
    return int(text)
