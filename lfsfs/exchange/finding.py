"""Finding: the clones, and the folders of objects, in a tree of files.

Nothing is asked of git: a repository of somebody else's is found as well. No symbolic link is followed, but that of a
clone to its own storage.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lfsfs.errors import LfsfsError, NotFound
from lfsfs.exchange.forms import is_digits, is_pair, named
from lfsfs.git.repository import STORAGE, Clone, run_git
from lfsfs.mounts import lfsfs_mounts, located, mount_of, views
from lfsfs.oid import OID_HEX_DIGITS, Oid

Kind = Literal["clone", "storage", "repository", "bucket"]


@dataclass(frozen=True)
class Source:
    """Where objects lie. `repository`: what they are to be referred to by, unless somebody says otherwise.

    clone: a git repository's objects, in `path`; storage: `path`/aa/bb/…, of whichever program; repository: `path`/oid.
    `clone` None: nobody's. `attached`: the clone keeps its objects in a mount of lfsfs already.
    """

    kind: Kind
    path: Path
    repository: str
    clone: Clone | None = None
    attached: bool = False


@dataclass(frozen=True, slots=True)
class FoundObject:
    """A file that is named as an object is; whether it holds that object is to be seen."""

    oid: Oid
    path: Path
    size: int


@dataclass
class Problems:
    """What could not be read, or is not what it should be: a sentence each, and in which path."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: str | Path, why: str) -> None:
        self.found.append((os.fspath(path), why))

    def of(self, error: OSError, path: str | Path) -> None:
        self.add(error.filename if isinstance(error.filename, str) else path, error.strerror or str(error))


def find(place: Path, problems: Problems, but: Path | None = None) -> Iterator[Source]:
    """All sources in the tree at `place`, which may be one itself. NotFound where there is nothing at all.

    What is mounted by lfsfs is left out, and so is the folder `but`: the store into which all goes.
    """
    top = located(place)
    if not top.is_dir():
        raise NotFound(f"nothing to import at {place}: it is not a directory")
    owner = _owner_of_storage(top)
    if owner is not None:
        yield from _of_clone(owner, problems)
        return
    yield from _walk(top, problems, but)


def find_clones(place: Path, problems: Problems) -> Iterator[Clone]:
    """All git repositories in the tree: clones, bare ones, submodules; each once, however many worktrees it has."""
    top = located(place)
    if not top.is_dir():
        raise NotFound(f"no directory at {place}")
    for source in _walk(top, problems):
        if source.clone is not None:
            yield source.clone


def objects(source: Source, problems: Problems) -> Iterator[FoundObject]:
    """The objects of a source, in the order of their oids as far as one folder goes."""
    if source.kind == "repository":
        yield from _in_folder(source.path, (), problems)
        return
    for first in _folders(source.path, problems):
        for second in _folders(source.path / first, problems) if is_pair(first) else []:
            if is_pair(second):
                yield from _in_folder(source.path / first / second, (first, second), problems)


def _in_folder(folder: Path, above: tuple[str, ...], problems: Problems) -> Iterator[FoundObject]:
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                object_ = named((*above, entry.name))
                if object_ is None or object_.split != bool(above):
                    continue
                if not entry.is_file(follow_symlinks=False):
                    problems.add(entry.path, "is no regular file: left where it is")
                    continue
                size = entry.stat(follow_symlinks=False).st_size
                found.append(FoundObject(object_.oid, Path(entry.path), size))
    except FileNotFoundError:
        return  # a prune was quicker
    except OSError as error:
        problems.of(error, folder)
    yield from sorted(found, key=lambda one: one.oid)


def _walk(top: Path, problems: Problems, but: Path | None = None) -> Iterator[Source]:
    """In the work tree of a clone, only other clones are looked for."""
    mountpoints = {entry.mountpoint for entry in (*lfsfs_mounts(), *views())}
    passed_by = {*mountpoints, *([] if but is None else [Path(os.path.realpath(but))])}
    seen: set[Path] = set()  # git directories
    waiting = [(top, False)]
    while waiting:
        folder, inside = waiting.pop()
        if folder in passed_by:
            continue
        clone = clone_at(folder)
        if clone is not None:
            inside = True
            if clone.directory not in seen:
                seen.add(clone.directory)
                yield from _of_clone(clone, problems)
                waiting += [(modules, True) for modules in (clone.directory / "modules",) if modules.is_dir()]
            if clone.directory == folder:  # bare: what lies in it is git's
                continue
        names = _folders(folder, problems)
        passed = {".git"} if clone is not None else set()
        if not inside:
            passed = {name for name in names if is_pair(name) and _has_objects(folder / name, problems)}
            yield from _storage_at(top, folder, bool(passed), problems)
        waiting += [(folder / name, inside) for name in reversed(names) if name not in passed]


def _storage_at(top: Path, folder: Path, split: bool, problems: Problems) -> Iterator[Source]:
    """The folder itself, where objects lie in it or (`split`) below it by the digits of their oids."""
    if split:
        whole = folder.parent if folder.name == "objects" else folder
        yield Source("storage", folder, whole.name or "imported")
    if _holds(folder, OID_HEX_DIGITS, problems):
        parts = folder.relative_to(top).parts
        name = "/" + "/".join(parts[-2:]) if len(parts) >= 2 else folder.name
        yield Source("repository", folder, name or "imported")


def _has_objects(folder: Path, problems: Problems) -> bool:
    """Whether folder/bb has something that is named as an object is."""
    for name in _folders(folder, problems):
        if is_pair(name):
            try:
                with os.scandir(folder / name) as entries:
                    if any(named((folder.name, name, entry.name)) is not None for entry in entries):
                        return True
            except OSError as error:
                problems.of(error, folder / name)
    return False


def _holds(folder: Path, digits: int, problems: Problems) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(
                is_digits(entry.name, digits) and entry.is_file(follow_symlinks=False) for entry in entries
            )
    except OSError as error:
        problems.of(error, folder)
        return False


def _folders(folder: Path, problems: Problems) -> list[str]:
    """The names of the folders in it, sorted; no symbolic link is one."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.of(error, folder)
        return []


# Clones.


def clone_at(folder: Path) -> Clone | None:
    """The repository whose work tree begins here, or which is bare and lies here."""
    inner = folder / ".git"
    if inner.is_dir() and _is_git(inner):
        return Clone(folder, _real(inner))
    if inner.is_file():
        directory = _pointed(inner)
        return None if directory is None else Clone(folder, directory)
    return Clone(folder, _real(folder)) if _is_git(folder) else None


def _is_git(folder: Path) -> bool:
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir()


def _pointed(file: Path) -> Path | None:
    """The git directory that the .git file of a worktree, or of a submodule, leads to: that of all worktrees."""
    try:
        word, _, where = file.read_text().partition(":")
        if word != "gitdir":
            return None
        directory = file.parent / where.strip()
        shared = directory / "commondir"
        if shared.is_file():
            directory = directory / shared.read_text().strip()
    except (OSError, ValueError):
        return None
    return _real(directory) if _is_git(directory) else None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _owner_of_storage(place: Path) -> Clone | None:
    """The clone, where somebody names its .git, its .git/lfs or its .git/lfs/objects."""
    for path, inner in ((place, ".git"), (place.parent, "lfs"), (place.parent.parent, "objects")):
        if inner == ".git":
            if place.name == ".git" and _is_git(place):
                return Clone(place.parent, _real(place))
        elif place.name == inner and _is_git(path):
            return Clone(path.parent if path.name == ".git" else path, _real(path))
    return None


def _of_clone(clone: Clone, problems: Problems) -> Iterator[Source]:
    """Its own storage, and the one that its lfs.storage names."""
    name = clone.name()
    try:
        said = run_git(clone.directory, "config", "--file", "config", "--get", STORAGE, absent=1)
    except LfsfsError as error:
        problems.add(clone.directory, str(error))
        said = None
    other = None if said is None else clone.directory / os.path.expanduser(said)
    attached = other is not None and mount_of(other) is not None
    yield Source("clone", _real(clone.own_storage / "objects"), name, clone, attached)
    if other is not None and not attached and _real(other) != _real(clone.own_storage):
        yield Source("clone", _real(other / "objects"), name, clone)
