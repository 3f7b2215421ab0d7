"""Where things lie below STORE, and the format file that says it is a store."""

import errno
import fcntl
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lfsfs import durable
from lfsfs.alone import alone_in, try_alone
from lfsfs.errors import (
    InUse,
    InvalidConfig,
    InvalidName,
    LfsfsError,
    NotFound,
    ReadOnly,
    Refused,
    StoreFormat,
)
from lfsfs.store.formats import Formats
from lfsfs.store.fscrypt import is_locked

log = logging.getLogger("lfsfs.store")
FORMATS = Formats(1, {}, sealed=2)
"""The format of this lfsfs, and how stores of older ones become one of it."""
FORMAT_FILE = "lfsfs.json"
KEYS_FILE = "keys.json"
KEYS_COPY = "keys.copy.json"
"""The keys that the objects on the local disk are encrypted with, and the same once more."""
DAEMON_LOCK = "daemon.lock"
"""Held by the one daemon of a store."""
DAEMON_STATE = "daemon.json"
"""What the daemon says of itself while it serves."""
WORKSPACE_DIRECTORIES = ("tmp", "incomplete", "bad", "logs", "cache")
WORKSPACE_FILES = ("lockcache.db",)
# What a plain git-lfs storage directory may hold: a directory of nothing else is taken over as a store.
_ADOPTABLE = frozenset((*WORKSPACE_DIRECTORIES, *WORKSPACE_FILES, "objects", "lost+found"))
_OURS = frozenset(
    (
        "staging",
        "uploads",
        "index",
        "repos",
        "trash",
        "rooms",
        FORMAT_FILE + ".new",
        "daemon.log",
        "lfsfs.toml",
        "remote.toml",
        "bucket.json",
        KEYS_FILE,
        KEYS_COPY,
        "users.toml",
    )
)
NAME_LIMIT_BYTES = 255
SERVER_NAME_PARTS = 8

_ELSEWHERE = "name another place, or run this as a user who may write there"


@dataclass(frozen=True)
class Layout:
    """The paths of one store."""

    path: Path
    id: str

    @property
    def objects(self) -> Path:
        return self.path / "objects"

    @property
    def index(self) -> Path:
        return self.path / "index"

    @property
    def staging(self) -> Path:
        return self.path / "staging"

    @property
    def uploads(self) -> Path:
        """Where the server keeps uploads that came in part."""
        return self.path / "uploads"

    @property
    def repositories(self) -> Path:
        return self.path / "repos"

    @property
    def trash(self) -> Path:
        return self.path / "trash"

    def workspace(self, repository: str | None) -> Path:
        """Where the git-lfs files of a repository root lie that are not objects. None: the shared root."""
        return self.path if repository is None else self.repositories / check_repository_name(repository)


def check_repository_name(name: str) -> str:
    """A name for repos/NAME: one visible path component. Raises InvalidName."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidName("a repository name must be valid UTF-8") from error
    if not name or name.startswith(".") or "/" in name or size > NAME_LIMIT_BYTES or not name.isprintable():
        raise InvalidName(
            f"not a repository name: {name!r}: it must be 1 to {NAME_LIMIT_BYTES} bytes, printable,"
            " without '/' and not begin with '.'"
        )
    return name


def check_server_name(name: str) -> str:
    """The name of a repository of the HTTP server: a slash, and one to eight path components: "/studio/game".

    No repository root has such a name, so that both kinds live in one table. Raises InvalidName.
    """
    parts = name.split("/")
    if (
        parts[0]
        or not 2 <= len(parts) <= SERVER_NAME_PARTS + 1
        or len(name.encode(errors="replace")) > NAME_LIMIT_BYTES
    ):
        raise InvalidName(
            f"not a repository of the server: {name!r}: it is 1 to {SERVER_NAME_PARTS} names,"
            f" {NAME_LIMIT_BYTES} bytes in all"
        )
    for part in parts[1:]:
        if "\ufffd" in check_repository_name(part):  # bytes that were no UTF-8
            raise InvalidName(f"not a repository of the server: {name!r}: it must be valid UTF-8")
    return name


def check_any_name(name: str) -> str:
    """The name of a repository root, or of a repository of the server. Raises InvalidName."""
    return check_server_name(name) if is_server_name(name) else check_repository_name(name)


def is_server_name(name: str) -> bool:
    """Whether a valid name is that of a repository of the server."""
    return name.startswith("/")


def is_served(layout: Layout) -> bool:
    """Whether a daemon says that it serves the store, and is alive."""
    try:
        pid = json.loads((layout.path / DAEMON_STATE).read_text())["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return Path(f"/proc/{pid}").exists()


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """The store is open meanwhile. Waits for whoever changes what its objects are encrypted with."""
    with (path / FORMAT_FILE).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield


def has_keys(path: Path) -> bool:
    """Whether objects on the local disk are encrypted, or have been and some still are."""
    return (path / KEYS_FILE).exists() or (path / KEYS_COPY).exists()


def is_store(path: Path) -> bool:
    return (path / FORMAT_FILE).is_file()


def open_layout(
    path: Path, *, create: bool, identity: str | None = None, formats: Formats = FORMATS
) -> Layout:
    """Reads the format file of the store at `path`; with `create`, makes a store where there is none.

    `identity`: whose place a new store takes; None: nobody's.

    A directory that holds nothing but git-lfs's own files becomes a store as it stands. A store of an older format
    becomes one of the newest of `formats`. Raises NotFound (no store, and not to be created), StoreFormat (something
    else, damaged, or newer); InUse, Refused (of an older format, and a daemon has it, or it cannot be written to).
    """
    path = path.absolute()
    if os.fsencode(path) != str(path).encode(errors="replace"):  # LMDB takes nothing else
        raise InvalidConfig(f"the path of a store must be valid UTF-8: {path}")
    if path.exists() and not path.is_dir():
        raise StoreFormat(f"{path} is not a directory: a store is a directory")
    if not is_store(path):
        if is_locked(path):
            raise Refused(f"{path} is locked: `lfsfs unlock {path} --key SOURCE`")
        if not create:
            raise NotFound(f"no store at {path}: `lfsfs mount STORE MNT` makes one")
        _create(path, identity)
    version, identity = _read_format(path / FORMAT_FILE, formats)
    if version < formats.newest:
        _upgrade(path, formats)
    if formats.sealed:
        _check_keys(path, version, formats)
    return Layout(path, identity)


def _check_keys(path: Path, version: int, formats: Formats) -> None:
    """An older lfsfs gave stores keys and left their format as it was: that is put right, where it may be written."""
    if version == formats.sealed and not has_keys(path):
        raise StoreFormat(
            f"the objects of {path} are encrypted, and {KEYS_FILE} is gone, and its copy {KEYS_COPY}:"
            " put one of them back from a backup, or nobody reads them"
        )
    if version < formats.sealed and has_keys(path):
        try:
            say_sealed(path, sealed=True)
        except OSError as failed:
            log.warning("%s: its format stays %d: %s", path, version, failed)


def say_sealed(path: Path, *, sealed: bool) -> None:
    """Says in the format file that objects may be encrypted, or that none is. Durable. Repeating is harmless. OSError.

    In its place: whoever has the store open holds this very file. One byte changes, so that it is never half written.
    """
    new, old = (FORMATS.sealed, FORMATS.newest) if sealed else (FORMATS.newest, FORMATS.sealed)
    with (path / FORMAT_FILE).open("r+b") as file:
        before = file.read()
        after = before.replace(b'"format": %d' % old, b'"format": %d' % new, 1)
        if after != before:
            os.pwrite(file.fileno(), after, 0)
            durable.fsync(file.fileno(), "fsync-format")


def _upgrade(path: Path, formats: Formats) -> None:
    """One format after another: each is said to be there once all of its step is."""
    try:
        with alone_in(path), (path / DAEMON_LOCK).open("a+b") as daemon:
            version, _ = _read_format(path / FORMAT_FILE, formats)
            if version == formats.newest:  # another process was first
                return
            if not try_alone(daemon):
                raise InUse(
                    f"{path} is of an older format, and a daemon of an older lfsfs has it: unmount it, and this lfsfs"
                    " makes it one of its own"
                )
            for step in range(version, formats.newest):
                log.warning("%s: from format %d to format %d", path, step, step + 1)
                formats.steps[step](path)
                _write_format(path, json.loads((path / FORMAT_FILE).read_text()) | {"format": step + 1})
    except OSError as error:
        raise Refused(
            f"{path} is of an older format, and cannot be upgraded: {error.strerror or error}: open it once as a user"
            " who may write to it"
        ) from error


def _create(path: Path, identity: str | None) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with alone_in(path):
            if is_store(path):  # somebody else has made it meanwhile: a store has one identity
                return
            foreign = sorted(set(os.listdir(path)) - _ADOPTABLE - _OURS)
            if foreign:
                raise StoreFormat(
                    f"{path} is neither empty nor a store: it holds {foreign[0]!r};"
                    " give an empty directory, or a new one"
                )
            made = {"format": FORMATS.newest, "id": identity or str(uuid.uuid4()), "created": time.time_ns()}
            _write_format(path, made)
    except PermissionError as error:
        raise Refused(f"cannot make a store at {path}: {error.strerror}; {_ELSEWHERE}") from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise ReadOnly(f"cannot make a store at {path}: {error.strerror}; {_ELSEWHERE}") from error
        raise LfsfsError(f"cannot make a store at {path}: {error.strerror}") from error


def _write_format(path: Path, content: Mapping[str, object]) -> None:
    text = json.dumps(content, indent=1) + "\n"
    fresh = path / f"{FORMAT_FILE}.new"
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        durable.fsync(file.fileno(), "fsync-format")
    durable.rename(fresh, path / FORMAT_FILE, "rename-format")
    durable.fsync_path(path, "fsync-store")


def _read_format(file: Path, formats: Formats) -> tuple[int, str]:
    """The format, and the store's identity."""
    try:
        content = json.loads(file.read_text())
        version, identity = content["format"], str(uuid.UUID(content["id"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreFormat(f"{file} is damaged: {error}") from error
    if not isinstance(version, int) or version < 1:
        raise StoreFormat(f"{file} is damaged: format {version!r}")
    if not formats.reads(version):
        newest = max(formats.newest, formats.sealed)
        raise StoreFormat(
            f"{file.parent} was made by a newer lfsfs (format {version}; this one reads up to {newest}):"
            " upgrade lfsfs"
        )
    return version, identity
