"""The configuration file: TOML, and what the command line says on top of it, read into a Config.

The whole file, every key with its default:

    [store]
    path = "/var/lib/lfsfs"         # or the STORE argument
    durability = "sync"             # or "fast"
    temp = "/fast/disk/tmp"         # where files are staged; by default inside the store
    encryption_key = "file:/etc/lfsfs/store.key"  # encrypts the objects on the local disk; or "env:…", as in [s3]

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

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from lfsfs.config import CacheOptions, Config, MountOptions, S3Options, ScrubOptions, ServerOptions
from lfsfs.config_access import AccessOptions, ForgeOptions, JwtOptions
from lfsfs.config_keys import KEYS, MOST_CONNECTIONS, SIZE, Key, checked, table_of
from lfsfs.config_policy import LimitOptions, PermissionOptions, Policy, QuotaOptions, ScanOptions
from lfsfs.errors import InvalidConfig

T = TypeVar("T")
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
        for key, value in table_of(file, section, table).items():
            settings[f"{section}.{key}"] = checked(file, section, key, value)
    return settings


def remote_of(settings: Settings) -> "tuple[S3Options, CacheOptions] | None":
    """The remote tier that the settings name, if they name one."""
    s3 = _s3(settings)
    if s3 is None:
        if any(key.startswith("cache.") for key in settings):
            raise InvalidConfig("there are cache options, but no S3 address: give --s3 s3://BUCKET/PREFIX")
        return None
    return s3, _options(settings, "cache", CacheOptions)


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


def _rendered(value: object, key: "Key | None" = None) -> str:
    if isinstance(value, tuple):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return (
            "{ "
            + ", ".join(f"{json.dumps(name)} = {_rendered(one, SIZE)}" for name, one in value.items())
            + " }"
        )
    if isinstance(value, int) and key is not None:
        return f'"{value}"' if key is SIZE else str(value)
    if isinstance(value, int):
        return f'"{value}"' if value > MOST_CONNECTIONS else str(value)  # sizes are texts in a file
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
        mount=_options(settings, "mount", MountOptions),
        s3=remote[0] if remote else None,
        cache=remote[1] if remote else CacheOptions(),
        server=server_of(settings),
        access=access_of(settings),
        scrub=_options(settings, "scrub", ScrubOptions),
        policy=policy_of(settings),
        permissions=_options(settings, "permissions", PermissionOptions),
        **_named(settings, "store", ("durability", "temp", "encryption_key")),
        **{f"log_{name}": value for name, value in _named(settings, "log", ("level", "size")).items()},
        foreground=foreground,
    )


def server_of(settings: Settings) -> ServerOptions:
    """How the settings have the store served."""
    return _options(settings, "server", ServerOptions)


def access_of(settings: Settings) -> AccessOptions:
    """Who may use the server, as the settings say it."""
    jwt = _named(settings, "jwt", _names(JwtOptions))
    forge = _named(settings, "forge", _names(ForgeOptions))
    if jwt and not {"keys", "issuer", "audience"} <= jwt.keys():
        raise InvalidConfig("keys, issuer and audience in [jwt] go together")
    if forge and "url" not in forge:
        raise InvalidConfig("there are options of a forge, but no address: give url in [forge]")
    return AccessOptions(
        **_named(settings, "access", _names(AccessOptions)),
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
        _options(settings, "limits", LimitOptions),
        _options(settings, "quota", QuotaOptions),
        _options(settings, "scan", ScanOptions),
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
                lines.append(f"{one.name} = {_rendered(value, KEYS[section.name][one.name])}")
    return "\n".join(lines) + "\n"


def _s3(settings: Settings) -> S3Options | None:
    named = _named(settings, "s3", _names(S3Options))
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


def _options(settings: Settings, section: str, kind: type[T]) -> T:
    """The options of a section: what is set of them, and the defaults of the rest."""
    return kind(**_named(settings, section, _names(kind)))


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


def _named(settings: Settings, section: str, names: Iterable[str]) -> dict[str, Any]:
    """Those of the section's settings that are set."""
    return {name: settings[f"{section}.{name}"] for name in names if f"{section}.{name}" in settings}
