"""The locking API: take, list, verify before a push, end."""

from datetime import UTC, datetime
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from lfsfs.server.content import ensure_repository
from lfsfs.server.errors import HttpError
from lfsfs.server.media import BadRequest, check_accept, json_response, read_json
from lfsfs.server.service import Caller, Service, admit
from lfsfs.store import activity
from lfsfs.store.activity import Activity
from lfsfs.store.locks import PAGE_LIMIT, PATH_LIMIT_BYTES, Lock, LockFilter, LockPage, LockTaken
from lfsfs.units import SECOND_NS


async def create(service: Service, request: Request) -> Response:
    """POST locks: 201 with the lock, or 409 with the one that is there."""
    check_accept(request.headers)
    caller = await admit(service, request, "write")
    said = await read_json(request, service.options.request_size)
    path = check_path(said.get("path"))
    if service.store.limits is not None:
        service.store.limits.check_length(len(path.encode()))
    await ensure_repository(service, caller.repository)
    try:
        lock = await service.locks.create(caller.repository, path, caller.identity.name, _ref(said))
    except LockTaken as taken:
        answer = {"lock": described(taken.lock), "message": f"already locked by {taken.lock.owner}"}
        return json_response(answer, 409)
    _note(service, caller, "lock", lock)
    return json_response({"lock": described(lock)}, 201)


async def listed(service: Service, request: Request) -> Response:
    """GET locks, with path, id, refspec, cursor and limit."""
    check_accept(request.headers)
    caller = await admit(service, request, "read")
    asked = request.query_params
    wanted = LockFilter(asked.get("path") or None, asked.get("id") or None, asked.get("refspec") or None)
    page = await _page(service, caller.repository, wanted, asked.get("cursor"), asked.get("limit"))
    answer: dict[str, object] = {"locks": [described(lock) for lock in page.locks]}
    return json_response(answer | _next(page))


async def verify(service: Service, request: Request) -> Response:
    """POST locks/verify: all locks of the repository, ours and theirs, whatever branch is pushed."""
    check_accept(request.headers)
    caller = await admit(service, request, "write")
    said = await read_json(request, service.options.request_size)
    _ref(said)
    page = await _page(service, caller.repository, LockFilter(), said.get("cursor"), said.get("limit"))
    ours = [lock for lock in page.locks if lock.owner == caller.identity.name]
    theirs = [lock for lock in page.locks if lock.owner != caller.identity.name]
    answer: dict[str, object] = {
        "ours": [described(lock) for lock in ours],
        "theirs": [described(lock) for lock in theirs],
    }
    return json_response(answer | _next(page))


async def unlock(service: Service, request: Request) -> Response:
    """POST locks/ID/unlock: one's own; with force, and the right to, anybody's."""
    check_accept(request.headers)
    caller = await admit(service, request, "write")
    said = await read_json(request, service.options.request_size)
    force = said.get("force", False)
    if not isinstance(force, bool):
        raise BadRequest("force must be true or false")
    _ref(said)
    lock = await service.locks.get(caller.repository, str(request.path_params["id"]))
    if lock.owner != caller.identity.name:
        if not force:
            raise HttpError(403, f"{lock.path} is locked by {lock.owner}")
        await admit(service, request, "admin")
    ended = await service.locks.delete(caller.repository, lock.id)
    _note(service, caller, "unlock", ended)
    return json_response({"lock": described(ended)})


def described(lock: Lock) -> dict[str, Any]:
    """As the API says it."""
    return {
        "id": lock.id,
        "path": lock.path,
        "locked_at": rfc3339(lock.locked_at),
        "owner": {"name": lock.owner},
    }


def rfc3339(nanoseconds: int) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(nanoseconds // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_path(path: object) -> str:
    """A path in a repository: relative, and none that leads out of it. BadRequest."""
    if not isinstance(path, str) or not path:
        raise BadRequest("path must be a text")
    try:
        size = len(path.encode())
    except UnicodeEncodeError as error:
        raise BadRequest("path must be valid UTF-8") from error
    if size > PATH_LIMIT_BYTES:
        raise BadRequest(f"a path may have {PATH_LIMIT_BYTES} bytes")
    if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise BadRequest("path must be relative to the repository, without empty parts, . and ..")
    return path


def _note(service: Service, caller: Caller, kind: Literal["lock", "unlock"], lock: Lock) -> None:
    done = Activity(kind, caller.repository, caller.identity.name, path=lock.path, owner=lock.owner)
    activity.record(service.store.index, done)


async def _page(
    service: Service, repository: str, wanted: LockFilter, cursor: object, limit: object
) -> LockPage:
    if cursor is not None and not isinstance(cursor, str):
        raise BadRequest("cursor must be a text")
    try:
        return await service.locks.list(repository, wanted, cursor or None, _limit(limit))
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _limit(limit: object) -> int:
    """0 and nothing mean as many as we like."""
    if isinstance(limit, str) and limit.isascii() and limit.isdigit() and len(limit) < 10:
        limit = int(limit)
    if limit is None or limit == "":
        return PAGE_LIMIT
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise BadRequest("limit must be a number")
    return min(limit or PAGE_LIMIT, PAGE_LIMIT)


def _next(page: LockPage) -> dict[str, object]:
    return {} if page.cursor is None else {"next_cursor": page.cursor}


def _ref(said: dict[str, Any]) -> str:
    """The name of the branch that the request is about; empty if it says none."""
    ref = said.get("ref")
    if ref is None:
        return ""
    if not isinstance(ref, dict) or not isinstance(ref.get("name", ""), str):
        raise BadRequest("ref must be an object with a name")
    return str(ref.get("name", ""))[:PATH_LIMIT_BYTES]
