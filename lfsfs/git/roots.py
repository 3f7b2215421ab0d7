"""Repository roots, repos/NAME of a mount: making one, and knowing whose it is.

A root is never shared by accident, since prune in one clone would drop what another refers to. So a root says
whose it is, in a file below cache/, where git-lfs keeps files of its own.
"""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from lfsfs.errors import Exists, InvalidName, Refused
from lfsfs.git.objects import as_lfsfs_error
from lfsfs.git.repository import Clone
from lfsfs.store.layout import check_repository_name

OWNER_FILE = Path("cache/lfsfs-clone.json")
IMPORTED_FILE = Path("cache/lfsfs-imported.json")
"""As OWNER_FILE, of a root that `lfsfs import` made: the clone does not use it yet, and gc does not read the clone."""
NAME_CHARACTERS = 100
LAST_NUMBER = 10_000


def take_root(roots: Path, name: str, clone: Clone) -> Path:
    """Makes the root of that name, or takes one that is there and no living clone's. Exists if it is one's.

    For a name that a person gave, or that the clone had before. A clone that cannot be seen from here, on
    another host, counts as living.
    """
    root = roots / check_repository_name(name)
    if not _make(root) and is_anothers(root, clone):
        raise Exists(
            f"{root} belongs to the clone {_claimant(root)}: give another --name, or remove that root"
        )
    _claim(root, clone)
    return root


def new_root(roots: Path, clone: Clone) -> Path:
    """Makes a root named after the clone, with a number where that is taken; or finds the one that it had."""
    for root in (roots / name for name in names_for(clone)):
        if _make(root) or is_its_own(root, clone):
            _claim(root, clone)
            return root
    raise Refused(f"{roots} has {LAST_NUMBER} roots named {safe_name(clone.name())}: give --name NAME")


def names_for(clone: Clone) -> Iterator[str]:
    """What a root of the clone may be named, best first."""
    stem = safe_name(clone.name())
    yield stem
    yield from (f"{stem}-{number}" for number in range(2, LAST_NUMBER + 1))


def is_its_own(root: Path, clone: Clone) -> bool:
    """Whether the root says that it is this clone's, or was imported from it and is no other's."""
    said = owner(root)
    return (imported_from(root) if said is None else said) == _identity(clone)


def note_import(root: Path, clone: Clone) -> None:
    """The root, made just now, was imported from this clone: if that is attached one day, it is its own."""
    _write(root / IMPORTED_FILE, clone)


def is_anothers(root: Path, clone: Clone) -> bool:
    """Whether a clone other than this one says that the root is its own, and may well be right.

    It is not where it was, on this host: then it was moved, and may be this one, or was removed.
    """
    claimed = owner(root)
    if claimed is None or claimed == _identity(clone):
        return False
    host, directory = claimed
    return host != socket.gethostname() or os.path.exists(directory)


def renew_claim(root: Path, clone: Clone) -> None:
    """The root says that it is this clone's, which may have been moved, or have been told by an older lfsfs."""
    if owner(root) != _identity(clone):
        _claim(root, clone)


def safe_name(text: str) -> str:
    """A repository name as like `text` as may be."""
    kept = "".join(letter if letter.isalnum() or letter in "._-+" else "-" for letter in text)
    name = kept.strip(".-")[:NAME_CHARACTERS]
    while len(name.encode()) > 2 * NAME_CHARACTERS:
        name = name[:-1]
    try:
        return check_repository_name(name)
    except InvalidName:
        return "repository"


def _make(root: Path) -> bool:
    """Whether this made it; False: it is there."""
    try:
        root.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise as_lfsfs_error(error, f"cannot make {root}") from error
    return True


def _identity(clone: Clone) -> tuple[str, str]:
    return socket.gethostname(), str(clone.directory)


def owner(root: Path) -> tuple[str, str] | None:
    """Host and git directory of the clone whose root it is; None where nothing says."""
    return _said(root / OWNER_FILE)


def imported_from(root: Path) -> tuple[str, str] | None:
    """The same of the clone whose objects were imported into it; None where nothing says."""
    return _said(root / IMPORTED_FILE)


def _said(file: Path) -> tuple[str, str] | None:
    try:
        said = json.loads(file.read_text())
        return str(said["host"]), str(said["directory"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _claimant(root: Path) -> str:
    host, directory = owner(root) or ("", "")
    return f"{directory} (on {host})"


def _claim(root: Path, clone: Clone) -> None:
    _write(root / OWNER_FILE, clone)


def _write(file: Path, clone: Clone) -> None:
    host, directory = _identity(clone)
    try:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"host": host, "directory": directory}) + "\n")
    except OSError as error:
        raise as_lfsfs_error(error, f"cannot write {file}") from error
