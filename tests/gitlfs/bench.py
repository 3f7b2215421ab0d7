"""The bench that a test works on: remotes and clones, with git-lfs's storage native or on a mount."""

import hashlib
import os
import random
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .lfs_server import LfsServer
from .mounted import Mount

GIT_SECONDS = 120
KIB, MIB = 1 << 10, 1 << 20


class Storage(Protocol):
    """Where clones keep their LFS objects."""

    kind: str

    def root(self, name: str) -> Path | None:
        """A fresh storage root for a clone; None leaves it to git-lfs, in .git/lfs."""

    def bytes_of(self, clone: "Clone", oid: str) -> Path:
        """The file on the disk that holds an object's bytes."""

    def at_rest(self) -> AbstractContextManager[None]:
        """While in it nothing reads or writes the storage, and nothing has it in memory afterwards."""


class Native:
    """git-lfs's own .git/lfs."""

    kind = "native"

    def root(self, name: str) -> Path | None:
        return None

    def bytes_of(self, clone: "Clone", oid: str) -> Path:
        return clone.object(oid)

    def at_rest(self) -> AbstractContextManager[None]:
        return nullcontext()


class OnMount:
    """MNT/repos/NAME, a repository root of its own for each clone."""

    kind = "lfsfs"

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self._given = 0

    def root(self, name: str) -> Path | None:
        self._given += 1
        root = self.mount.path / "repos" / f"{name}-{self._given}"
        root.mkdir()
        return root

    def bytes_of(self, clone: "Clone", oid: str) -> Path:
        return file_in(self.mount.store / "objects", oid)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Unmounted: the daemon has gone and the kernel has dropped its pages."""
        self.mount.stop()
        yield
        self.mount.start()


class SharedRoot(OnMount):
    """MNT itself, one root for every clone."""

    def root(self, name: str) -> Path | None:
        return self.mount.path


def file_in(objects: Path, oid: str) -> Path:
    """Where an object lies below an objects/ directory."""
    return objects / oid[:2] / oid[2:4] / oid


def oids_in(objects: Path) -> set[str]:
    """The oids that an objects/ directory lists."""
    return {name for _, _, names in os.walk(objects) for name in names}


def oid_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pointer(oid: str, size: int) -> str:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"


@dataclass(frozen=True)
class Remote:
    """A bare repository, and the URL that clones use for it."""

    path: Path
    url: str

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".git")


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    status: int
    output: bytes
    errors: bytes

    @property
    def stdout(self) -> str:
        return self.output.decode(errors="replace")

    @property
    def said(self) -> str:
        """Everything it printed."""
        return (self.output + self.errors).decode(errors="replace")

    def __str__(self) -> str:
        return f"exit {self.status}\n{self.said}"


@dataclass
class Clone:
    """A work tree and its storage root."""

    path: Path
    root: Path
    env: dict[str, str]
    seconds: float = field(default_factory=lambda: GIT_SECONDS)  # as it is when the clone is made

    def run(self, *arguments: str | Path, stdin: bytes = b"", umask: int = -1) -> Done:
        """Runs `git ARGUMENTS` in the work tree, whatever it exits with."""
        done = subprocess.run(
            ["git", *map(str, arguments)],
            cwd=self.path,
            env=self.env,
            input=stdin,
            capture_output=True,
            timeout=self.seconds,
            umask=umask,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def git(self, *arguments: str | Path, umask: int = -1) -> str:
        """Runs `git ARGUMENTS`, which has to succeed; what it printed."""
        done = self.run(*arguments, umask=umask)
        assert done.status == 0, f"git {' '.join(map(str, arguments))}: {done}"
        return done.stdout

    def fails(self, *arguments: str | Path) -> str:
        """Runs `git ARGUMENTS`, which has to fail; everything it said."""
        done = self.run(*arguments)
        assert done.status != 0, f"git {' '.join(map(str, arguments))} succeeds: {done}"
        return done.said

    def config(self, key: str, value: str | Path) -> None:
        self.git("config", key, value)

    def track(self, pattern: str = "*.bin") -> None:
        self.git("lfs", "track", pattern)
        self.git("add", ".gitattributes")

    def write(self, name: str, content: bytes) -> str:
        """Writes a file of the work tree; its oid."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return oid_of(content)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def commit(self, files: Mapping[str, bytes] | None = None, message: str = "a commit") -> dict[str, str]:
        """Writes, adds and commits the files; the oid of each."""
        oids = {name: self.write(name, content) for name, content in (files or {}).items()}
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return oids

    def checked_out_afresh(self, name: str) -> bytes:
        """What git puts there when the file is not: its content by way of the store."""
        (self.path / name).unlink()
        self.git("checkout", "--", name)
        return self.read(name)

    def status(self) -> str:
        return self.git("status", "--porcelain")

    def objects(self) -> set[str]:
        """The oids that this clone's objects/ lists."""
        return oids_in(self.root / "objects")

    def object(self, oid: str) -> Path:
        return file_in(self.root / "objects", oid)

    def mode(self, oid: str) -> int:
        return stat.S_IMODE(self.object(oid).stat().st_mode)

    def left_in(self, folder: str) -> list[str]:
        """The files somewhere below tmp/, incomplete/, bad/…"""
        return sorted(name for _, _, names in os.walk(self.root / folder) for name in names)

    def lfs_files(self) -> list[str]:
        return self.git("lfs", "ls-files", "--name-only").splitlines()


class Bench:
    """Makes remotes, clones and content for one test."""

    def __init__(
        self, folder: Path, storage: Storage, env: Mapping[str, str], server: LfsServer, label: str
    ) -> None:
        self.folder = folder
        self.storage = storage
        self.env = dict(env)
        self.server = server
        self.label = label
        self._random = random.Random(label)

    @property
    def shares(self) -> bool:
        """Whether clones find each other's objects."""
        return self.storage.kind == "lfsfs"

    def blob(self, size: int = 10 * KIB) -> bytes:
        """Content that no other test has, the same in every run."""
        return self._random.randbytes(size)

    def remote(self, kind: str = "http", name: str = "origin") -> Remote:
        """An empty bare repository, reached over `http` or as a `file`."""
        name = f"{self.label}-{name}"
        path = self.server.folder / f"{name}.git"
        _run(["git", "init", "-q", "--bare", path], self.env)
        _run(["git", "-C", path, "config", "http.receivepack", "true"], self.env)
        return Remote(path, self.server.url(name) if kind == "http" else path.as_uri())

    def on_server(self, remote: Remote) -> set[str]:
        """The oids that the remote has."""
        if remote.url.startswith("file:"):
            return oids_in(remote.path / "lfs" / "objects")
        return set(self.server.repository(remote.name).objects)

    def init(self, name: str, storage: Storage | None = None, remote: Remote | None = None) -> Clone:
        """A new repository that tracks *.bin."""
        clone = self._bare_clone(name, storage)
        _run(["git", "init", "-q", clone.path], self.env)
        self._point(clone)
        if remote is not None:
            clone.git("remote", "add", "origin", remote.url)
        clone.track()
        return clone

    def clone(
        self, remote: Remote | str, name: str, *options: str | Path, storage: Storage | None = None
    ) -> Clone:
        """`git clone OPTIONS`, with its storage set before anything is checked out."""
        clone, done = self.try_clone(remote, name, *options, storage=storage)
        assert done.status == 0, f"git clone: {done}"
        return clone

    def try_clone(
        self,
        remote: Remote | str,
        name: str,
        *options: str | Path,
        storage: Storage | None = None,
        env: Mapping[str, str] | None = None,
    ) -> tuple[Clone, Done]:
        """`git clone OPTIONS`, whatever it exits with.

        Over http the storage is set by `clone -c`. That reaches git-lfs on the far side of a file remote too,
        where it would name the remote's storage; so there it is set between the clone and the checkout.
        """
        clone = self._bare_clone(name, storage)
        url = remote.url if isinstance(remote, Remote) else remote
        native, over_http = clone.root == clone.path / ".git" / "lfs", url.startswith("http:")
        here = [] if native else ["-c", f"lfs.storage={clone.root}"] if over_http else ["--no-checkout"]
        done = subprocess.run(
            ["git", "clone", "-q", *here, *map(str, options), url, str(clone.path)],
            env=self.env | dict(env or {}),
            capture_output=True,
            timeout=GIT_SECONDS,
            check=False,
        )
        if native or over_http or done.returncode != 0:
            return clone, Done(done.returncode, done.stdout, done.stderr)
        self._point(clone)
        clone.env |= env or {}
        checked_out = clone.run("checkout", "-q", "main")
        clone.env = dict(self.env)
        return clone, checked_out

    def upstream(self, files: Mapping[str, bytes], remote: Remote) -> tuple[Clone, dict[str, str]]:
        """A colleague on another machine, so never on the mount, has pushed these files; the oid of each."""
        colleague = self.init("colleague", storage=Native(), remote=remote)
        oids = colleague.commit(files)
        colleague.git("push", "-q", "-u", "origin", "main")
        return colleague, oids

    def _bare_clone(self, name: str, storage: Storage | None) -> Clone:
        path = self.folder / name
        root = (storage or self.storage).root(f"{self.label}-{name}")
        return Clone(path, root or path / ".git" / "lfs", dict(self.env))

    def _point(self, clone: Clone) -> None:
        if clone.root != clone.path / ".git" / "lfs":
            clone.config("lfs.storage", clone.root)


def git_environment(home: Path) -> dict[str, str]:
    """An environment in which git reads nothing of this machine's configuration, with git-lfs installed."""
    temp = home / "temp"
    temp.mkdir(parents=True)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "LFSFS_"))}
    env |= {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(temp),
        "TZ": "UTC",
    }
    (home / "gitconfig").write_text(GIT_CONFIG)
    _run(["git", "lfs", "install", "--skip-repo"], env)
    return env


GIT_CONFIG = """\
[user]
    name = Ann Example
    email = ann@example.org
[init]
    defaultBranch = main
[protocol "file"]
    allow = always
[gc]
    auto = 0
[maintenance]
    auto = false
[advice]
    detachedHead = false
[push]
    default = current
"""


def _run(command: Iterable[str | Path], env: Mapping[str, str]) -> None:
    subprocess.run(list(command), env=env, check=True, capture_output=True, timeout=GIT_SECONDS)


def flip_a_byte(path: Path, at: int = 0) -> None:
    """Damages a file at rest; its size and times stay."""
    before = path.stat()
    path.chmod(before.st_mode | stat.S_IWUSR)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0xFF]))
    os.chmod(path, stat.S_IMODE(before.st_mode))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
