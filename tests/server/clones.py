"""A bare repository on the disk, and clones of it whose LFS objects go to a server."""

import subprocess
from pathlib import Path

from gitlfs.bench import GIT_SECONDS, Clone


class Team:
    """People who share a repository. `url`: the LFS server of all of them."""

    def __init__(self, folder: Path, env: dict[str, str], url: str) -> None:
        self.folder = folder
        self.env = env
        self.url = url
        self.origin = folder / "origin.git"
        self._run("git", "init", "-q", "--bare", self.origin)

    def first(self, name: str, **config: str) -> Clone:
        """A new repository that tracks *.bin."""
        clone = self._clone(name)
        self._run("git", "init", "-q", clone.path)
        clone.git("remote", "add", "origin", self.origin.as_uri())
        self._configure(clone, config)
        clone.track()
        return clone

    def clone(self, name: str, **config: str) -> Clone:
        """A clone, with nothing checked out yet."""
        clone = self._clone(name)
        self._run("git", "clone", "-q", "--no-checkout", self.origin.as_uri(), clone.path)
        self._configure(clone, config)
        return clone

    def pushed(self, name: str, files: dict[str, bytes]) -> tuple[Clone, dict[str, str]]:
        """A first clone that has pushed these files; the oid of each."""
        clone = self.first(name)
        oids = clone.commit(files)
        clone.git("push", "-q", "-u", "origin", "main")
        return clone, oids

    def _configure(self, clone: Clone, config: dict[str, str]) -> None:
        clone.config("lfs.url", config.pop("url", self.url))
        clone.config("lfs.locksverify", "true")
        for key, value in config.items():
            clone.config(f"lfs.{key}", value)

    def _clone(self, name: str) -> Clone:
        path = self.folder / name
        return Clone(path, path / ".git" / "lfs", dict(self.env))

    def _run(self, *command: str | Path) -> None:
        subprocess.run(list(command), env=self.env, check=True, capture_output=True, timeout=GIT_SECONDS)
