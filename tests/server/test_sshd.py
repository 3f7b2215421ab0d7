"""The real sshd on the loopback: the line of authorized_keys that docs/ACCESS.md shows, and stock git-lfs."""

import getpass
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gitlfs.bench import GIT_SECONDS, Clone
from gitlfs.mounted import LFSFS

from lfsfs.server.access import editing
from lfsfs.store.layout import open_layout

from .served import free_port

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
START_SECONDS = 20
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
"""


class Sshd:
    """Entered, it answers at `port`; left, it is gone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.port = free_port()
        for name in ("host_key", "alice"):
            self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
        (folder / "sshd_config").write_text(CONFIG.format(port=self.port, folder=folder))

    def authorize(self, key: str, options: str) -> None:
        public = (self.folder / f"{key}.pub").read_text()
        (self.folder / "authorized_keys").write_text(f"{options} {public}")

    def command(self, key: str) -> str:
        """For GIT_SSH_COMMAND."""
        return (
            f"ssh -F none -i {self.folder / key} -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes"
            f" -o StrictHostKeyChecking=no -o UserKnownHostsFile={self.folder / 'known_hosts'} -o LogLevel=ERROR"
        )

    def __enter__(self) -> "Sshd":
        if os.geteuid() == 0:  # where it drops its rights
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        assert SSHD is not None, "sshd is missing: run `scripts/install tests`"
        log = self.folder / "sshd.log"
        self._process = subprocess.Popen([SSHD, "-D", "-f", self.folder / "sshd_config", "-E", log])
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(START_SECONDS)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _run(self, *command: str | Path) -> None:
        subprocess.run(command, check=True, timeout=GIT_SECONDS)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    with Sshd(tmp_path / "sshd") as sshd:
        yield sshd


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory in whose path the socket fits that git-lfs has its connections share."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_a_team_with_nothing_but_sshd(
    sshd: Sshd, tmp_path: Path, short: Path, git_env: dict[str, str]
) -> None:
    store, repositories = tmp_path / "store", tmp_path / "git"
    store.mkdir()
    open_layout(store, create=True)
    (store / "lfsfs.toml").write_text(f'[access]\nssh_root = "{repositories}"\n')
    editing.add_user(store / "users.toml", "alice", None)
    editing.grant(store / "users.toml", "alice", "write", "studio/*")
    sshd.authorize("alice", f'command="{LFSFS} ssh-session --store {store} --user alice",restrict')

    env = git_env | {"GIT_SSH_COMMAND": sshd.command("alice"), "TMPDIR": str(short)}
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{sshd.port}"
    for name in ("studio/game", "other/film"):
        subprocess.run(
            ["git", "init", "-q", "--bare", repositories / f"{name}.git"],
            env=env, check=True, timeout=GIT_SECONDS,
        )  # fmt: skip

    content = random.Random("sshd").randbytes(3_000_000)
    ann = _clone(tmp_path / "ann", env)
    ann.git("init", "-q")
    ann.git("remote", "add", "origin", f"{url}/studio/game.git")
    ann.config("lfs.concurrenttransfers", "2")
    ann.track()
    ann.commit({"a.bin": content, "b.bin": content[::-1]})
    ann.git("push", "-q", "origin", "main")
    ben = _clone(tmp_path / "ben", env)
    ben.git("clone", "-q", f"{url}{repositories}/studio/game.git", ".")
    assert ben.read("a.bin") == content

    ann.git("remote", "set-url", "origin", f"{url}/other/film.git")
    assert "no repository other/film" in ann.fails("push", "-q", "origin", "main")
    shell = subprocess.run(
        [*sshd.command("alice").split(), "-p", str(sshd.port), f"{getpass.getuser()}@127.0.0.1", "id"],
        capture_output=True, text=True, timeout=GIT_SECONDS, check=False,
    )  # fmt: skip
    assert shell.returncode == 4
    assert "this key is for Git and Git LFS" in shell.stderr


def _clone(path: Path, env: dict[str, str]) -> Clone:
    path.mkdir()
    return Clone(path, path / ".git" / "lfs", env)
