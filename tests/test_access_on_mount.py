"""Who may do what in the mount: each role does what is its own, and EACCES is all it gets beyond."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gitlfs.bench import git_environment
from gitlfs.mounted import Mount
from server.served import refused
from test_promises import commit, drop, oid_of

from lfsfs.config_policy import PermissionOptions
from lfsfs.errors import InvalidConfig
from lfsfs.fuse import Caller
from lfsfs.mount.access import Role, Roles, groups_of

READER, WRITER, ADMIN, STRANGER = 5001, 5002, 5003, 5004
ARTISTS = 6002  # a group, of which the writer is by the process alone
CONFIG = f"""
[mount]
allow_other = true
umask = "000"
delete = "allow"

[permissions]
admins = ["{ADMIN}"]
writers = ["@{ARTISTS}"]
readers = ["{READER}"]
"""
SHARED, OWN = b"an object of the shared root", b"an object of a repository"

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


def become(uid: int) -> list[str]:
    """What makes a command that user's, who is in the group ARTISTS if he is the writer."""
    groups = f"--groups={ARTISTS}" if uid == WRITER else "--clear-groups"
    return [*AS_ROOT, "setpriv", f"--reuid={uid}", f"--regid={uid}", groups]


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    folder = Path(tempfile.mkdtemp(prefix="lfsfs-access-"))
    folder.chmod(0o755)  # others go by it to the mount
    (folder / "lfsfs.toml").write_text(CONFIG)
    try:
        with Mount(folder, "--config", str(folder / "lfsfs.toml")) as mount:
            (mount.path / "repos" / "r").mkdir()
            drop(mount, "there", b"there")
            (mount.path / "incoming" / "there").chmod(0o666)
            commit(mount.path, SHARED)
            yield mount
    finally:
        shutil.rmtree(folder)


def attempt(mount: Mount, uid: int, script: str) -> str:
    """What the shell says when this user runs it in the mount; "" where all of it went well."""
    done = subprocess.run(
        [*become(uid), "sh", "-ec", f"umask 0; {script}"], cwd=mount.path, capture_output=True, text=True,
        timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stderr if done.returncode else ""


def path(content: bytes, root: str = ".") -> str:
    oid = oid_of(content)
    return f"{root}/objects/{oid[:2]}/{oid[2:4]}/{oid}"


READING = [
    "ls incoming objects repos/r >&2 && exit 0",
    "cat incoming/there",
    f"cat {path(SHARED)}",
    "stat -f .",
    "cat .lfsfs/status",
    "echo git-lfs > tmp/own && mv tmp/own tmp/other && rm tmp/other",
    "echo git-lfs > repos/r/lockcache.db && rm repos/r/lockcache.db",
    "mkdir -p repos/r/cache/locks && rmdir repos/r/cache/locks",
]
WRITING = [
    "echo new > incoming/new",
    "echo more >> incoming/there",
    "truncate -s 3 incoming/there",
    "mkdir incoming/directory",
    "ln -s there incoming/symbolic",
    "ln incoming/there incoming/hard",
    "echo new > incoming/new && touch -d 2020-01-01 incoming/new && chmod 600 incoming/new",
    "mv incoming/renamed-by-admin incoming/renamed",
    "rm incoming/removed-by-admin",
    f"printf 'new object' > tmp/file && mv tmp/file {path(b'new object')}",
    f"printf 'of r' > repos/r/tmp/file && mv repos/r/tmp/file {path(b'of r', 'repos/r')}",
    f"printf 'linked' > tmp/file && ln tmp/file {path(b'linked')}",
    f"rm {path(OWN, 'repos/r')}",
    "mkdir repos/made",
    "mkdir embeddings/made",
]
ADMINISTERING = [f"rm -f {path(SHARED)}", "rmdir repos/empty"]


@pytest.fixture
def furnished(mount: Mount) -> Iterator[None]:
    """What the scripts work on is there, and what they made is gone afterwards."""
    commit(mount.path, SHARED)
    commit(mount.path / "repos" / "r", OWN)
    (mount.path / "repos" / "empty").mkdir(exist_ok=True)
    for name in ("renamed-by-admin", "removed-by-admin"):
        drop(mount, name, name.encode())
    yield
    for name in ("new", "symbolic", "hard", "renamed", "renamed-by-admin", "removed-by-admin"):
        (mount.path / "incoming" / name).unlink(missing_ok=True)
    for directory in ("incoming/directory", "repos/made", "embeddings/made"):
        if (mount.path / directory).is_dir():
            (mount.path / directory).rmdir()
    for temp in (mount.path / "tmp", mount.path / "repos" / "r" / "tmp"):
        for file in temp.iterdir():
            file.unlink()


@pytest.mark.promise("17.1")
@pytest.mark.parametrize("script", READING, ids=range(len(READING)))
def test_a_reader_reads_and_has_git_lfs_keep_its_own_files_and_a_stranger_has_nothing(
    mount: Mount, script: str
) -> None:
    for uid in (READER, WRITER, ADMIN):
        assert attempt(mount, uid, script) == ""
    assert "Permission denied" in attempt(mount, STRANGER, script)


@pytest.mark.promise("17.2")
@pytest.mark.usefixtures("furnished")
@pytest.mark.parametrize("script", WRITING, ids=range(len(WRITING)))
def test_a_writer_by_a_group_of_the_process_changes_what_is_there_and_a_reader_does_not(
    mount: Mount, script: str
) -> None:
    for uid in (STRANGER, READER):
        assert "Permission denied" in attempt(mount, uid, script)
    assert attempt(mount, WRITER, script) == ""


@pytest.mark.promise("17.3")
@pytest.mark.usefixtures("furnished")
@pytest.mark.parametrize("script", ADMINISTERING, ids=["unlink", "rmdir"])
def test_only_an_admin_deletes_for_everybody(mount: Mount, script: str) -> None:
    for uid in (STRANGER, READER, WRITER):
        assert "Permission denied" in attempt(mount, uid, script)
    assert attempt(mount, ADMIN, script) == ""


@pytest.mark.promise("17.1")
def test_the_modes_count_beside_the_roles(mount: Mount) -> None:
    private = mount.path / "incoming" / "there"
    private.chmod(0o600)
    try:
        assert "Permission denied" in attempt(mount, WRITER, "cat incoming/there")
    finally:
        private.chmod(0o666)


@pytest.mark.promise("17.1")
def test_a_reader_checks_out_with_git_lfs_and_adds_nothing(mount: Mount, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="lfsfs-reader-"))
    env = git_environment(folder)
    content = b"of the clone" * 1000
    oid = commit(mount.path, content)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n"
    script = f"""
        git init -q clone && cd clone
        git config lfs.storage {mount.path} && git lfs install --local >/dev/null
        echo '*.bin filter=lfs diff=lfs merge=lfs -text' >.gitattributes
        printf '%s' '{pointer}' >a.bin
        git add . && git commit -q -m pointer
        rm a.bin && git checkout -- a.bin && sha256sum <a.bin
        touch -d 2020-01-01 a.bin && git status --porcelain
        echo nobody has this >b.bin && ! git add b.bin
    """
    try:
        folder.chmod(0o777)
        for file in folder.iterdir():
            file.chmod(0o777 if file.is_dir() else 0o666)
        done = subprocess.run(
            [*become(READER), "env", *(f"{name}={value}" for name, value in env.items()), "sh", "-ec", script],
            cwd=folder, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [oid, "-"]
        assert "clean filter 'lfs' failed" in done.stderr
    finally:
        subprocess.run([*AS_ROOT, "rm", "-r", folder], check=True, timeout=60)


# Who has which role.


def test_the_greatest_role_of_user_and_groups_counts() -> None:
    roles = Roles(PermissionOptions(("daemon", "@6001"), ("@6002", "7"), ("*", "@6001")))
    nobody = 2**22  # a pid beyond all that there are
    assert roles.of(Caller(1, 1, nobody)) is Role.ADMIN, "the user daemon"
    assert roles.of(Caller(7, 7, nobody)) is Role.WRITER
    assert roles.of(Caller(8, 6002, nobody)) is Role.WRITER
    assert roles.of(Caller(8, 6001, nobody)) is Role.ADMIN
    assert roles.of(Caller(8, 8, nobody)) is Role.READER
    assert roles.of(Caller(0, 0, nobody)) is Role.ADMIN
    assert Roles(PermissionOptions((), (), ("7",))).of(Caller(8, 8, nobody)) is Role.NONE


def test_the_groups_are_those_of_the_process_or_where_it_is_not_to_be_seen_of_the_user() -> None:
    own = {os.getegid(), *os.getgroups()}
    assert groups_of(Caller(os.geteuid(), os.getegid(), os.getpid())) == own
    assert groups_of(Caller(5006, 5006, os.getpid())) == {5006}, "it is another's process by now"
    assert groups_of(Caller(1, 77, 0)) >= {77}
    assert groups_of(Caller(1, 77, 2**22)) == groups_of(Caller(1, 77, 0))


@pytest.mark.parametrize("who", ["no-such-user", "@no-such-group"])
def test_a_name_that_the_machine_does_not_know_is_an_error_at_the_start(tmp_path: Path, who: str) -> None:
    with pytest.raises(InvalidConfig, match="this machine does not know"):
        Roles(PermissionOptions((), (), (who,)))
    (tmp_path / "lfsfs.toml").write_text(f'[permissions]\nreaders = ["{who}"]\n')
    (tmp_path / "mnt").mkdir()
    said = refused("mount", tmp_path / "store", tmp_path / "mnt", "--config", tmp_path / "lfsfs.toml")
    assert "this machine does not know" in said
