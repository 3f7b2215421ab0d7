"""What the options of `lfsfs mount` change in the tree: modes, owners, attributes, the age of abandoned downloads."""

import errno
import json
import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from gitlfs.mounted import LFSFS, Mount, is_running, lfsfs, within
from test_promises import commit, drop, oid_of, path_in

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]

OWN_DIRECTORIES = [
    ".", "incoming", "objects", "objects/00", "objects/00/00", "repos", "repos/r", "repos/r/objects",
    *(f"{root}{name}" for root in ("", "repos/r/") for name in ("tmp", "incomplete", "bad", "logs", "cache")),
]  # fmt: skip
NOBODY = 65534
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """A mount that the test starts itself, with the options that it wants."""
    mount = Mount(tmp_path / "own")
    yield mount
    mount.stop()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --umask, --uid, --gid, --allow-other.


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_the_mounts_own_directories_go_without_the_umask(mount: Mount, umask: str) -> None:
    mount.start("--umask", umask)
    (mount.path / "repos" / "r").mkdir()
    modes = {place: oct(mode(mount.path / place)) for place in OWN_DIRECTORIES}
    assert modes == dict.fromkeys(OWN_DIRECTORIES, oct(0o777 & ~int(umask, 8)))


def test_what_is_made_in_them_has_the_mode_that_its_maker_gave_it(mount: Mount) -> None:
    mount.start("--umask", "077")
    own = os.umask(0o002)
    try:
        for place in ("incoming", "tmp"):
            (mount.path / place / "directory").mkdir()
            (mount.path / place / "file").write_bytes(b"")
            assert (mode(mount.path / place / "directory"), mode(mount.path / place / "file")) == (
                0o775,
                0o664,
            )
            (mount.path / place / "directory").chmod(0o2770)
            assert mode(mount.path / place / "directory") == 0o2770
        oid = commit(mount.path, b"content")
        assert mode(path_in(mount.path / "objects", oid)) == 0o664
    finally:
        os.umask(own)


def test_the_mounts_own_directories_are_changed_by_options_only(mount: Mount) -> None:
    mount.start()
    (mount.path / "repos" / "r").mkdir()
    for place in OWN_DIRECTORIES:
        if place != "incoming":  # tar and rsync set its mode
            with pytest.raises(PermissionError):
                (mount.path / place).chmod(0o700)
        os.utime(mount.path / place)
    (mount.path / "incoming").chmod(0o700)
    assert mode(mount.path / "incoming") == 0o700


def test_uid_and_gid_own_everything(mount: Mount) -> None:
    mount.start("--uid", "1234", "--gid", "4321")
    (mount.path / "repos" / "r").mkdir()
    oid = drop(mount, "file", b"content")
    (mount.path / "tmp" / "file").write_bytes(b"")
    for place in [*OWN_DIRECTORIES, "incoming/file", "tmp/file", f"objects/{oid[:2]}/{oid[2:4]}/{oid}"]:
        found = (mount.path / place).lstat()
        assert (found.st_uid, found.st_gid) == (1234, 4321), place


AS_ANOTHER = """
printf %s content > tmp/temp
mv tmp/temp objects/"$1"
cat objects/"$1"
mkdir repos/mine
printf %s content > repos/mine/tmp/temp
mv repos/mine/tmp/temp repos/mine/objects/"$1"
mkdir incoming/directory
printf %s other > incoming/directory/file
cat pointers/directory/file
rm incoming/directory/file repos/mine/objects/"$1"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("umask", "may_write"), [("000", True), ("022", False)])
def test_other_users_write_where_the_umask_lets_them(mount: Mount, umask: str, may_write: bool) -> None:
    mount.start("--allow-other", "--umask", umask)
    oid = oid_of(b"content")
    done = subprocess.run(
        ["sh", "-ec", AS_ANOTHER, "sh", f"{oid[:2]}/{oid[2:4]}/{oid}"],
        cwd=mount.path, user=NOBODY, group=NOBODY, extra_groups=[], umask=0o022,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == may_write, done.stderr
    assert ("Permission denied" in done.stderr) != may_write
    if may_write:
        assert done.stdout.startswith("content")
        assert f"oid sha256:{oid_of(b'other')}" in done.stdout
        assert (mount.path / "incoming" / "directory").stat().st_uid == NOBODY


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_whoever_may_use_the_mount_may_read_its_objects(mount: Mount) -> None:
    """Objects have no owner: a maker with a umask of 077 reads what he made, although it is the daemon's."""
    mount.start("--allow-other", "--umask", "000")
    oid = oid_of(b"private")
    path = f"objects/{oid[:2]}/{oid[2:4]}/{oid}"
    done = subprocess.run(
        ["sh", "-ec", f"printf private > tmp/file && mv tmp/file {path} && cat {path}"],
        cwd=mount.path, user=NOBODY, group=NOBODY, extra_groups=[], umask=0o077,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "private"), done.stderr


# --xattr.


def test_with_xattr_an_object_and_a_name_tell_oid_and_pointer(mount: Mount) -> None:
    mount.start("--xattr")
    oid = drop(mount, "file", b"content")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 7\n".encode()
    wanted = {"user.lfsfs.oid": oid.encode(), "user.lfsfs.pointer": pointer}
    for path in (mount.path / "incoming" / "file", path_in(mount.path / "objects", oid)):
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == wanted
        for name, number in (("user.other", errno.ENODATA), ("security.capability", errno.ENODATA)):
            with pytest.raises(OSError) as refused:
                os.getxattr(path, name)
            assert refused.value.errno == number
        changes: list[Callable[[Path], None]] = [
            lambda path: os.setxattr(path, "user.other", b"x"),
            lambda path: os.removexattr(path, "user.lfsfs.oid"),
        ]
        for change in changes:
            with pytest.raises(OSError) as refused:
                change(path)
            assert refused.value.errno == errno.ENOTSUP
    (mount.path / "incoming" / "file").write_bytes(b"changed")
    assert os.getxattr(mount.path / "incoming" / "file", "user.lfsfs.oid") == oid_of(b"changed").encode()
    assert os.listxattr(mount.path / "incoming") == os.listxattr(mount.path / "tmp") == []


def test_without_it_there_are_no_extended_attributes(mount: Mount) -> None:
    mount.start()
    oid = drop(mount, "file", b"content")
    for path in (mount.path / "incoming" / "file", path_in(mount.path / "objects", oid)):
        asks: list[Callable[[Path], object]] = [
            lambda path: os.getxattr(path, "user.lfsfs.oid"),
            lambda path: os.setxattr(path, "user.other", b"x"),
        ]
        for ask in asks:
            with pytest.raises(OSError) as refused:
                ask(path)
            assert refused.value.errno == errno.ENOTSUP


# incomplete_age.


def test_a_download_that_nobody_resumes_goes_when_it_is_old_and_no_sooner(
    mount: Mount, tmp_path: Path
) -> None:
    mount.start()
    (mount.path / "repos" / "r").mkdir()
    places = [mount.path / "incomplete", mount.path / "repos" / "r" / "incomplete"]
    now = time.time()
    for place in places:
        for name, age in (("old", 3 * 3600), ("young", 3600)):
            (place / name).write_bytes(b"half")
            os.utime(place / name, (now - age, now - age))
    (mount.path / "tmp" / "old").write_bytes(b"git-lfs cleans this itself")
    os.utime(mount.path / "tmp" / "old", (now - 9 * 86_400, now - 9 * 86_400))
    mount.stop()
    config = tmp_path / "config.toml"
    config.write_text('[mount]\nincomplete_age = "2h"\n')
    mount.start("--config", str(config))
    assert within(10, lambda: all(os.listdir(place) == ["young"] for place in places))
    assert os.listdir(mount.path / "tmp") == ["old"]


# temp, on another file system than the store.


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system, with things in it that are somebody else's."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="lfsfs-test-") as directory:
        assert os.stat(directory).st_dev != tmp_path.stat().st_dev
        (Path(directory) / "file").write_bytes(b"somebody else's")
        (Path(directory) / "directory").mkdir()
        (Path(directory) / "directory" / "file").write_bytes(b"somebody else's")
        for path in (Path(directory), *Path(directory).rglob("*")):
            os.utime(path, (1, 1))
        yield Path(directory)


def files_below(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def test_files_are_staged_in_temp_which_may_be_another_disk(
    mount: Mount, tmp_path: Path, elsewhere: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[store]\ntemp = "{elsewhere}"\n')
    mount.start("--config", str(config))
    foreign = {"file", "directory/file"}
    content = os.urandom(3_000_000)
    with (mount.path / "incoming" / "film").open("wb", buffering=0) as file:
        file.write(content)
        staged = [name for name in files_below(elsewhere) - foreign if not name.endswith("/lock")]
        assert [(elsewhere / name).read_bytes() for name in staged] == [content]
    oid = oid_of(content)
    assert path_in(mount.store / "objects", oid).read_bytes() == content
    assert commit(mount.path, b"by git-lfs") == oid_of(b"by git-lfs")

    (mount.path / "incoming" / "cut off").open("wb").close()
    with (mount.path / "incoming" / "cut off").open("wb", buffering=0) as file:
        file.write(b"cut off" * 20_000)  # less of it would lie in memory only
        pid = mount.pid
        os.kill(pid, signal.SIGKILL)
        assert within(10, lambda: not is_running(pid))
        with suppress(OSError):
            file.close()
    assert [name for name in files_below(elsewhere) - foreign if not name.endswith("/lock")] != []
    mount.start("--config", str(config))
    assert path_in(mount.path / "objects", oid).read_bytes() == content
    mount.stop()
    assert files_below(elsewhere) == foreign, "nothing staged is left, and nothing of others is gone"
    assert files_below(mount.store / "staging") == set()


def test_a_temp_that_is_not_there_is_an_error_of_the_configuration(mount: Mount, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[store]\ntemp = "{tmp_path}/absent"\n')
    done = lfsfs_fails("mount", "--config", config, mount.store, mount.path)
    assert done.returncode == 2
    assert f"{tmp_path}/absent, where files are to be staged, is not a directory" in done.stderr


# --read-only.


def test_a_read_only_mount_of_a_store_that_nobody_may_write_is_known_to_status(
    mount: Mount, tmp_path: Path
) -> None:
    mount.start()
    oid = drop(mount, "file", b"content")
    mount.stop()
    with read_only_view(mount.store, tmp_path / "view") as view:
        lfsfs("mount", "--read-only", view, mount.path)
        try:
            assert path_in(mount.path / "objects", oid).read_bytes() == b"content"
            said = json.loads((mount.path / ".lfsfs" / "status").read_text())
            found = json.loads(lfsfs("status", "--json", "--store", view))
            assert (found["pid"], found["mountpoint"]) == (said["pid"], str(mount.path))
            assert f"{mount.path}, daemon {said['pid']}, for " in lfsfs("status", "--store", view)
        finally:
            lfsfs("unmount", mount.path)
        assert within(10, lambda: not is_running(said["pid"]))


@contextmanager
def read_only_view(path: Path, at: Path) -> Iterator[Path]:
    """The directory, mounted a second time, so that not even root writes to it."""
    at.mkdir()
    subprocess.run([*AS_ROOT, "mount", "--bind", path, at], check=True, timeout=30)
    try:
        subprocess.run([*AS_ROOT, "mount", "-o", "remount,bind,ro", at], check=True, timeout=30)
        yield at
    finally:
        subprocess.run([*AS_ROOT, "umount", "-l", at], check=True, timeout=30)


def lfsfs_fails(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([LFSFS, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    return done


# A store whose own directories are something else.


@pytest.mark.parametrize("what", ["a symbolic link", "a file"])
def test_a_store_whose_tmp_is_no_directory_is_not_mounted(mount: Mount, what: str) -> None:
    mount.start()
    mount.stop()
    tmp = mount.store / "tmp"
    if tmp.exists():
        tmp.rmdir()
    if what == "a symbolic link":
        tmp.symlink_to("/var/tmp")
    else:
        tmp.write_bytes(b"")
    done = lfsfs_fails("mount", mount.store, mount.path)
    assert done.returncode == 1
    assert f"{tmp} is not a directory" in done.stderr


# lfsfs ls --search.


def test_search_finds_a_name_of_incoming_where_it_is_now(mount: Mount) -> None:
    mount.start()
    first, second = drop(mount, "Holiday.png", b"first"), drop(mount, "holidays.txt", b"second")

    def found(term: str) -> list[tuple[str, str]]:
        lines = lfsfs("ls", "--search", term, "--store", mount.store).splitlines()
        return sorted((line.split()[0], line.split()[-1]) for line in lines)

    assert found("holiday") == sorted([(first, "Holiday.png"), (second, "holidays.txt")])
    assert found("HOLIDAYS") == [(second, "holidays.txt")]
    folder = mount.path / "incoming" / "folder"
    folder.mkdir()
    (mount.path / "incoming" / "Holiday.png").rename(folder / "beach.png")
    assert found("holiday") == [(second, "holidays.txt")]
    assert found("beach") == [(first, "folder/beach.png")]
    folder.rename(mount.path / "incoming" / "renamed")
    assert found("beach") == [(first, "renamed/beach.png")]
    os.link(mount.path / "incoming" / "holidays.txt", mount.path / "incoming" / "another.md")
    assert (found("holiday"), found("another")) == ([(second, "holidays.txt")], [(second, "another.md")])
    (mount.path / "incoming" / "holidays.txt").unlink()
    assert (found("holiday"), found("another")) == ([], [(second, "another.md")])
    (mount.path / "incoming" / "another.md").unlink()
    assert found("another") == []
    (mount.path / "incoming" / "renamed" / "beach.png").write_bytes(b"third")
    assert found("beach") == [(oid_of(b"third"), "renamed/beach.png")]
