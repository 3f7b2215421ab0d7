"""Configuration keys: what each key of the configuration file may be, and what is said of one that is not.

`config_file` shows the whole file, with every key and its default.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfsfs.config import (
    LARGEST_ID,
    SMALLEST_PART,
    Addressing,
    Compression,
    Deletion,
    Direct,
    Durability,
    Layout,
    LocksPlace,
    LogLevel,
    Mode,
    ObjectNames,
    ServerSideEncryption,
    Sharing,
    choices,
    parse_encryption_key,
    parse_endpoint,
    parse_id,
    parse_listen,
    parse_rate,
    parse_s3_url,
    parse_umask,
)
from lfsfs.config_access import JWT_ALGORITHMS, ForgeKind
from lfsfs.config_policy import ScanTime, Unreachable
from lfsfs.errors import InvalidConfig
from lfsfs.units import AGES, SIZES, parse_age, parse_size


@dataclass(frozen=True)
class Key:
    """What a key of the file may be: in words, and as a check that raises ValueError."""

    allowed: str
    check: Callable[[Any], object]


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError
    return Path(value)


def _text(read: Callable[[str], object]) -> Callable[[Any], object]:
    def check(value: Any) -> object:
        if not isinstance(value, str):
            raise ValueError
        return read(value)

    return check


def _id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError
    return parse_id(str(value))


def _plain(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError
    return text


def _listeners(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ValueError
    return tuple(parse_listen(one) for one in value)


def _algorithms(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(one in JWT_ALGORITHMS for one in value):
        raise ValueError
    return tuple(value)


def _number(most: int) -> Key:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError
        return value

    return Key(f"a number from 1 to {most}", check)


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ValueError
    return tuple(_plain(one) for one in value)


def _sizes(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ValueError
    return {_plain(name): parse_size(size) for name, size in value.items()}


def _part_size(text: str) -> int:
    if not SMALLEST_PART <= parse_size(text) <= _LARGEST_PART:
        raise ValueError
    return parse_size(text)


def _seconds(text: str) -> float:
    if parse_age(text) <= 0:
        raise ValueError
    return parse_age(text)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _one_of(literal: Any) -> Key:
    allowed = choices(literal)

    def check(value: Any) -> object:
        if value not in allowed:
            raise ValueError
        return value

    return Key(" or ".join(f'"{choice}"' for choice in allowed), check)


_LARGEST_PART = 5 << 30
MOST_CONNECTIONS = 1000
_MOST_ROWS = 10**12
_PATH = Key("an absolute path, in quotes", _path)
_ID = Key(f"a number from 0 to {LARGEST_ID}", _id)
_TRUTH = Key("true or false", _truth)
_MASTER_KEY = Key(
    'in quotes, "file:/PATH", "env:VARIABLE", "command:NAME:PROGRAM" or "kms:KEY"',
    _text(parse_encryption_key),
)
_WORD = Key("a text, in quotes", _text(_plain))
_SECONDS = Key('a time above 0, in quotes, such as "5s"', _text(_seconds))
SIZE = Key(f"in quotes, {SIZES}", _text(parse_size))
_WHO = Key('a list of users and @groups, such as ["ann", "@artists"]', _words)
KEYS: dict[str, dict[str, Key]] = {
    "store": {
        "path": _PATH,
        "durability": _one_of(Durability),
        "temp": _PATH,
        "encryption_key": _MASTER_KEY,
    },
    "mount": {
        "mountpoint": _PATH,
        "uid": _ID,
        "gid": _ID,
        "umask": Key('octal digits in quotes, such as "022"', _text(parse_umask)),
        "allow_other": _TRUTH,
        "xattr": _TRUTH,
        "read_only": _TRUTH,
        "noexec": _TRUTH,
        "sharing": _one_of(Sharing),
        "delete": _one_of(Deletion),
        "incomplete_age": Key(f"in quotes, {AGES}", _text(parse_age)),
    },
    "s3": {
        "url": Key('in quotes, "s3://BUCKET/PREFIX"', _text(parse_s3_url)),
        "endpoint": Key('in quotes, "http://HOST:PORT" or "https://HOST:PORT"', _text(parse_endpoint)),
        "region": _WORD,
        "access_key_id": _WORD,
        "secret_access_key": _WORD,
        "session_token": _WORD,
        "addressing": _one_of(Addressing),
        "ca_bundle": _PATH,
        "storage_class": _WORD,
        "sse": _one_of(ServerSideEncryption),
        "kms_key": _WORD,
        "customer_key": _PATH,
        "layout": _one_of(Layout),
        "encryption_key": _MASTER_KEY,
        "object_names": _one_of(ObjectNames),
        "compression": _one_of(Compression),
        "connect_timeout": _SECONDS,
        "read_timeout": _SECONDS,
        "connections": _number(MOST_CONNECTIONS),
        "part_size": Key(f"in quotes, {SIZES}, from 5MiB to 5GiB", _text(_part_size)),
    },
    "cache": {
        "mode": _one_of(Mode),
        "size": Key(f"in quotes, {SIZES}", _text(parse_size)),
        "pending_size": Key(f"in quotes, {SIZES}", _text(parse_size)),
        "deadline": _SECONDS,
        "parallel": _number(MOST_CONNECTIONS),
    },
    "server": {
        "listen": Key('a list such as ["127.0.0.1:8080", "unix:/run/lfsfs.sock"]', _listeners),
        "url": Key('in quotes, "http://HOST:PORT" or "https://HOST:PORT"', _text(parse_endpoint)),
        "tls_certificate": _PATH,
        "tls_key": _PATH,
        "object_size": Key(f"in quotes, {SIZES}", _text(parse_size)),
        "request_size": Key(f"in quotes, {SIZES}", _text(parse_size)),
        "batch_objects": _number(100_000),
        "connections": _number(1_000_000),
        "transfers": _number(10_000),
        "queue_timeout": _SECONDS,
        "head_timeout": _SECONDS,
        "idle_timeout": _SECONDS,
        "shutdown_timeout": _SECONDS,
        "action_lifetime": _SECONDS,
        "direct": _one_of(Direct),
        "locks": _one_of(LocksPlace),
        "owner": _WORD,
        "access_log": _TRUTH,
    },
    "access": {
        "users": _PATH,
        "htpasswd": _PATH,
        "attempts": _number(1_000),
        "attempts_window": _SECONDS,
        "ssh_root": _PATH,
        "ssh_lifetime": _SECONDS,
    },
    "jwt": {
        "keys": _PATH,
        "issuer": _WORD,
        "audience": _WORD,
        "algorithms": Key(f"a list of {', '.join(JWT_ALGORITHMS)}", _algorithms),
        "user": _WORD,
        "roles": _WORD,
        "leeway": _SECONDS,
    },
    "forge": {
        "url": Key('in quotes, "http://HOST:PORT" or "https://HOST:PORT"', _text(parse_endpoint)),
        "kind": _one_of(ForgeKind),
        "timeout": _SECONDS,
        "cache": _SECONDS,
        "ca_bundle": _PATH,
    },
    "scrub": {
        "rate": Key(f'"off", or in quotes, {SIZES}', _text(parse_rate)),
        "interval": _SECONDS,
        "idle": _SECONDS,
    },
    "limits": {
        "object_size": SIZE,
        "objects": _number(_MOST_ROWS),
        "names": _number(_MOST_ROWS),
        "path_length": _number(1 << 20),
        "open_uploads": _number(1_000_000),
        "free_space": SIZE,
    },
    "quota": {
        "store": SIZE,
        "repository": SIZE,
        "repositories": Key('a table such as { films = "1TiB", "/team/web" = "10GiB" }', _sizes),
    },
    "scan": {
        "clamd": Key('in quotes, "HOST:PORT" or "unix:/PATH"', _text(parse_listen)),
        "command": Key('a list such as ["/usr/local/bin/scan", "{path}"]', _words),
        "when": _one_of(ScanTime),
        "unreachable": _one_of(Unreachable),
        "timeout": _SECONDS,
        "size": SIZE,
        "verdict_age": _SECONDS,
        "parallel": _number(1_000),
    },
    "permissions": {"admins": _WHO, "writers": _WHO, "readers": _WHO},
    "log": {"level": _one_of(LogLevel), "size": Key(f"in quotes, {SIZES}", _text(parse_size))},
}


def table_of(file: Path, section: str, table: object) -> dict[str, object]:
    """The section's keys as they stand in the file. InvalidConfig where there is no such section."""
    if section not in KEYS:
        what = (
            f"section [{section}]" if isinstance(table, dict) else f"key {section!r} outside of any section"
        )
        raise InvalidConfig(f"{file}: unknown {what}{_nearest(section)}")
    if not isinstance(table, dict):
        raise InvalidConfig(f"{file}: {section} is a section: write [{section}]")
    return table


def checked(file: Path, section: str, key: str, value: object) -> object:
    """The value of a key as the options have it. InvalidConfig where there is no such key, or it cannot be that."""
    known = KEYS[section].get(key)
    if known is None:
        raise InvalidConfig(f"{file}: unknown key {key!r} in [{section}]{_nearest(key, section)}")
    try:
        return known.check(value)
    except ValueError as error:
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        raise InvalidConfig(
            f"{file}: {key} in [{section}] cannot be {shown}: it must be {known.allowed}"
        ) from error


def _nearest(name: str, section: str = "") -> str:
    """The known key, of the same section rather than another, or section that looks most like `name`."""
    places = {key: f"{key!r} in [{home}]" for home, keys in KEYS.items() for key in keys}
    places |= {home: f"the section [{home}]" for home in KEYS}
    places |= {key: repr(key) for key in KEYS.get(section, ())}
    for among in (KEYS.get(section, {}), places):
        close = difflib.get_close_matches(name.lower(), among, n=1)
        if close:
            return f": did you mean {places[close[0]]}?"
    known = ", ".join(KEYS.get(section, KEYS))
    return f": there {'are' if section else 'are the sections'} {known}"
