"""The OpenAPI description of the server, at /openapi.json: what there is to ask, and every shape of an answer."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lfsfs.server.media import LFS_JSON
from lfsfs.server.service import Service

_TEXT: dict[str, Any] = {"type": "string"}
_WHOLE: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_SHAPES: dict[str, Any] = {
    "Error": {
        "type": "object",
        "properties": {"message": _TEXT, "documentation_url": _TEXT, "request_id": _TEXT},
        "required": ["message", "documentation_url", "request_id"],
        "additionalProperties": False,
    },
    "Ref": {"type": "object", "properties": {"name": _TEXT}, "required": ["name"]},
    "Wanted": {
        "type": "object",
        "properties": {"oid": {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "size": _WHOLE},
        "required": ["oid", "size"],
    },
    "Action": {
        "type": "object",
        "properties": {
            "href": _TEXT,
            "header": {"type": "object", "additionalProperties": _TEXT},
            "expires_in": {"type": "integer"},
            "expires_at": {"type": "string", "format": "date-time"},
        },
        "required": ["href"],
        "additionalProperties": False,
    },
    "Found": {
        "type": "object",
        "properties": {
            "oid": _TEXT,
            "size": _WHOLE,
            "authenticated": {"type": "boolean"},
            "actions": {
                "type": "object",
                "properties": {
                    name: {"$ref": "#/components/schemas/Action"} for name in ("download", "upload", "verify")
                },
                "additionalProperties": False,
            },
            "error": {
                "type": "object",
                "properties": {"code": {"type": "integer"}, "message": _TEXT},
                "required": ["code", "message"],
                "additionalProperties": False,
            },
        },
        "required": ["oid", "size"],
        "additionalProperties": False,
    },
    "Lock": {
        "type": "object",
        "properties": {
            "id": _TEXT,
            "path": _TEXT,
            "locked_at": {"type": "string", "format": "date-time"},
            "owner": {"type": "object", "properties": {"name": _TEXT}, "required": ["name"]},
        },
        "required": ["id", "path", "locked_at", "owner"],
        "additionalProperties": False,
    },
}


def _shape(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _locks() -> dict[str, Any]:
    return {"type": "array", "items": _shape("Lock")}


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _json(shape: dict[str, Any]) -> dict[str, Any]:
    return {LFS_JSON: {"schema": shape}}


def _answers(*errors: int, **good: Any) -> dict[str, Any]:
    """Answers by status: `s200={...}` has a JSON body, `s200=None` another one."""
    answers: dict[str, Any] = {
        status[1:]: {"description": "Done."} | ({"content": _json(shape)} if shape is not None else {})
        for status, shape in good.items()
    }
    for status in sorted({400, 401, 403, 404, 429, 503, *errors}):
        answers[str(status)] = {"description": "Refused.", "content": _json(_shape("Error"))}
    return answers


def _parameter(
    name: str, place: str, schema: dict[str, Any] = _TEXT, *, required: bool = False
) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required or place == "path", "schema": schema}


_REPOSITORY = _parameter("repository", "path", {"type": "string", "pattern": r"^[A-Za-z0-9_-]{1,20}$"})
_OID = _parameter("oid", "path", {"type": "string", "pattern": "^[0-9a-f]{64}$"})
_OFFSET = _parameter("Upload-Offset", "header", _WHOLE, required=True)
_RESUMABLE = _parameter("Tus-Resumable", "header", {"type": "string", "enum": ["1.0.0"]}, required=True)
_BYTES = {"type": "string", "format": "binary"}
_REF = {"ref": _shape("Ref")}
_BATCH_ANSWER = _object(
    "transfer", "objects", "hash_algo",
    transfer={"type": "string", "enum": ["basic", "tus"]},
    objects={"type": "array", "items": _shape("Found")},
    hash_algo={"type": "string", "enum": ["sha256"]},
)  # fmt: skip
_BATCH = _object(
    "operation", "objects",
    operation={"type": "string", "enum": ["download", "upload"]},
    objects={"type": "array", "items": _shape("Wanted")},
    transfers={"type": "array", "items": _TEXT},
    hash_algo={"type": "string", "enum": ["sha256"]},
    **_REF,
)  # fmt: skip


def _body(shape: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": _json(shape)}


_PATHS: dict[str, Any] = {
    "/objects/batch": {
        "post": {"requestBody": _body(_BATCH), "responses": _answers(406, 409, 413, 415, 422, s200=_BATCH_ANSWER)},
    },
    "/objects/{oid}": {
        "get": {
            "parameters": [_OID, _parameter("Range", "header")],
            "responses": _answers(416, 422, s200=None, s206=None, s304=None),
        },
        "put": {
            "parameters": [_OID],
            "requestBody": {"content": {"application/octet-stream": {"schema": _BYTES}}},
            "responses": _answers(408, 413, 415, 422, 507, s200=None),
        },
    },
    "/verify/{oid}": {
        "post": {
            "parameters": [_OID],
            "requestBody": _body(_shape("Wanted")),
            "responses": _answers(413, 415, 422, 507, s200={"type": "object"}),
        },
    },
    "/uploads/{oid}": {
        "head": {"parameters": [_OID, _RESUMABLE], "responses": _answers(412, 422, s200=None)},
        "patch": {
            "parameters": [_OID, _RESUMABLE, _OFFSET],
            "requestBody": {"content": {"application/offset+octet-stream": {"schema": _BYTES}}},
            "responses": _answers(408, 409, 412, 413, 415, 422, 423, 507, s204=None),
        },
        "delete": {"parameters": [_OID, _RESUMABLE], "responses": _answers(412, 422, 423, s204=None)},
    },
    "/locks": {
        "get": {
            "parameters": [_parameter(name, "query") for name in ("path", "id", "refspec", "cursor", "limit")],
            "responses": _answers(406, 422, s200=_object("locks", locks=_locks(), next_cursor=_TEXT)),
        },
        "post": {
            "requestBody": _body(_object("path", path={"type": "string", "minLength": 1}, **_REF)),
            "responses": _answers(
                406, 413, 415, 422, s201=_object("lock", lock=_shape("Lock")),
                s409=_object("lock", "message", lock=_shape("Lock"), message=_TEXT),
            ),
        },
    },
    "/locks/verify": {
        "post": {
            "requestBody": _body(_object(cursor=_TEXT, limit={"type": "integer", "minimum": 0}, **_REF)),
            "responses": _answers(
                406, 413, 415, 422, s200=_object("ours", "theirs", ours=_locks(), theirs=_locks(), next_cursor=_TEXT)
            ),
        },
    },
    "/locks/{id}/unlock": {
        "post": {
            "parameters": [_parameter("id", "path")],
            "requestBody": _body(_object(force={"type": "boolean"}, **_REF)),
            "responses": _answers(406, 413, 415, 422, s200=_object("lock", lock=_shape("Lock"))),
        },
    },
}  # fmt: skip


def description() -> dict[str, Any]:
    """The whole description."""
    paths = {
        f"/{{repository}}.git/info/lfs{path}": {"parameters": [_REPOSITORY], **methods}
        for path, methods in _PATHS.items()
    }
    plain = {"200": {"description": "It does.", "content": {"text/plain": {"schema": _TEXT}}}}
    failing = plain | {"503": {"description": "It does not.", "content": _json(_shape("Error"))}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "lfsfs: the Git LFS server", "version": "1"},
        "paths": {
            "/healthz": {"get": {"responses": plain}},
            "/readyz": {"get": {"responses": failing}},
            **paths,
        },
        "components": {"schemas": _SHAPES},
    }


async def openapi(service: Service, request: Request) -> Response:
    """GET /openapi.json."""
    return JSONResponse(description())
