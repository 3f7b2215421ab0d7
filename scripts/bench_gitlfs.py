"""The group gitlfs of scripts/bench: git and git-lfs in a clone whose objects lie in a mount, beside .git/lfs.

Each `git add` is of new bytes, in a new repository; ours keeps its objects in a new store, under the default durability
unless it is said. git-annex and DVC, where they are installed, add the same files in their own way, which is not quite
the same: git-annex moves a file and leaves a link, DVC hashes with MD5.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path

from bench import Row, Side
from bench_ground import GIB, KIB, LFSFS, MIB, Ground, forget_pages, object_in, run, timed
from bench_peers import command, missing

SMALL_FILES = 5_000
NATIVE = "native .git/lfs"
PEERS = {"git-annex": "git-annex", "dvc": "DVC"}
"""What else keeps large files beside git: the command, and its name."""


class Files:
    """What is added: `one` large file, or `many` small ones in a folder. The same for both sides of a round."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.size = ground.bytes(GIB)
        self.count = ground.count(SMALL_FILES)

    def one(self, clone: Path) -> None:
        shutil.copyfile(self._ground.noise(self.size), clone / "file.bin")

    def many(self, clone: Path) -> None:
        shutil.copytree(self._small, clone / "many")

    @cached_property
    def _small(self) -> Path:
        return self._ground.small_files(self.count, 4 * KIB)


@contextmanager
def repository(ground: Ground) -> Iterator[Path]:
    """A clone that tracks *.bin with git-lfs; it goes with the block."""
    clone = ground.fresh("clone")
    run("git", "init", "-q", clone)
    run("git", "lfs", "install", "--local", where=clone)
    run("git", "lfs", "track", "*.bin", where=clone)
    try:
        yield clone
    finally:
        shutil.rmtree(clone)


@contextmanager
def attached(ground: Ground, *options: str) -> Iterator[tuple[Path, Path]]:
    """Such a clone, and the store that its objects are in."""
    with ground.mounted(*options) as (store, mountpoint), repository(ground) as clone:
        run(LFSFS, "attach", clone, "--name", "clone", "--mount", mountpoint)
        yield clone, store


# git add.


def adding(ground: Ground, files: Files) -> list[Row]:
    def ours(what: str, options: tuple[str, ...], number: int) -> float:
        with attached(ground, *options) as (clone, _):
            return added(clone, what)

    def native(what: str, number: int) -> float:
        with repository(ground) as clone:
            return added(clone, what)

    def added(clone: Path, what: str) -> float:
        getattr(files, what)(clone)
        return timed(lambda: run("git", "add", ".", where=clone))

    def peer(name: str, what: str, number: int) -> float:
        with other_repository(ground, name) as clone:
            getattr(files, what)(clone)
            target = "file.bin" if what == "one" else "many"
            adding = ("add", "--quiet", target)
            return timed(lambda: run(_found(name), *adding, where=clone))

    rows = []
    for what, name, bar in (
        ("one", f"git add of {files.size // MIB:,} MiB", 1.15),
        ("many", f"git add of {files.count:,} files of 4 KiB", 1.5),
    ):
        fast = ("--durability", "fast")
        rows += [
            Row(name, "s", partial(ours, what, ()), partial(native, what), NATIVE, ("<=", bar)),
            Row(f"{name}, durability fast", "s", partial(ours, what, fast), partial(native, what), NATIVE),
        ]
        rows += [
            Row(name, "s", partial(ours, what, ()), partial(peer, peer_name, what), f"{PEERS[peer_name]} add")
            for peer_name in PEERS
            if command(peer_name)
        ]
    return rows


@contextmanager
def other_repository(ground: Ground, name: str) -> Iterator[Path]:
    """Of git-annex or DVC; it goes with the block."""
    clone = ground.fresh("clone")
    run("git", "init", "-q", clone)
    run("git", "config", "annex.synccontent", "false", where=clone)
    run(_found(name), "init", *(["--quiet"] if name == "dvc" else []), where=clone)
    try:
        yield clone
    finally:
        run("chmod", "-R", "u+w", clone)  # git-annex takes the right to write from its objects
        shutil.rmtree(clone)


def _found(name: str) -> str:
    path = command(name)
    if path is None:
        raise SystemExit(f"{name} is not installed")
    return path


# git checkout.


class Checkouts:
    """A clone of each side, with the same large file committed."""

    def __init__(self, ground: Ground, files: Files, stack: ExitStack) -> None:
        self._ground = ground
        self._files = files
        self._stack = stack

    def rows(self) -> list[Row]:
        name = f"git checkout of {self._files.size // MIB:,} MiB"
        sides: dict[bool, tuple[Side, Side]] = {
            cold: (partial(self._checked_out, True, cold), partial(self._checked_out, False, cold))
            for cold in (False, True)
        }
        return [
            Row(f"{name}, warm", "s", *sides[False], NATIVE, ("<=", 1.10)),
            Row(f"{name}, cold", "s", *sides[True], NATIVE, ("<=", 1.25)),
        ]

    def _checked_out(self, ours: bool, cold: bool, number: int) -> float:
        clone, objects = self._ours if ours else self._native
        file = clone / "file.bin"
        file.unlink()
        forget_pages(*objects)
        if not cold:
            for path in reversed(objects):
                run("dd", f"if={path}", "of=/dev/null", "bs=1M")
        return timed(lambda: run("git", "checkout", "-q", "--", "file.bin", where=clone))

    @cached_property
    def _ours(self) -> tuple[Path, list[Path]]:
        """The clone, and where the object is: in the store, and as the clone sees it."""
        clone, store = self._stack.enter_context(attached(self._ground))
        oid = self._committed(clone)
        storage = Path(run("git", "config", "lfs.storage", where=clone).strip())
        return clone, [object_in(store, oid), object_in(storage, oid)]

    @cached_property
    def _native(self) -> tuple[Path, list[Path]]:
        clone = self._stack.enter_context(repository(self._ground))
        oid = self._committed(clone)
        return clone, [object_in(clone / ".git" / "lfs", oid)]

    def _committed(self, clone: Path) -> str:
        self._files.one(clone)
        author = ("-c", "user.name=lfsfs", "-c", "user.email=lfsfs@localhost")
        run("git", "add", ".", where=clone)
        run("git", *author, "commit", "-q", "-m", "a file", where=clone)
        with (clone / "file.bin").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def group(folder: Path, scale: float) -> Iterator[tuple[list[Row], list[str]]]:
    ground = Ground(folder, scale)
    files = Files(ground)
    with ExitStack() as stack:
        yield [*adding(ground, files), *Checkouts(ground, files, stack).rows()], notes()


def notes() -> list[str]:
    versions = [run("git", "lfs", "version").split()[0], run("git", "version").strip()]
    versions += [f"{PEERS[name]} {_version(name)}" for name in PEERS if command(name)]
    absent = {name: "scripts/install peers" for tool, name in PEERS.items() if command(tool) is None}
    return [f"{', '.join(versions)}.", *missing(absent)]


def _version(name: str) -> str:
    said = run(_found(name), "version" if name == "git-annex" else "--version")
    return said.splitlines()[0].removeprefix("git-annex version: ")
