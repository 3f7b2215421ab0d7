"""Configuration: what a daemon needs to know, as frozen dataclasses, and the texts that their values are read from.

Where the values come from is config_file.py's concern.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from lfsfs.config_access import AccessOptions
from lfsfs.config_policy import PermissionOptions, Policy
from lfsfs.errors import InvalidConfig
from lfsfs.units import DAY, parse_size

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
LocksPlace = Literal["auto", "store", "bucket"]
Direct = Literal["off", "download", "on"]
ObjectNames = Literal["plain", "hashed"]
Compression = Literal["off", "zstd"]
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
    noexec: bool = False
    """Nothing in the mount can be executed."""
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
    encryption_key: str | None = None
    """The master key that everything in the bucket is encrypted with before it leaves this machine, as
    parse_encryption_key has it; None: nothing is.
    """
    object_names: ObjectNames = "plain"
    """Whether the names of encrypted objects tell their oids."""
    compression: Compression = "off"
    """Of what goes into the bucket from here."""
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
        if self.object_names == "hashed" and self.encryption_key is None:
            raise InvalidConfig('object_names = "hashed" in [s3] needs encryption_key')
        if self.part_size < SMALLEST_PART:
            raise InvalidConfig(f"part_size in [s3] must be {SMALLEST_PART} bytes or more")


@dataclass(frozen=True)
class ServerOptions:
    """The Git LFS server: where it listens, and what it puts up with. No address in `listen`: there is no server."""

    listen: tuple[str, ...] = ()
    """HOST:PORT, [IPV6]:PORT or unix:/PATH. Port 0: any that is free."""
    url: str | None = None
    """The public URL, where it is not what clients write into the Host header. Without a slash at the end."""
    tls_certificate: Path | None = None
    """PEM, the chain after it. With `tls_key`, every TCP listener speaks TLS."""
    tls_key: Path | None = None
    object_size: int | None = None
    """Bytes of the largest object that is taken; None: any."""
    request_size: int = 4 << 20
    """Bytes of the largest JSON request."""
    batch_objects: int = 10_000
    """Objects of the largest batch."""
    connections: int = 20_000
    """At once. Further ones are closed at once."""
    transfers: int = 64
    """Bodies of objects that move at once; further ones wait for `queue_timeout`, and are told 429."""
    queue_timeout: float = 30.0
    """Seconds."""
    head_timeout: float = 20.0
    """Seconds that a client has for the head of a request, and between two requests."""
    idle_timeout: float = 60.0
    """Seconds without a byte, either way, after which a transfer is given up."""
    shutdown_timeout: float = 60.0
    """Seconds that transfers have to end in when the server ends."""
    action_lifetime: float = 3600.0
    """Seconds that the actions of a batch are good for."""
    direct: Direct = "off"
    """Whether clients are sent to S3 itself: for what they download, or for uploads too (on)."""
    locks: LocksPlace = "auto"
    """store: in the index, for one server. bucket: for every machine on the bucket. auto: bucket where there is one."""
    owner: str | None = None
    """Whose a lock is that somebody without credentials takes, where there are no users. None: anonymous, or USER@HOST
    for locks in the bucket.
    """
    access_log: bool = True

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidConfig("tls_certificate and tls_key in [server] go together")


@dataclass(frozen=True)
class ScrubOptions:
    """How a daemon looks for corruption while nobody uses the store."""

    rate: int = 32 << 20
    """Bytes a second; 0: it does not."""
    interval: float = 30 * DAY
    """Seconds from the end of one pass over the store to the beginning of the next."""
    idle: float = 60.0
    """Seconds without use after which it begins, or goes on."""


@dataclass(frozen=True)
class Config:
    """What one daemon needs to know."""

    store: Path
    """Absolute."""
    mountpoint: Path | None = None
    """Absolute. None: nothing is mounted, there is only the server."""
    durability: Durability = "sync"
    mount: MountOptions = field(default_factory=MountOptions)
    s3: S3Options | None = None
    cache: CacheOptions = field(default_factory=CacheOptions)
    server: ServerOptions = field(default_factory=ServerOptions)
    access: AccessOptions = field(default_factory=AccessOptions)
    scrub: ScrubOptions = field(default_factory=ScrubOptions)
    policy: Policy = field(default_factory=Policy)
    permissions: PermissionOptions = field(default_factory=PermissionOptions)
    log_level: LogLevel = "info"
    log_size: int = 10 << 20
    """Bytes of the log of a daemon in the background, after which it begins a new one."""
    temp: Path | None = None
    """Where files are staged; None: inside the store."""
    encryption_key: str | None = None
    """The master key of the objects on the local disk, as parse_encryption_key has it; None: the one that the store has
    written down, if it is encrypted.
    """
    foreground: bool = False


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
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) > LARGEST_ID:
        raise InvalidConfig(f"not a user or group number: {text!r}: it is 0 to {LARGEST_ID}")
    return int(text)


def parse_s3_url(text: str) -> S3Url:
    """InvalidConfig unless it is s3://BUCKET or s3://BUCKET/PREFIX."""
    scheme, separator, rest = text.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if scheme != "s3" or not separator or not bucket:
        raise InvalidConfig(f"not an S3 address: {text!r}: it is s3://BUCKET/PREFIX")
    if _BUCKET.fullmatch(bucket) is None:
        raise InvalidConfig(
            f"not an S3 address: {text!r}: no bucket is called {bucket!r}: it has letters, digits, . - _, two at least,"
            " on most servers three"
        )
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


def parse_encryption_key(text: str) -> str:
    """InvalidConfig unless it is file:PATH, env:VARIABLE, command:NAME:PROGRAM or kms:KEY."""
    scheme, _, rest = text.partition(":")
    name, _, command = rest.partition(":")
    usable = {"file": rest.startswith("/"), "env": rest, "command": name and command.strip(), "kms": rest}
    if not usable.get(scheme) or not text.isprintable():
        raise InvalidConfig(
            f"not a master key: {text!r}: it is file:/PATH, env:VARIABLE, command:NAME:PROGRAM or kms:KEY"
        )
    return text


def parse_rate(text: str) -> int:
    """Bytes a second; 0 for "off". InvalidConfig."""
    return 0 if text == "off" else parse_size(text)


def parse_listen(text: str) -> str:
    """InvalidConfig unless it is HOST:PORT, [IPV6]:PORT or unix:/PATH."""
    if text.startswith("unix:/") and "\0" not in text and len(text.encode()) <= _LONGEST_SOCKET:
        return text
    host, _, port = text.rpartition(":")
    if _LISTEN_HOST.fullmatch(host) is None or not (
        port.isascii() and port.isdigit() and int(port) < 1 << 16
    ):
        raise InvalidConfig(
            f"not an address to listen on: {text!r}: it is HOST:PORT, [IPV6]:PORT or unix:/PATH"
        )
    return text


_LISTEN_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_LONGEST_SOCKET = 5 + 107  # sockaddr_un(7)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_LONGEST_PREFIX = 800  # of the 1,024 bytes of a key: the rest is ours
LARGEST_ID = 2**32 - 2
"""Of a user or group: the one above means "leave it as it is" to chown(2)."""
