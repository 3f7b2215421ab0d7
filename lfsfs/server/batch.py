"""objects/batch: which of some objects are there for a repository, and where each comes from or goes."""

from dataclasses import dataclass
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response

from lfsfs.errors import InvalidOid, LfsfsError
from lfsfs.oid import Oid
from lfsfs.server.links import Link, Place
from lfsfs.server.media import BadRequest, BodyTooLarge, check_accept, json_response, read_json
from lfsfs.server.service import Service, admit, url_of
from lfsfs.store import activity, catalog, feeds, references
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx

OPERATIONS = ("download", "upload")
TRANSFERS = ("basic", "tus")
"""What this server speaks. tus is for uploads, and only where the client offers nothing else but basic."""
STORE_HEADER = "X-Lfsfs-Store"
"""In the answer to a batch: by which `lfsfs attach` knows whether the server is that of the mount."""
BREATH = 256
"""Objects that are answered without a pause."""
_LARGEST = 2**63 - 1
_SHOWN_DIGITS = 25
_NO_OBJECT = (422, "that is no object")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object of a request. `name`: its oid, where it can be one; else `error` says why it cannot."""

    oid: str
    size: int
    name: Oid | None = None
    error: tuple[int, str] | None = None


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


async def _breathe(number: int) -> None:
    """Lets others have their turn, from time to time."""
    if number % BREATH == 0:
        await trio.lowlevel.checkpoint()


class HashUnknown(LfsfsError):
    """The client names objects by another hash."""

    status = 409


class _Answers:
    """What one batch says of each object, in the order asked."""

    def __init__(self, service: Service, place: Place) -> None:
        self._service = service
        self._place = place

    async def downloads(self, wanted: list[Wanted]) -> list[dict[str, object]]:
        held = self._held(wanted)
        answers = []
        for number, one in enumerate(wanted):
            await _breathe(number)
            row = held.get(one.name) if one.name is not None else None
            if one.name is None:
                answers.append(_refused(one, *(one.error or _NO_OBJECT)))
            elif row is None:
                answers.append(_refused(one, 404, "the repository has no such object"))
            elif row.size != one.size:
                answers.append(_refused(one, 422, f"the object has {row.size} bytes"))
            elif row.state == "corrupt" and self._service.store.remote is None:
                answers.append(_refused(one, 410, "the object was found corrupt: it must be uploaded again"))
            else:
                answers.append(_offered(one, await self._service.links.download(self._place, row)))
        return answers

    async def uploads(self, wanted: list[Wanted]) -> list[dict[str, object]]:
        held = self._held(wanted)
        held |= await self._fed([one for one in wanted if one.name not in held])
        limit = self._service.options.object_size
        answers = []
        for number, one in enumerate(wanted):
            await _breathe(number)
            row = held.get(one.name) if one.name is not None else None
            if one.name is None:
                answers.append(_refused(one, *(one.error or _NO_OBJECT)))
            elif limit is not None and one.size > limit:
                answers.append(_refused(one, 422, f"an object may have {limit} bytes here"))
            elif row is not None and row.size != one.size:
                answers.append(_refused(one, 422, f"the object has {row.size} bytes"))
            elif row is not None and row.state == "whole":
                answers.append({"oid": one.oid, "size": one.size, "authenticated": True})
            else:
                links = await self._service.links.upload(self._place, one.name, one.size)
                answers.append(_offered(one, links))
        return answers

    def _held(self, wanted: list[Wanted]) -> dict[Oid, ObjectStat]:
        """Those that the repository refers to, by oid."""
        keys = {one.name.to_bytes(): one.name for one in wanted if one.name is not None}

        def look(tx: Tx) -> dict[Oid, ObjectStat | None]:
            found = references.find_repository(tx, self._place.repository)
            if found is None:
                return {}
            head = found.id.to_bytes(4, "big")
            referred = [key[4:] for key in tx.get_many("references", [head + key for key in keys])]
            rows = tx.get_many("objects", referred)
            return {
                keys[key]: catalog.decode_row_of(keys[key], rows[key]) if key in rows else None
                for key in referred
            }

        store = self._service.store
        found = {oid: row or store.lookup(oid) for oid, row in store.index.view(look).items()}
        return {oid: row for oid, row in found.items() if row is not None and row.state != "deleting"}

    async def _fed(self, wanted: list[Wanted]) -> dict[Oid, ObjectStat]:
        """Those that a root has which feeds the repository: it refers to them when this returns."""
        store = self._service.store
        found = store.index.view(lambda tx: references.find_repository(tx, self._place.repository))
        if found is None or not wanted:
            return {}
        roots = store.index.view(lambda tx: feeds.roots(tx, found.id))
        there: dict[Oid, ObjectStat] = {}
        for one in wanted:
            if one.name is not None and any(store.references.has(root, one.name) for root in roots):
                row = store.lookup(one.name)
                if row is not None and row.state == "whole" and row.size == one.size:
                    there[one.name] = row
        if there:
            taken = await store.index.update(lambda tx: feeds.take(tx, found.id, list(there)))
            there = {oid: there[oid] for oid in taken}
            sizes = [row.size for row in there.values()]
            self._service.metrics.fed(sum(sizes))
            activity.pushed(store.index, self._place.repository, self._place.identity.name, sizes)
        return there


def _offered(one: Wanted, links: dict[str, Link]) -> dict[str, object]:
    actions = {name: link.described() for name, link in links.items()}
    return {"oid": one.oid, "size": one.size, "authenticated": True, "actions": actions}


def _refused(one: Wanted, code: int, message: str) -> dict[str, object]:
    return {"oid": one.oid, "size": one.size, "error": {"code": code, "message": message}}


def _wanted(body: dict[str, Any], limit: int) -> list[Wanted]:
    objects = body.get("objects")
    if not isinstance(objects, list):
        raise BadRequest("objects must be an array")
    if len(objects) > limit:
        raise BodyTooLarge(f"a batch may have {limit} objects")
    ref = body.get("ref")
    if ref is not None and not (isinstance(ref, dict) and isinstance(ref.get("name"), str)):
        raise BadRequest("ref must be an object with a name")
    return [_one(given) for given in objects]


def _one(given: object) -> Wanted:
    if not isinstance(given, dict) or not isinstance(given.get("oid"), str):
        raise BadRequest("each of objects must have an oid, a text")
    oid, size = given["oid"], given.get("size")
    if isinstance(size, bool) or not isinstance(size, int):
        raise BadRequest("each of objects must have a size, a whole number")
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
