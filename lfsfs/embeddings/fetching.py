"""Fetching: objects that pointers of a clone name, brought by one `git lfs fetch` of just those.

git-lfs fetches what a tree names. So the pointers are made a tree of their own, of any number, in an object directory
that is gone afterwards: `--include` would put all paths into one argument, which may have 128 KiB, and compare each
file of the commit with each of them.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import trio

from lfsfs.errors import LfsfsError, NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.pointer import Pointer

TRIES = 3  # beside those that git-lfs makes itself
FIRST_PAUSE_SECONDS = 1.0
SAID_LIMIT = 300
# What a git that runs us (a hook) said of its repository: `git rev-parse --local-env-vars`.
_LOCAL = frozenset(
    (
        *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_OBJECT_DIRECTORY", "GIT_DIR", "GIT_WORK_TREE"),
        *("GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_SHALLOW_FILE"),
        *("GIT_COMMON_DIR", "GIT_INTERNAL_SUPER_PREFIX"),
    )
)


@dataclass(frozen=True, slots=True)
class Clone:
    """The clone in which pointers lie: what all its work trees share, and where git-lfs keeps its objects."""

    top: Path
    directory: Path
    storage: Path

    def file(self, oid: Oid) -> Path:
        """Where the object is if git-lfs has it."""
        return self.storage / "objects" / oid.path()

    def has(self, pointer: Pointer) -> bool:
        try:
            return self.file(pointer.oid).stat().st_size == pointer.size
        except OSError:
            return False


async def find_clone(folder: Path) -> Clone:
    """The clone that a folder is in. NotFound; LfsfsError where git is not installed."""
    said = await _git(folder, "rev-parse", "--show-toplevel", "--path-format=absolute", "--git-common-dir")
    if said.status != 0:
        raise NotFound(f"{folder} has pointers, and is in no clone that could fetch what they name")
    top, directory = (Path(os.fsdecode(line)) for line in said.output.splitlines())
    configured = await _git(folder, "config", "--get", "lfs.storage")
    storage = os.fsdecode(configured.output.strip()) if configured.status == 0 else "lfs"
    return Clone(top, directory, directory / storage)


async def fetch(clone: Clone, pointers: Iterable[Pointer]) -> None:
    """Has git-lfs fetch what is missing; several times if it fails. What is then missing still is told by the error:
    Unavailable; LfsfsError where git-lfs is not installed.
    """
    pause = FIRST_PAUSE_SECONDS
    missing = [pointer for pointer in pointers if not clone.has(pointer)]
    said = ""
    for attempt in range(TRIES):
        if not missing:
            return
        if attempt:
            await trio.sleep(pause)
            pause *= 2
        if shutil.which("git-lfs") is None and (await _git(clone.top, "lfs", "version")).status != 0:
            raise LfsfsError(
                "git-lfs is not installed, and these embeddings are pointers whose objects are not here:"
                " install the package git-lfs (https://git-lfs.com), then `git lfs install`"
            )
        said = await _fetch_once(clone, missing)
        missing = [pointer for pointer in missing if not clone.has(pointer)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Unavailable(
            f"git lfs fetch did not bring {missing[0].oid}{more}: {said or 'it did not say why'}"
        )


async def _fetch_once(clone: Clone, pointers: list[Pointer]) -> str:
    """What git-lfs had to say, at its end."""
    remote = await _remote(clone)
    with tempfile.TemporaryDirectory(prefix="lfsfs-fetch-") as place:
        objects = Path(place) / "objects"
        objects.mkdir()
        surroundings = {
            "GIT_OBJECT_DIRECTORY": str(objects),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(clone.directory / "objects"),
        }
        tree = await _tree(clone, pointers, Path(place), surroundings)
        done = await _git(
            clone.top, "lfs", "fetch", "--include=", "--exclude=", remote, tree, environment=surroundings
        )
    lines = done.errors.decode(errors="replace").strip().splitlines()
    return " ".join(lines[-3:])[-SAID_LIMIT:]


async def _tree(clone: Clone, pointers: list[Pointer], place: Path, surroundings: dict[str, str]) -> str:
    """A tree that has these pointers, in the object directory of the surroundings."""
    texts = {f"{pointer.oid}.npz": pointer.encode() for pointer in pointers}
    for name, text in texts.items():
        (place / name).write_bytes(text)
    names = sorted(texts)
    listed = "".join(f"{place / name}\n" for name in names)
    blobs = await _git(
        clone.top, "hash-object", "-w", "--no-filters", "--stdin-paths",
        stdin=os.fsencode(listed), environment=surroundings,
    )  # fmt: skip
    oids = blobs.output.decode().split()
    lines = "".join(f"100644 blob {oid}\t{name}\n" for oid, name in zip(oids, names, strict=True))
    made = await _git(clone.top, "mktree", stdin=lines.encode(), environment=surroundings)
    if made.status != 0:
        raise LfsfsError(f"git mktree: {made.errors.decode(errors='replace').strip()}")
    return made.output.decode().strip()


async def _remote(clone: Clone) -> str:
    """That of the branch, else origin, else the only one. NotFound."""
    branch = await _git(clone.top, "symbolic-ref", "--short", "-q", "HEAD")
    name = branch.output.decode(errors="replace").strip()
    of_branch = await _git(clone.top, "config", "--get", f"branch.{name}.remote")
    there = (await _git(clone.top, "remote")).output.decode(errors="replace").split()
    chosen = of_branch.output.decode(errors="replace").strip()
    if chosen in there:
        return chosen
    if "origin" in there or len(there) == 1:
        return "origin" if "origin" in there else there[0]
    raise NotFound(f"{clone.top} has no remote from which its pointers could be fetched")


@dataclass(frozen=True, slots=True)
class _Done:
    status: int
    output: bytes
    errors: bytes


async def _git(
    folder: Path, *arguments: str, stdin: bytes = b"", environment: dict[str, str] | None = None
) -> _Done:
    kept = {name: value for name, value in os.environ.items() if name not in _LOCAL}
    try:
        done = await trio.run_process(
            ["git", "-C", folder, *arguments], stdin=stdin, capture_stdout=True, capture_stderr=True, check=False,
            env={**kept, "GIT_TERMINAL_PROMPT": "0", **(environment or {})},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise LfsfsError("git is not installed") from error
    return _Done(done.returncode, done.stdout, done.stderr)
