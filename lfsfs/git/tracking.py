"""What a work tree needs so that git-lfs tracks the npz files of a collection: the rule in .gitattributes."""

import os
from dataclasses import dataclass
from pathlib import Path

from lfsfs import durable
from lfsfs.errors import InvalidConfig, Refused
from lfsfs.git.repository import STORAGE, run_git

ATTRIBUTES = ".gitattributes"
RULE = "filter=lfs diff=lfs merge=lfs -text"
FILES = "*.npz"
_UNSET = 1  # `git config --get` of what is not set


@dataclass(frozen=True)
class WorkTree:
    """The work tree of a repository, and a directory in it, relative to its top, where a collection is to be seen."""

    top: Path
    directory: str

    @property
    def mountpoint(self) -> Path:
        return self.top / self.directory

    @property
    def rule(self) -> str:
        """The line that `git lfs track` would write: git's attributes have no quoting for white space in patterns."""
        pattern = f"{self.directory}/{FILES}".replace(" ", "[[:space:]]").replace("#", "\\#")
        return f"{pattern} {RULE}"

    def has_filter(self) -> bool:
        """Whether git knows the filter at all: `git lfs install` tells it."""
        return bool(run_git(self.top, "config", "--get", "filter.lfs.clean", absent=_UNSET))

    def storage(self) -> str | None:
        """lfs.storage, if it is set."""
        return run_git(self.top, "config", "--get", STORAGE, absent=_UNSET)

    def has_tracked_files(self) -> bool:
        """Whether git's index has files below the directory."""
        return bool(run_git(self.top, "ls-files", "--", f":(top,literal){self.directory}"))


def find_work_tree(path: Path, directory: str) -> WorkTree:
    """NotFound where there is no repository; InvalidConfig where `directory` is no place in the work tree."""
    found = run_git(path, "rev-parse", "--show-toplevel") if path.is_dir() else None
    if not found:
        raise Refused(f"{path} has no work tree: only a work tree can show embeddings")
    top = Path(os.path.realpath(found))
    parts = Path(directory).parts
    if not parts or Path(directory).is_absolute() or ".." in parts or ".git" in parts:
        raise InvalidConfig(f"not a directory in the work tree: {directory!r}")
    if not directory.isprintable() or "\\" in directory or set(directory) & set('*?[]"'):
        raise InvalidConfig(f"{directory!r} has characters that a pattern of {ATTRIBUTES} cannot have")
    return WorkTree(top, "/".join(parts))


def add_rule(tree: WorkTree) -> bool:
    """Writes the rule, once; whether it was not there before."""
    file = tree.top / ATTRIBUTES
    text = _read(file)
    if tree.rule in text.splitlines():
        return False
    _write(file, text + ("" if not text or text.endswith("\n") else "\n") + tree.rule + "\n")
    return True


def remove_rule(tree: WorkTree) -> bool:
    """Takes the rule away, and the file if nothing else is in it; whether there was one."""
    file = tree.top / ATTRIBUTES
    lines = _read(file).splitlines(keepends=True)
    kept = [line for line in lines if line.rstrip("\r\n") != tree.rule]
    if len(kept) == len(lines):
        return False
    if kept:
        _write(file, "".join(kept))
    else:
        file.unlink()
    return True


def _read(file: Path) -> str:
    """Bytes that are no UTF-8 as surrogates."""
    return file.read_bytes().decode("utf-8", "surrogateescape") if file.exists() else ""


def _write(file: Path, text: str) -> None:
    """Whole or not at all; where it is a symbolic link, what that names."""
    target = Path(os.path.realpath(file))
    fresh = target.with_name(f".{target.name}.lfsfs")
    fresh.write_bytes(text.encode("utf-8", "surrogateescape"))
    if target.exists():
        fresh.chmod(target.stat().st_mode & 0o777)
    durable.rename(fresh, target, "rename-attributes")
