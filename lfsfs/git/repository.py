"""A git repository, as far as attaching it to a mount needs to know it. Everything is asked of git itself."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lfsfs.errors import LfsfsError, NotFound

STORAGE = "lfs.storage"
_UNSET = 5  # `git config --unset` of what is not set
_NOT_A_TREE = 128  # `git ls-files` in a bare repository
_ABSENT = 1  # `git config --get` of what is not set


@dataclass(frozen=True)
class Clone:
    """One repository: `path` is what git was asked about, `directory` what all its worktrees share."""

    path: Path
    directory: Path

    @property
    def own_storage(self) -> Path:
        """Where git-lfs keeps objects when lfs.storage is not set."""
        return self.directory / "lfs"

    def name(self) -> str:
        """What a person calls it: the work tree's directory, or the bare repository's without .git."""
        named = self.directory.parent if self.directory.name == ".git" else self.directory
        return named.name.removesuffix(".git")

    def uses_lfs(self) -> bool:
        """Whether git-lfs keeps something here, or is to: by its storage, its configuration, or an attribute."""
        if self.own_storage.is_dir() or self.get(STORAGE) is not None:
            return True
        files = run_git(
            self.path, "ls-files", "-z", "--", ".gitattributes", "**/.gitattributes", absent=_NOT_A_TREE
        )
        for name in filter(None, (files or "").split("\0")):
            file = self.path / name
            if file.is_file() and b"filter=lfs" in file.read_bytes():
                return True
        return False

    def get(self, key: str) -> str | None:
        """The value in this repository's own configuration: not what the user or the machine has set."""
        return run_git(self.path, "config", "--local", "--get", key, absent=_ABSENT)

    def set(self, key: str, value: str) -> None:
        run_git(self.path, "config", "--local", key, value)

    def unset(self, key: str) -> None:
        """Not set is success."""
        run_git(self.path, "config", "--local", "--unset", key, absent=_UNSET)


def find_clone(path: Path) -> Clone:
    """The repository that `path` is in. NotFound where git knows none; its own words tell why."""
    if not path.is_dir():
        raise NotFound(f"no repository at {path}: it is not a directory")
    directory = run_git(path, "rev-parse", "--path-format=absolute", "--git-common-dir")
    return Clone(path, Path(os.path.realpath(directory or "")))


def run_git(path: Path, *arguments: str, absent: int | None = None) -> str | None:
    """What git prints, without the newline at its end; None where its exit status is `absent`."""
    try:
        done = subprocess.run(
            ["git", "-C", path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=_environment(path),
        )
    except FileNotFoundError as error:
        raise LfsfsError("git is not installed: it is in the package git (apt-get install git)") from error
    if done.returncode == 0:
        return os.fsdecode(done.stdout.removesuffix(b"\n"))
    if done.returncode == absent:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    reason = said[0].removeprefix("fatal: ").removeprefix("error: ") if said else f"git {arguments[0]} failed"
    raise (
        NotFound(f"{path}: {reason}") if "not a git repository" in reason else LfsfsError(f"{path}: {reason}")
    )


def ask_git(path: Path, said: str, *arguments: str) -> str:
    """What git answers when it is told this. LfsfsError, in git's own words."""
    done = subprocess.run(
        ["git", "-C", path, *arguments],
        input=said,
        capture_output=True,
        text=True,
        check=False,
        env=_environment(path),
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"git {arguments[0]} failed"]
        raise LfsfsError(lines[-1].removeprefix("fatal: "))
    return done.stdout


def _environment(path: Path) -> dict[str, str]:
    """Ours; without what a git that runs us (a hook) said of its repository, where another one is meant."""
    if path == Path():
        return dict(os.environ)
    kept = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in kept}
