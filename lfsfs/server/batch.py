"""objects/batch: which of some objects are there for a repository, and where each comes from or goes."""

from typing import Any, NamedTuple, TypeVar

import trio
from starlette.requests import Request
from starlette.responses import Response

from lfsfs.errors import InvalidOid, LfsfsError
from lfsfs.oid import Oid, digests
from lfsfs.server.links import Place
from lfsfs.server.media import BadRequest, BodyTooLarge, check_accept, json_response, read_json
from lfsfs.server.service import Service, admit, url_of
from lfsfs.store import activity, catalog, feeds, references
from lfsfs.store.index import Tx

T = TypeVar("T")

OPERATIONS = ("download", "upload")
TRANSFERS = ("basic", "tus")
"""What this server speaks. tus is for uploads, and only where the client offers nothing else but basic."""
STORE_HEADER = "X-Lfsfs-Store"
"""In the answer to a batch: by which `lfsfs attach` knows whether the server is that of the mount."""
BREATH = 256
"""Objects that are answered without a pause."""
_LARGEST = 2**63 - 1
_SHOWN_DIGITS = 25


class Wanted(NamedTuple):
    """One object of a request. `name`: its oid, where it can be one; else `error` says why it cannot."""

    oid: str
    size: int
    name: Oid | None = None
    error: tuple[int, str] = (422, "that is no object")


Held = dict[Oid, tuple[str, int]]
"""Objects that the repository refers to, and the store has: state and size."""


async def batch(service: Service, request: Request) -> Response:
    """POST objects/batch."""
    check_accept(request.headers)
    body = await read_json(request, service.options.request_size)
    operation = body.get("operation")
    if operation not in OPERATIONS:
        raise BadRequest(f"operation must be one of {', '.join(OPERATIONS)}")
    caller = await admit(service, request, "read" if operation == "download" else "write")
    if body.get("hash_algo", "sha256") != "sha256":
        raise HashUnknown("hash_algo must be sha256")
    wanted = _wanted(body, service.options.batch_objects)
    place = Place(caller.repository, url_of(service, request), caller.identity, _transfer(body, operation))
    answers = _Answers(service, place)
    found = await (answers.downloads(wanted) if operation == "download" else answers.uploads(wanted))
    service.metrics.batch(operation, len(wanted))
    answer = {"transfer": place.transfer, "objects": found, "hash_algo": "sha256"}
    return json_response(answer, headers={STORE_HEADER: service.store.layout.id})


class HashUnknown(LfsfsError):
    """The client names objects by another hash."""

    status = 409


class _Answers:
    """What one batch says of each object, in the order asked."""

    def __init__(self, service: Service, place: Place) -> None:
        self._service = service
        self._place = place

    async def downloads(self, wanted: list[Wanted]) -> list[dict[str, object]]:
        answers = []
        for start in range(0, len(wanted), BREATH):
            answers += await self._downloads(wanted[start : start + BREATH])
            await trio.lowlevel.checkpoint()
        return answers

    async def _downloads(self, wanted: list[Wanted]) -> list[dict[str, object]]:
        held = self._held(wanted)
        answers: list[dict[str, object]] = []
        offered: list[dict[str, object]] = []
        objects: list[tuple[Oid, int]] = []
        for oid, size, name, error in wanted:
            row = None if name is None else held.get(name)
            if name is None:
                answers.append(_refused(oid, size, *error))
            elif row is None:
                answers.append(_refused(oid, size, 404, "the repository has no such object"))
            elif row[1] != size:
                answers.append(_refused(oid, size, 422, f"the object has {row[1]} bytes"))
            elif row[0] == "corrupt" and self._service.store.remote is None:
                answers.append(
                    _refused(oid, size, 410, "the object was found corrupt: it must be uploaded again")
                )
            else:
                answer: dict[str, object] = {"oid": oid, "size": size, "authenticated": True}
                answers.append(answer)
                offered.append(answer)
                objects.append((name, size))
        actions = await self._service.links.downloads(self._place, objects)
        for answer, what in zip(offered, actions, strict=True):
            answer["actions"] = what
        return answers

    async def uploads(self, wanted: list[Wanted]) -> list[dict[str, object]]:
        held = self._held(wanted)
        held |= await self._fed([one for one in wanted if one.name not in held])
        limit = self._service.options.object_size
        refused = self._service.store.admission.refused([one.name for one in wanted if one.name is not None])
        answers = []
        for number, one in enumerate(wanted):
            if number % BREATH == 0:
                await trio.lowlevel.checkpoint()
            oid, size, name, error = one
            state, present = (None, size) if name is None else held.get(name, (None, size))
            answer: dict[str, object] = {"oid": oid, "size": size, "authenticated": True}
            if name is None:
                answer = _refused(oid, size, *error)
            elif limit is not None and size > limit:
                answer = _refused(oid, size, 422, f"an object may have {limit} bytes here")
            elif name in refused:
                answer = _refused(oid, size, refused[name].status, str(refused[name]))
            elif present != size:
                answer = _refused(oid, size, 422, f"the object has {present} bytes")
            elif state != "whole":
                answer["actions"] = await self._service.links.upload(self._place, name, size)
            answers.append(answer)
        return answers

    def _held(self, wanted: list[Wanted]) -> Held:
        """Those that the repository refers to."""
        names = [one.name for one in wanted if one.name is not None]
        keys = digests(names)

        def look(tx: Tx) -> tuple[list[bytes | None], list[bytes | None]]:
            found = references.find_repository(tx, self._place.repository)
            if found is None:
                return [None] * len(keys), [None] * len(keys)
            head = found.id.to_bytes(4, "big")
            return tx.values("references", [head + key for key in keys]), tx.values("objects", keys)

        store = self._service.store
        found = [
            (name, row)
            for name, reference, row in zip(names, *store.index.view(look), strict=True)
            if reference is not None
        ]
        held = {name: catalog.state_and_size(row) for name, row in found if row is not None}
        for name in [name for name, row in found if row is None]:  # npz files, and what S3 alone knows of
            other = store.lookup(name)
            if other is not None:
                held[name] = other.state, other.size
        return {name: one for name, one in held.items() if one[0] != "deleting"}

    async def _fed(self, wanted: list[Wanted]) -> Held:
        """Those that a root has which feeds the repository: it refers to them when this returns."""
        store = self._service.store
        found = store.index.view(lambda tx: references.find_repository(tx, self._place.repository))
        if found is None or not wanted:
            return {}
        roots = store.index.view(lambda tx: feeds.roots(tx, found.id))
        there: Held = {}
        for one in wanted:
            if one.name is not None and any(store.references.has(root, one.name) for root in roots):
                row = store.lookup(one.name)
                if row is not None and row.state == "whole" and row.size == one.size:
                    there[one.name] = row.state, row.size
        if there:
            taken = await store.index.update(lambda tx: feeds.take(tx, found.id, list(there)))
            there = {oid: there[oid] for oid in taken}
            sizes = [size for _, size in there.values()]
            self._service.metrics.fed(sum(sizes))
            activity.pushed(store.index, self._place.repository, self._place.identity.name, sizes)
        return there


def _refused(oid: str, size: int, code: int, message: str) -> dict[str, object]:
    return {"oid": oid, "size": size, "error": {"code": code, "message": message}}


def _wanted(body: dict[str, Any], limit: int) -> list[Wanted]:
    objects = body.get("objects")
    if not isinstance(objects, list):
        raise BadRequest("objects must be an array")
    if len(objects) > limit:
        raise BodyTooLarge(f"a batch may have {limit} objects")
    ref = body.get("ref")
    if ref is not None and not (isinstance(ref, dict) and isinstance(ref.get("name"), str)):
        raise BadRequest("ref must be an object with a name")
    oids, sizes = _column(objects, "oid", str), _column(objects, "size", int)
    try:
        if not sizes or 0 <= min(sizes) <= max(sizes) <= _LARGEST:
            return list(map(Wanted, oids, sizes, Oid.all_of(oids)))
    except InvalidOid:
        pass  # one of them; `_one` says which
    return list(map(_one, oids, sizes))


def _column(objects: list[Any], name: str, kind: type[T]) -> list[T]:
    """What each of them has under this name. BadRequest where one has nothing of this kind (bool is no int)."""
    try:
        column = [one[name] for one in objects]
    except (TypeError, KeyError, IndexError):
        column = [None]
    if not set(map(type, column)) <= {kind}:
        raise BadRequest(f"each of objects must have an oid, a text, and a size, a whole number: {name}")
    return column


def _one(oid: str, size: int) -> Wanted:
    try:
        name = Oid(oid)
    except InvalidOid as error:
        return Wanted(oid, max(0, min(size, _LARGEST)), error=(422, str(error)))
    if not 0 <= size <= _LARGEST:
        return Wanted(oid, 0, error=(422, f"the size is not possible: {str(size)[:_SHOWN_DIGITS]}"))
    return Wanted(oid, size, name)


def _transfer(body: dict[str, Any], operation: str) -> str:
    """The first of the client's ways that we have: basic wherever it is offered, or nothing is."""
    offered = body.get("transfers", ["basic"])
    if not isinstance(offered, list) or not all(isinstance(one, str) for one in offered):
        raise BadRequest("transfers must be an array of texts")
    if operation == "upload" and "tus" in offered:
        return "tus"
    return "basic"
