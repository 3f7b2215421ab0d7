"""Basic transfer: an object's bytes out, whole or in part, and in, verified while they stream."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from lfsfs.errors import HashMismatch, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.server import ranges
from lfsfs.server.errors import HttpError, told
from lfsfs.server.links import find, held
from lfsfs.server.media import BadRequest, BodyTooLarge, UnsupportedType, json_response, read_json
from lfsfs.server.sending import Sending, encoding_of
from lfsfs.server.service import Caller, Service, admit
from lfsfs.server.turns import Turn
from lfsfs.store import activity, references


def oid_of(request: Request) -> Oid:
    """InvalidOid."""
    return Oid(str(request.path_params["oid"]))


async def download(service: Service, request: Request) -> Response:
    """GET and HEAD of an object: 200, 206, 304, 404 or 416."""
    oid = oid_of(request)
    caller = await admit(service, request, "read", oid)
    row = held(service.store, caller.repository, oid)
    if row is None:
        raise NotFound(f"{caller.repository[1:]} has no object {oid}")
    etag = f'"{oid}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if ranges.is_known(request.headers, etag):
        return Response(status_code=304, headers=headers)
    try:
        wanted = ranges.part(request.headers, row.size, etag)
    except ranges.Unsatisfiable as error:
        raise HttpError(
            416, "the range is not in the object", {"Content-Range": f"bytes */{row.size}"}
        ) from error
    encoding = encoding_of(request.headers, row) if wanted is None else None
    return Sending(service, row, wanted, headers, encoding)


async def upload(service: Service, request: Request) -> Response:
    """PUT of an object: 200, or 422 and nothing is stored."""
    oid = oid_of(request)
    caller = await admit(service, request, "write", oid)
    size = announced_size(service, request, caller)
    with refusals_for(request):
        check_room(service, caller.repository, oid, size)
    async with Turn(service):
        await ensure_repository(service, caller.repository)
        async with service.store.create_upload(oid, size, caller.repository) as incoming:
            incoming.begin()
            await pour(service, request, incoming.write)
            with refusals_for(request):
                row = await incoming.finalize()
    activity.pushed(service.store.index, caller.repository, caller.identity.name, [row.size])
    return Response(status_code=200)


async def verify(service: Service, request: Request) -> Response:
    """POST verify: 200 if the repository has the object with that size."""
    oid = oid_of(request)
    caller = await admit(service, request, "write", oid)
    said = await read_json(request, service.options.request_size)
    if said.get("oid") != oid:
        raise BadRequest("the body is about another object than the path")
    size = said.get("size")
    if isinstance(size, bool) or not isinstance(size, int):
        raise BadRequest("size must be a whole number")
    parcel = caller.ticket.parcel if caller.ticket is not None else ""
    with refusals_for(request):
        await service.links.settle(caller.repository, oid, size, parcel)
    if parcel:
        activity.pushed(service.store.index, caller.repository, caller.identity.name, [size])
    return json_response({})


@contextmanager
def refusals_for(request: Request) -> Iterator[None]:
    """What was uploaded is refused inside with 422, and to git-lfs with 403.

    It takes a 422 for a complaint about the Content-Type that it had guessed, says so, and has git push all the same
    (git-lfs 3.3.0): the pointer would be there, and no object.
    """
    try:
        yield
    except LfsfsError as refused:
        if refused.status == 422 and request.headers.get("user-agent", "").startswith("git-lfs/"):
            raise HttpError(403, told(refused)) from refused
        raise


def announced_size(service: Service, request: Request, caller: Caller) -> int | None:
    """The size that the body must have, by its ticket and its headers; None: nobody knows.

    HashMismatch, BodyTooLarge, UnsupportedType.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedType("an object is uploaded as it is, without Content-Encoding")
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdigit() else None
    expected = caller.ticket.size if caller.ticket is not None and caller.ticket.oid else size
    if size is not None and size != expected:
        raise HashMismatch(f"the body has {size} bytes, and the object {expected}")
    check_object_size(service, expected)
    return expected


def check_object_size(service: Service, size: int | None) -> None:
    """BodyTooLarge where no object may be so large."""
    limit = service.options.object_size
    if limit is not None and size is not None and size > limit:
        raise BodyTooLarge(f"an object may have {limit} bytes here")


def check_room(service: Service, repository: str, oid: Oid, size: int | None) -> None:
    """What is known before the first byte: Infected, NoSpace, QuotaExceeded, TooManyUploads."""
    for refused in service.store.admission.refused([oid]).values():
        raise refused
    limits = service.store.limits
    if limits is not None:
        limits.check_uploads()
        limits.check_disk(size or 0)
        service.store.admission.check_room(oid, size or 0)
    found = find(service.store, repository)
    if found is not None and size is not None:
        service.store.admission.check_quota(found.id, oid, size)


async def ensure_repository(service: Service, repository: str) -> None:
    """Whoever may write to a repository makes it by doing so. NameTooLong."""
    if service.store.limits is not None:
        service.store.limits.check_length(len(repository.encode()) - 1)
    if service.store.index.view(lambda tx: references.find_repository(tx, repository)) is None:
        await service.store.index.update(lambda tx: references.add_repository(tx, repository))


async def pour(service: Service, request: Request, write: Callable[[bytes], Awaitable[None]]) -> None:
    """Writes the request's body. BadRequest if it ends early, 408 if it stands still for too long.

    The clock runs while we wait for the client, not while we wait for our own disk.
    """
    seconds = service.options.idle_timeout
    received = 0
    try:
        with trio.move_on_after(seconds) as patience:
            async for piece in request.stream():
                patience.deadline = inf
                if piece:
                    await write(piece)
                    received += len(piece)
                patience.deadline = trio.current_time() + seconds
    except ClientDisconnect as gone:
        raise BadRequest("the body ended early") from gone
    finally:
        service.metrics.bytes.labels("in").inc(received)
    if patience.cancelled_caught:
        raise HttpError(408, "the body does not come")
