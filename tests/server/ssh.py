"""A host that people reach by SSH: bare repositories, a store, and what sshd runs for their keys, run here instead."""

import subprocess
from pathlib import Path

from gitlfs.bench import GIT_SECONDS, Clone
from gitlfs.mounted import LFSFS

SSH = """#!/bin/sh
# As ssh(1): options, USER@HOST, the command. What sshd does then is to run the one command of the user's key.
while :; do
    case "$1" in
        -o | -p | -l) shift 2 ;;
        --) shift; break ;;
        -*) shift ;;
        *) break ;;
    esac
done
user=${{1%%@*}}
shift
echo "$user $*" >> {log}
case "$*" in git-lfs-transfer*) [ -z "$WITHOUT_TRANSFER" ] || {{ echo "not found" >&2; exit 127; }} ;; esac
unset GIT_DIR GIT_WORK_TREE GIT_PREFIX
SSH_ORIGINAL_COMMAND="$*" HOME={home} exec {lfsfs} ssh-session --store {store} --user "$user"
"""


class SshHost:
    """`folder`/git is where the repositories lie, and the home of the account. `verify_locks`: of clones."""

    def __init__(self, folder: Path, store: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.store = store
        self.repositories = folder / "git"
        self.repositories.mkdir(parents=True)
        self.verify_locks = False
        self._log = folder / "ssh.log"
        self._log.touch()
        script = folder / "ssh"
        script.write_text(SSH.format(log=self._log, home=self.repositories, lfsfs=LFSFS, store=store))
        script.chmod(0o755)
        self.env = env | {"GIT_SSH_COMMAND": str(script), "GIT_SSH_VARIANT": "ssh"}

    def repository(self, name: str) -> None:
        path = self.repositories / f"{name}.git"
        subprocess.run(["git", "init", "-q", "--bare", path], env=self.env, check=True, timeout=GIT_SECONDS)

    def first(self, user: str, name: str, **env: str) -> Clone:
        """A new repository of the user's, that tracks *.bin, with the host's as its origin."""
        path = self.folder / user
        subprocess.run(["git", "init", "-q", path], env=self.env, check=True, timeout=GIT_SECONDS)
        clone = Clone(path, path / ".git" / "lfs", self.env | env)
        clone.git("remote", "add", "origin", f"{user}@host:{name}.git")
        self._configure(clone)
        clone.track()
        return clone

    def clone(self, user: str, name: str, **env: str) -> Clone:
        """A clone, with its LFS files."""
        path = self.folder / user
        path.mkdir()
        clone = Clone(path, path / ".git" / "lfs", self.env | env)
        clone.git("clone", "-q", "--no-checkout", f"{user}@host:{name}.git", ".")
        self._configure(clone)
        clone.git("checkout", "-q", "main")
        return clone

    @property
    def log(self) -> str:
        """A line for each connection: the user, and the command."""
        return self._log.read_text()

    def _configure(self, clone: Clone) -> None:
        clone.config("lfs.concurrenttransfers", "1")  # each is a connection, and a process
        clone.config("lfs.locksverify", str(self.verify_locks).lower())
        clone.config("lfs.transfer.maxretries", "1")
