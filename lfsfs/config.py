"""Configuration: a TOML file and the command line, as frozen dataclasses.

The whole file, every key with its default:

    [store]
    path = "/var/lib/lfsfs"         # or the STORE argument
    durability = "sync"             # or "fast"
    temp = "/fast/disk/tmp"         # where files are staged; by default inside the store

    [mount]
    mountpoint = "/mnt/lfs"         # or the MNT argument
    uid = 1000                      # by default those of the process
    gid = 1000
    umask = "022"
    allow_other = false
    xattr = false
    read_only = false
    sharing = "open"                # or "isolated"
    delete = "refuse"               # or "allow"
    incomplete_age = "7d"

    [s3]
    url = "s3://bucket/prefix"      # no default: without it there is no S3
    endpoint = "https://s3.example.org"  # by default Amazon's
    region = "us-east-1"
    access_key_id = "..."           # this and the next two: by default as boto3 finds them
    secret_access_key = "..."
    session_token = "..."
    addressing = "auto"             # or "path" or "virtual"
    ca_bundle = "/etc/ssl/my-ca.pem"
    storage_class = "STANDARD_IA"   # by default the bucket's own
    sse = "none"                    # or "s3", "kms" or "c"
    kms_key = "..."                 # with sse = "kms"; by default the account's own key
    customer_key = "/etc/lfsfs/key" # with sse = "c": a file of 32 bytes
    layout = "objects/aa/bb/oid"    # or "aa/bb/rest" or "flat"
    connect_timeout = "5s"
    read_timeout = "20s"
    connections = 16
    part_size = "16MiB"

    [cache]                         # with [s3] only
    mode = "write-back"             # or "write-through" or "s3-only"
    size = "10GiB"                  # local disk for what S3 has
    pending_size = "50GiB"          # local disk for what waits for its upload; by default the free disk
    deadline = "30s"                # what an operation waits for S3, and a writer for room
    parallel = 8                    # uploads at once

    [log]
    level = "info"                  # "debug", "info", "warning" or "error"

An unknown section or key, and a value of the wrong kind, is InvalidConfig: it names the file, the key and
what would have been right. Nothing in a file is ever ignored.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from lfsfs.errors import InvalidConfig
from lfsfs.units import AGES, DAY, SIZES, parse_age, parse_size

SYSTEM_FILE = Path("/etc/lfsfs/lfsfs.toml")
STORE_FILE = "lfsfs.toml"
INCOMPLETE_AGE = 7 * DAY
"""Seconds after which an abandoned download in incomplete/ is removed."""

Durability = Literal["sync", "fast"]
Sharing = Literal["open", "isolated"]
Deletion = Literal["refuse", "allow"]
LogLevel = Literal["debug", "info", "warning", "error"]
Addressing = Literal["auto", "path", "virtual"]
ServerSideEncryption = Literal["none", "s3", "kms", "c"]
Layout = Literal["objects/aa/bb/oid", "aa/bb/rest", "flat"]

SMALLEST_PART = 5 << 20
"""Bytes: no S3 takes a part below that, except as the last one."""
Mode = Literal["write-back", "write-through", "s3-only"]


@dataclass(frozen=True)
class MountOptions:
    """How the tree under the mountpoint looks and what it allows."""

    uid: int | None = None
    """Owner of everything in the mount; None: the daemon's own."""
    gid: int | None = None
    umask: int = 0o022
    """What the mount's own directories go without. What is made in them has the mode that its maker gave it."""
    allow_other: bool = False
    """Other users may use the mount (needs user_allow_other in /etc/fuse.conf unless root mounts)."""
    xattr: bool = False
    """Answer extended attributes. Costs one more round trip for each write(2)."""
    read_only: bool = False
    sharing: Sharing = "open"
    """open: looking up an oid that the store has succeeds in any repository root, and adds the reference."""
    delete: Deletion = "refuse"
    """What an unlink of an object in the shared root does."""
    incomplete_age: float = INCOMPLETE_AGE
    """Seconds."""


@dataclass(frozen=True)
class CacheOptions:
    """How the local disk stands in front of a remote tier."""

    mode: Mode = "write-back"
    """write-back: a commit returns when it is durable here; write-through, s3-only: when it is in the remote tier."""
    size: int = 10 << 30
    """Bytes of local disk for what the remote tier has."""
    pending_size: int | None = None
    """Bytes of local disk for what still waits to be uploaded; None: the free disk less a reserve."""
    deadline: float = 30.0
    """Seconds that an operation waits for the remote tier, and a writer for room, before it fails."""
    parallel: int = 8
    """Uploads at once."""


@dataclass(frozen=True)
class S3Url:
    """A place in a bucket."""

    bucket: str
    prefix: str = ""
    """Without a slash at either end; empty: the whole bucket."""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"


@dataclass(frozen=True)
class S3Options:
    """Where in S3 the objects are, and how to talk to it. InvalidConfig where the parts do not fit together."""

    url: S3Url
    endpoint: str | None = None
    """None: Amazon's, or what AWS_ENDPOINT_URL says."""
    region: str | None = None
    access_key_id: str | None = None
    """This and the next two, None: as boto3 finds them (environment, ~/.aws, the machine's role)."""
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    addressing: Addressing = "auto"
    """auto: the bucket in the path for an endpoint of one's own, in the host name for Amazon's."""
    ca_bundle: Path | None = None
    storage_class: str | None = None
    sse: ServerSideEncryption = "none"
    kms_key: str | None = None
    customer_key: Path | None = None
    """A file with the 32 bytes of the key of sse "c"."""
    layout: Layout = "objects/aa/bb/oid"
    """What follows the prefix in the key of an object."""
    connect_timeout: float = 5.0
    """Seconds."""
    read_timeout: float = 20.0
    """Seconds without a byte from the server."""
    connections: int = 16
    """At once, for reading; as many again for writing."""
    part_size: int = 16 << 20
    """Bytes of a part of a multipart upload; more where the object would have more than 10,000 of them."""

    def __post_init__(self) -> None:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise InvalidConfig("access_key_id and secret_access_key in [s3] go together")
        if self.session_token is not None and self.access_key_id is None:
            raise InvalidConfig("session_token in [s3] needs access_key_id and secret_access_key")
        if self.kms_key is not None and self.sse != "kms":
            raise InvalidConfig('kms_key in [s3] needs sse = "kms"')
        if (self.customer_key is not None) != (self.sse == "c"):
            raise InvalidConfig('sse = "c" and customer_key in [s3] go together')
        if self.part_size < SMALLEST_PART:
            raise InvalidConfig(f"part_size in [s3] must be {SMALLEST_PART} bytes or more")


@dataclass(frozen=True)
class Config:
    """What one daemon needs to know."""

    store: Path
    """Absolute."""
    mountpoint: Path
    """Absolute."""
    durability: Durability = "sync"
    mount: MountOptions = field(default_factory=MountOptions)
    s3: S3Options | None = None
    cache: CacheOptions = field(default_factory=CacheOptions)
    log_level: LogLevel = "info"
    temp: Path | None = None
    """Where files are staged; None: inside the store."""
    foreground: bool = False


Settings = Mapping[str, object]
"""Values by `section.key`, as checked by this module; what is not in it has its default."""


def choices(literal: Any) -> tuple[str, ...]:
    """The values of Durability, Sharing, Deletion or LogLevel."""
    return get_args(literal)


def parse_umask(text: str) -> int:
    """InvalidConfig unless it is three octal digits or fewer, or four with a leading 0."""
    if not (0 < len(text) <= 4 and not text.strip("01234567")) or int(text, 8) > 0o777:
        raise InvalidConfig(f"not a umask: {text!r}: it is octal digits, such as 022")
    return int(text, 8)


def parse_id(text: str) -> int:
    """InvalidConfig unless it is the number of a user or a group."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) > _LARGEST_ID:
        raise InvalidConfig(f"not a user or group number: {text!r}: it is 0 to {_LARGEST_ID}")
    return int(text)


def parse_s3_url(text: str) -> S3Url:
    """InvalidConfig unless it is s3://BUCKET or s3://BUCKET/PREFIX."""
    scheme, separator, rest = text.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if scheme != "s3" or not separator or _BUCKET.fullmatch(bucket) is None:
        raise InvalidConfig(f"not an S3 address: {text!r}: it is s3://BUCKET/PREFIX")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise InvalidConfig(f"not an S3 address: {text!r}: an empty part, . or .. in the prefix")
    if len(prefix.encode()) > _LONGEST_PREFIX or not prefix.isprintable():
        raise InvalidConfig(f"not an S3 address: {text!r}: the prefix is too long, or is not printable")
    return S3Url(bucket, prefix)


def parse_endpoint(text: str) -> str:
    """InvalidConfig unless it is http://HOST[:PORT] or https://HOST[:PORT]."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidConfig(f"not an endpoint: {text!r}: it is http://HOST:PORT or https://HOST:PORT")
    return text.rstrip("/")


def read_file(file: Path) -> Settings:
    """The settings of a configuration file. InvalidConfig if it cannot be read, or is not all right."""
    try:
        tables = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise InvalidConfig(f"{file}: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise InvalidConfig(f"{file}: {error}") from error
    settings: dict[str, object] = {}
    for section, table in tables.items():
        for key, value in _table(file, section, table).items():
            settings[f"{section}.{key}"] = _value(file, section, key, value)
    return settings


def remote_of(settings: Settings) -> "tuple[S3Options, CacheOptions] | None":
    """The remote tier that the settings name, if they name one."""
    s3 = _s3(settings)
    if s3 is None:
        if any(key.startswith("cache.") for key in settings):
            raise InvalidConfig("there are cache options, but no S3 address: give --s3 s3://BUCKET/PREFIX")
        return None
    return s3, CacheOptions(**_named(settings, "cache", (field.name for field in fields(CacheOptions))))


def render_remote(s3: S3Options, cache: CacheOptions) -> str:
    """The sections [s3] and [cache] of a configuration file that say the same; what is a default is left out."""
    lines = []
    for section, options in (("s3", s3), ("cache", cache)):
        lines.append(f"[{section}]")
        for one in fields(options):
            value = getattr(options, one.name)
            if one.name == "url" or value != one.default:
                lines.append(f"{one.name} = {_rendered(value)}")
    return "\n".join(lines) + "\n"


def _rendered(value: object) -> str:
    if isinstance(value, int):
        return f'"{value}"' if value > _MOST_CONNECTIONS else str(value)  # sizes are texts in a file
    if isinstance(value, float):
        return f'"{value:f}s"'
    return json.dumps(str(value))


def default_file(store: Path | None) -> Path | None:
    """STORE/lfsfs.toml if it is there, else /etc/lfsfs/lfsfs.toml if that is, else none."""
    candidates = [store / STORE_FILE] if store is not None else []
    return next((file for file in [*candidates, SYSTEM_FILE] if file.is_file()), None)


def configure(file: Path | None, given: Settings, *, foreground: bool = False) -> Config:
    """The configuration of one daemon: what was given on the command line, or the file's, or the default.

    `file` None: the default file, if there is one. InvalidConfig where store or mountpoint are nowhere named.
    """
    store = given.get("store.path")
    if file is None:
        file = default_file(store if isinstance(store, Path) else None)
    settings = {**(read_file(file) if file is not None else {}), **given}
    remote = remote_of(settings)
    return Config(
        store=_required(settings, "store.path", "STORE", file),
        mountpoint=_required(settings, "mount.mountpoint", "MNT", file),
        mount=MountOptions(**_named(settings, "mount", (field.name for field in fields(MountOptions)))),
        s3=remote[0] if remote else None,
        cache=remote[1] if remote else CacheOptions(),
        **_named(settings, "store", ("durability", "temp")),
        **{f"log_{name}": value for name, value in _named(settings, "log", ("level",)).items()},
        foreground=foreground,
    )


def _s3(settings: Settings) -> S3Options | None:
    named = _named(settings, "s3", (field.name for field in fields(S3Options)))
    if named and "url" not in named:
        raise InvalidConfig(
            "there are S3 options, but no address: give --s3 s3://BUCKET/PREFIX, or url in [s3]"
        )
    return S3Options(**named) if named else None


def _required(settings: Settings, key: str, argument: str, file: Path | None) -> Path:
    found = settings.get(key)
    if isinstance(found, Path):
        return found
    section, _, name = key.partition(".")
    where = (
        f"and {file} has no {name} in [{section}]"
        if file is not None
        else "and there is no configuration file"
    )
    raise InvalidConfig(f"no {argument} was given, {where}")


def _named(settings: Settings, section: str, names: Iterable[str]) -> dict[str, Any]:
    """Those of the section's settings that are set."""
    return {name: settings[f"{section}.{name}"] for name in names if f"{section}.{name}" in settings}


@dataclass(frozen=True)
class _Key:
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


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_CONNECTIONS:
        raise ValueError
    return value


def _plain(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError
    return text


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


def _one_of(literal: Any) -> _Key:
    allowed = choices(literal)

    def check(value: Any) -> object:
        if value not in allowed:
            raise ValueError
        return value

    return _Key(" or ".join(f'"{choice}"' for choice in allowed), check)


_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_LONGEST_PREFIX = 800  # of the 1,024 bytes of a key: the rest is ours
_LARGEST_PART = 5 << 30
_MOST_CONNECTIONS = 1000
_LARGEST_ID = 2**32 - 2  # the one above means "leave it as it is" to chown(2)
_PATH = _Key("an absolute path, in quotes", _path)
_ID = _Key(f"a number from 0 to {_LARGEST_ID}", _id)
_TRUTH = _Key("true or false", _truth)
_WORD = _Key("a text, in quotes", _text(_plain))
_SECONDS = _Key('a time above 0, in quotes, such as "5s"', _text(_seconds))
_KEYS: dict[str, dict[str, _Key]] = {
    "store": {"path": _PATH, "durability": _one_of(Durability), "temp": _PATH},
    "mount": {
        "mountpoint": _PATH,
        "uid": _ID,
        "gid": _ID,
        "umask": _Key('octal digits in quotes, such as "022"', _text(parse_umask)),
        "allow_other": _TRUTH,
        "xattr": _TRUTH,
        "read_only": _TRUTH,
        "sharing": _one_of(Sharing),
        "delete": _one_of(Deletion),
        "incomplete_age": _Key(f"in quotes, {AGES}", _text(parse_age)),
    },
    "s3": {
        "url": _Key('in quotes, "s3://BUCKET/PREFIX"', _text(parse_s3_url)),
        "endpoint": _Key('in quotes, "http://HOST:PORT" or "https://HOST:PORT"', _text(parse_endpoint)),
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
        "connect_timeout": _SECONDS,
        "read_timeout": _SECONDS,
        "connections": _Key(f"a number from 1 to {_MOST_CONNECTIONS}", _count),
        "part_size": _Key(f"in quotes, {SIZES}, from 5MiB to 5GiB", _text(_part_size)),
    },
    "cache": {
        "mode": _one_of(Mode),
        "size": _Key(f"in quotes, {SIZES}", _text(parse_size)),
        "pending_size": _Key(f"in quotes, {SIZES}", _text(parse_size)),
        "deadline": _SECONDS,
        "parallel": _Key(f"a number from 1 to {_MOST_CONNECTIONS}", _count),
    },
    "log": {"level": _one_of(LogLevel)},
}


def _table(file: Path, section: str, table: object) -> dict[str, object]:
    if section not in _KEYS:
        what = (
            f"section [{section}]" if isinstance(table, dict) else f"key {section!r} outside of any section"
        )
        raise InvalidConfig(f"{file}: unknown {what}{_nearest(section)}")
    if not isinstance(table, dict):
        raise InvalidConfig(f"{file}: {section} is a section: write [{section}]")
    return table


def _value(file: Path, section: str, key: str, value: object) -> object:
    known = _KEYS[section].get(key)
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
    places = {key: f"{key!r} in [{home}]" for home, keys in _KEYS.items() for key in keys}
    places |= {home: f"the section [{home}]" for home in _KEYS}
    places |= {key: repr(key) for key in _KEYS.get(section, ())}
    for among in (_KEYS.get(section, {}), places):
        close = difflib.get_close_matches(name.lower(), among, n=1)
        if close:
            return f": did you mean {places[close[0]]}?"
    known = ", ".join(_KEYS.get(section, _KEYS))
    return f": there {'are' if section else 'are the sections'} {known}"
