"""The shapes of the API's JSON as the Git LFS documents have them (docs/api/schemas of git-lfs), in JSON Schema."""

from typing import Any

import jsonschema

_TEXT = {"type": "string"}
_ACTION = {
    "type": "object",
    "properties": {
        "href": _TEXT,
        "header": {"type": "object", "additionalProperties": _TEXT},
        "expires_in": {"type": "number", "minimum": -2147483647, "maximum": 2147483647},
        "expires_at": {"type": "string", "format": "date-time"},
    },
    "required": ["href"],
    "additionalProperties": False,
}
_SAID = {"message": _TEXT, "request_id": _TEXT, "documentation_url": _TEXT}
_LOCK = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "path": _TEXT,
        "locked_at": {"type": "string", "format": "date-time"},
        "owner": {"type": "object", "properties": {"name": _TEXT}, "required": ["name"]},
    },
    "required": ["id", "path", "locked_at"],
    "additionalProperties": False,
}
_LOCKS = {"type": "array", "items": _LOCK}

BATCH = {
    "type": "object",
    "properties": {
        "transfer": _TEXT,
        "hash_algo": _TEXT,
        "objects": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "oid": _TEXT,
                    "size": {"type": "number", "minimum": 0},
                    "authenticated": {"type": "boolean"},
                    "actions": {
                        "type": "object",
                        "properties": {"download": _ACTION, "upload": _ACTION, "verify": _ACTION},
                        "additionalProperties": False,
                    },
                    "error": {
                        "type": "object",
                        "properties": {"code": {"type": "number"}, "message": _TEXT},
                        "required": ["code", "message"],
                        "additionalProperties": False,
                    },
                },
                "required": ["oid", "size"],
                "additionalProperties": False,
            },
        },
        **_SAID,
    },
    "required": ["objects"],
    "additionalProperties": False,
}
LOCK = {
    "type": "object",
    "properties": {"lock": _LOCK, **_SAID},
    "required": ["lock"],
    "additionalProperties": False,
}
LOCK_LIST = {
    "type": "object",
    "properties": {"locks": _LOCKS, "next_cursor": _TEXT, **_SAID},
    "required": ["locks"],
    "additionalProperties": False,
}
LOCK_VERIFY = {
    "type": "object",
    "properties": {"ours": _LOCKS, "theirs": _LOCKS, "next_cursor": _TEXT, **_SAID},
    "required": ["ours", "theirs"],
    "additionalProperties": False,
}
ERROR = {"type": "object", "properties": _SAID, "required": list(_SAID), "additionalProperties": False}


def check(value: object, shape: dict[str, Any]) -> None:
    """Fails where the value has another shape."""
    jsonschema.validate(value, shape, format_checker=jsonschema.FormatChecker())
