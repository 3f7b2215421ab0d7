"""The configuration file: TOML, and what the command line says on top of it, read into a Config.

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
    noexec = false
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
    encryption_key = "file:/etc/lfsfs/master.key"  # or "env:…", "command:…", "kms:…"; by default none
    object_names = "plain"          # or "hashed": names in an encrypted bucket tell nothing
    compression = "off"             # or "zstd"
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

    [server]
    listen = ["127.0.0.1:8080", "unix:/run/lfsfs.sock"]  # by default nowhere: there is no server
    url = "https://lfs.example.org" # as clients reach it, where that is not what they call it
    tls_certificate = "/etc/ssl/lfs.pem"
    tls_key = "/etc/ssl/lfs.key"
    object_size = "50GiB"           # the largest object that is taken; by default any
    request_size = "4MiB"           # the largest JSON request
    batch_objects = 10000
    connections = 20000
    transfers = 64                  # objects that move at once
    queue_timeout = "30s"           # what a transfer waits for its turn
    head_timeout = "20s"            # for the head of a request, and between two
    idle_timeout = "60s"            # without a byte of a transfer
    shutdown_timeout = "60s"        # for transfers to end when the server ends
    action_lifetime = "1h"          # of what a batch answers
    direct = "off"                  # or "download", "on": clients move bytes from, and to, S3 themselves
    locks = "auto"                  # "store", "bucket": for every machine on the bucket; auto: bucket where there is one
    owner = "ann"                   # of locks, without users; by default anonymous, or with locks = "bucket" USER@HOST
    access_log = true

    [access]                        # who may use the server: docs/ACCESS.md
    users = "/etc/lfsfs/users.toml" # by default users.toml in the store, where `lfsfs user` makes it
    htpasswd = "/etc/lfsfs/htpasswd"
    attempts = 10                   # wrong passwords of one user from one address, in
    attempts_window = "60s"
    ssh_root = "/srv/git"           # what is cut from the paths of SSH remotes
    ssh_lifetime = "10m"            # of what git-lfs-authenticate hands out

    [jwt]
    keys = "/etc/lfsfs/jwks.json"   # no default, nor have the next two: without them there is no issuer
    issuer = "https://id.example.org"
    audience = "lfsfs"
    algorithms = ["RS256", "ES256", "EdDSA"]
    user = "sub"                    # the claim that names the user
    roles = "lfsfs_roles"           # the claim with what they may do; by default none
    leeway = "30s"

    [forge]
    url = "https://git.example.org" # no default: without it no forge is asked
    kind = "gitea"                  # Forgejo too; or "github", with the url https://api.github.com
    timeout = "10s"
    cache = "60s"
    ca_bundle = "/etc/ssl/my-ca.pem"

    [scrub]                         # looking for corruption while nobody uses the store
    rate = "32MiB"                  # a second; or "off"
    interval = "30d"                # from the end of one pass to the beginning of the next
    idle = "60s"                    # without use, before it begins or goes on

    [limits]                        # no defaults: what is not here is not limited
    object_size = "50GiB"           # the largest object
    objects = 10000000              # in the store
    names = 1000000                 # in incoming/
    path_length = 1024              # bytes of a path below incoming/, of a repository's or a lock's name on the server
    open_uploads = 1000             # files and uploads being written at once
    free_space = "10GiB"            # of the disk, left free

    [quota]                         # no defaults, as above
    store = "2TiB"                  # all objects, each counted once
    repository = "100GiB"           # what a repository refers to, for each that is not named below
    repositories = { films = "1TiB", "/team/web" = "10GiB" }  # repos/films; team/web of the server

    [scan]                          # a scanner that looks at every object
    clamd = "unix:/run/clamav/clamd.ctl"  # or HOST:PORT; no default: without this and the next there is no scanner
    when = "before"                 # it becomes an object, or "after"
    unreachable = "refuse"          # or "accept": objects come in, and are scanned later
    timeout = "60s"                 # for an object, and a second more for each further 10 MiB
    size = "2GiB"                   # larger objects are not scanned; by default all are
    verdict_age = "30d"             # how long a verdict counts when the same object comes again
    parallel = 4                    # objects that are scanned at once
    # command = ["/usr/local/bin/scan", "{path}"]  # instead of clamd; without {path}, the object is its standard input

    [permissions]                   # who may use the mount: without any of these, everybody whom the modes let
    admins = ["root", "@ops"]       # users by name or number, groups as @NAME, everybody as *
    writers = ["@artists", "1000"]
    readers = ["*"]

    [log]
    level = "info"                  # "debug", "info", "warning" or "error"
    size = "10MiB"                  # of STORE/daemon.log, after which there is a new one, and this one is daemon.log.1

An unknown section or key, and a value of the wrong kind, is InvalidConfig: it names the file, the key and
what would have been right. Nothing in a file is ever ignored.
"""

import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lfsfs.config import (
    LARGEST_ID,
    SMALLEST_PART,
    Addressing,
    CacheOptions,
    Compression,
    Config,
    Deletion,
    Direct,
    Durability,
    Layout,
    LocksPlace,
    LogLevel,
    Mode,
    MountOptions,
    ObjectNames,
    S3Options,
    ScrubOptions,
    ServerOptions,
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
from lfsfs.config_access import JWT_ALGORITHMS, AccessOptions, ForgeKind, ForgeOptions, JwtOptions
from lfsfs.config_policy import (
    LimitOptions,
    PermissionOptions,
    Policy,
    QuotaOptions,
    ScanOptions,
    ScanTime,
    Unreachable,
)
from lfsfs.errors import InvalidConfig
from lfsfs.units import AGES, SIZES, parse_age, parse_size

SYSTEM_FILE = Path("/etc/lfsfs/lfsfs.toml")
STORE_FILE = "lfsfs.toml"

Settings = Mapping[str, object]
"""Values by `section.key`, as checked by this module; what is not in it has its default."""


def read_file(file: Path) -> Settings:
    """The settings of a configuration file. InvalidConfig if it cannot be read, or is not all right."""
    try:
        tables = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise InvalidConfig(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no TOML, or no UTF-8
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


def _rendered(value: object, key: "_Key | None" = None) -> str:
    if isinstance(value, tuple):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return (
            "{ "
            + ", ".join(f"{json.dumps(name)} = {_rendered(one, _SIZE)}" for name, one in value.items())
            + " }"
        )
    if isinstance(value, int) and key is not None:
        return f'"{value}"' if key is _SIZE else str(value)
    if isinstance(value, int):
        return f'"{value}"' if value > _MOST_CONNECTIONS else str(value)  # sizes are texts in a file
    if isinstance(value, float):
        return f'"{value:f}s"'
    return json.dumps(str(value))


def default_file(store: Path | None) -> Path | None:
    """STORE/lfsfs.toml if it is there, else /etc/lfsfs/lfsfs.toml if that is, else none."""
    candidates = [store / STORE_FILE] if store is not None else []
    return next((file for file in [*candidates, SYSTEM_FILE] if file.is_file()), None)


def configure(
    file: Path | None,
    given: Settings,
    *,
    remembered: Callable[[Path], Settings] | None = None,
    foreground: bool = False,
    mounting: bool = True,
) -> Config:
    """The configuration of one daemon: what was given on the command line, or the file's, or the default.

    `file` None: the default file, if there is one. `remembered`: what the store at a path knows of its own S3, which
    options of S3 and cache change where they name no other. `mounting` False: of a server without a mount.
    InvalidConfig where store, or a mountpoint that is needed, are nowhere named.
    """
    store = given.get("store.path")
    if file is None:
        file = default_file(store if isinstance(store, Path) else None)
    settings = {**(read_file(file) if file is not None else {}), **given}
    path = settings.get("store.path")
    changed = any(key.startswith(("s3.", "cache.")) for key in settings) and "s3.url" not in settings
    if changed and remembered is not None and isinstance(path, Path):
        settings = {**remembered(path), **settings}
    remote = remote_of(settings)
    return Config(
        store=_required(settings, "store.path", "STORE", file),
        mountpoint=_required(settings, "mount.mountpoint", "MNT", file) if mounting else None,
        mount=MountOptions(**_named(settings, "mount", (field.name for field in fields(MountOptions)))),
        s3=remote[0] if remote else None,
        cache=remote[1] if remote else CacheOptions(),
        server=server_of(settings),
        access=access_of(settings),
        scrub=ScrubOptions(**_named(settings, "scrub", (field.name for field in fields(ScrubOptions)))),
        policy=policy_of(settings),
        permissions=PermissionOptions(
            **_named(settings, "permissions", (field.name for field in fields(PermissionOptions)))
        ),
        **_named(settings, "store", ("durability", "temp")),
        **{f"log_{name}": value for name, value in _named(settings, "log", ("level", "size")).items()},
        foreground=foreground,
    )


def server_of(settings: Settings) -> ServerOptions:
    """How the settings have the store served."""
    return ServerOptions(**_named(settings, "server", (field.name for field in fields(ServerOptions))))


def access_of(settings: Settings) -> AccessOptions:
    """Who may use the server, as the settings say it."""
    jwt = _named(settings, "jwt", (field.name for field in fields(JwtOptions)))
    forge = _named(settings, "forge", (field.name for field in fields(ForgeOptions)))
    if jwt and not {"keys", "issuer", "audience"} <= jwt.keys():
        raise InvalidConfig("keys, issuer and audience in [jwt] go together")
    if forge and "url" not in forge:
        raise InvalidConfig("there are options of a forge, but no address: give url in [forge]")
    names = (field.name for field in fields(AccessOptions) if field.name not in ("jwt", "forge"))
    return AccessOptions(
        **_named(settings, "access", names),
        jwt=JwtOptions(**jwt) if jwt else None,
        forge=ForgeOptions(**forge) if forge else None,
    )


def policy_of(settings: Settings) -> Policy:
    """What the settings have the store put up with."""
    if (
        any(key.startswith("scan.") for key in settings)
        and not {"scan.clamd", "scan.command"} & settings.keys()
    ):
        raise InvalidConfig(
            "there are options of a scanner, but none is named: give clamd or command in [scan]"
        )
    return Policy(
        LimitOptions(**_named(settings, "limits", (field.name for field in fields(LimitOptions)))),
        QuotaOptions(**_named(settings, "quota", (field.name for field in fields(QuotaOptions)))),
        ScanOptions(**_named(settings, "scan", (field.name for field in fields(ScanOptions)))),
    )


def render_policy(policy: Policy) -> str:
    """The sections of a configuration file that say the same; what is a default is left out."""
    lines = []
    for section in fields(policy):
        options = getattr(policy, section.name)
        lines.append(f"[{section.name}]")
        for one in fields(options):
            value = getattr(options, one.name)
            if value != getattr(type(options)(), one.name):
                lines.append(f"{one.name} = {_rendered(value, _KEYS[section.name][one.name])}")
    return "\n".join(lines) + "\n"


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


def _listeners(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ValueError
    return tuple(parse_listen(one) for one in value)


def _algorithms(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(one in JWT_ALGORITHMS for one in value):
        raise ValueError
    return tuple(value)


def _number(most: int) -> _Key:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError
        return value

    return _Key(f"a number from 1 to {most}", check)


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


def _one_of(literal: Any) -> _Key:
    allowed = choices(literal)

    def check(value: Any) -> object:
        if value not in allowed:
            raise ValueError
        return value

    return _Key(" or ".join(f'"{choice}"' for choice in allowed), check)


_LARGEST_PART = 5 << 30
_MOST_CONNECTIONS = 1000
_MOST_ROWS = 10**12
_PATH = _Key("an absolute path, in quotes", _path)
_ID = _Key(f"a number from 0 to {LARGEST_ID}", _id)
_TRUTH = _Key("true or false", _truth)
_WORD = _Key("a text, in quotes", _text(_plain))
_SECONDS = _Key('a time above 0, in quotes, such as "5s"', _text(_seconds))
_SIZE = _Key(f"in quotes, {SIZES}", _text(parse_size))
_WHO = _Key('a list of users and @groups, such as ["ann", "@artists"]', _words)
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
        "noexec": _TRUTH,
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
        "encryption_key": _Key(
            'in quotes, "file:/PATH", "env:VARIABLE", "command:NAME:PROGRAM" or "kms:KEY"',
            _text(parse_encryption_key),
        ),
        "object_names": _one_of(ObjectNames),
        "compression": _one_of(Compression),
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
    "server": {
        "listen": _Key('a list such as ["127.0.0.1:8080", "unix:/run/lfsfs.sock"]', _listeners),
        "url": _Key('in quotes, "http://HOST:PORT" or "https://HOST:PORT"', _text(parse_endpoint)),
        "tls_certificate": _PATH,
        "tls_key": _PATH,
        "object_size": _Key(f"in quotes, {SIZES}", _text(parse_size)),
        "request_size": _Key(f"in quotes, {SIZES}", _text(parse_size)),
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
        "algorithms": _Key(f"a list of {', '.join(JWT_ALGORITHMS)}", _algorithms),
        "user": _WORD,
        "roles": _WORD,
        "leeway": _SECONDS,
    },
    "forge": {
        "url": _Key('in quotes, "http://HOST:PORT" or "https://HOST:PORT"', _text(parse_endpoint)),
        "kind": _one_of(ForgeKind),
        "timeout": _SECONDS,
        "cache": _SECONDS,
        "ca_bundle": _PATH,
    },
    "scrub": {
        "rate": _Key(f'"off", or in quotes, {SIZES}', _text(parse_rate)),
        "interval": _SECONDS,
        "idle": _SECONDS,
    },
    "limits": {
        "object_size": _SIZE,
        "objects": _number(_MOST_ROWS),
        "names": _number(_MOST_ROWS),
        "path_length": _number(1 << 20),
        "open_uploads": _number(1_000_000),
        "free_space": _SIZE,
    },
    "quota": {
        "store": _SIZE,
        "repository": _SIZE,
        "repositories": _Key('a table such as { films = "1TiB", "/team/web" = "10GiB" }', _sizes),
    },
    "scan": {
        "clamd": _Key('in quotes, "HOST:PORT" or "unix:/PATH"', _text(parse_listen)),
        "command": _Key('a list such as ["/usr/local/bin/scan", "{path}"]', _words),
        "when": _one_of(ScanTime),
        "unreachable": _one_of(Unreachable),
        "timeout": _SECONDS,
        "size": _SIZE,
        "verdict_age": _SECONDS,
        "parallel": _number(1_000),
    },
    "permissions": {"admins": _WHO, "writers": _WHO, "readers": _WHO},
    "log": {"level": _one_of(LogLevel), "size": _Key(f"in quotes, {SIZES}", _text(parse_size))},
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
