"""Errors that people meet: one line that says what failed, why, and what to do."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.elsewhere import LFSFS, programs, run

pytestmark = pytest.mark.timeout(60)
NO_DEVICE = "mount -t tmpfs none /dev && touch /dev/null && chmod 666 /dev/null"


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    yield tmp_path / "store", tmp_path / "mnt"
    subprocess.run(["umount", "-l", tmp_path / "mnt"], capture_output=True)


def fails(ended: "subprocess.CompletedProcess[str]", status: int, *said: str) -> None:
    assert ended.returncode == status, ended
    assert ended.stderr.startswith("lfsfs: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    for words in said:
        assert words in ended.stderr


def test_without_the_device_of_fuse_the_doctor_is_named_and_the_doctor_knows(
    paths: tuple[Path, Path],
) -> None:
    fails(run("mount", *paths, first=NO_DEVICE), 1, "fuse device not found", "`lfsfs doctor`")
    assert not paths[1].exists()
    told = run("doctor", first=NO_DEVICE)
    assert told.returncode == 1
    assert "FAILS  /dev/fuse: is not there" in told.stdout
    assert "--device /dev/fuse --cap-add SYS_ADMIN" in told.stdout
    assert "modprobe fuse" in told.stdout


def test_without_fusermount3_its_package_is_named(paths: tuple[Path, Path], tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", "git", "git-lfs")
    fails(run("mount", *paths, path=path), 1, "fusermount3 is not installed", "apt-get install fuse3")
    told = run("doctor", path=path)
    assert told.returncode == 1
    assert "FAILS  fusermount3: is not installed" in told.stdout


def test_without_git_lfs_its_package_is_named(paths: tuple[Path, Path], tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path / "clone"], check=True)
    path = programs(tmp_path / "bin", "git", "fusermount3")
    said = run("attach", tmp_path / "clone", path=path).stderr.splitlines()[0]
    assert "git-lfs is not installed" in said
    assert "apt-get install git-lfs" in said
    assert "FAILS  git-lfs: is not installed" in run("doctor", path=path).stdout
    nothing = programs(tmp_path / "nothing")
    assert "apt-get install git)" in run("attach", tmp_path / "clone", path=nothing).stderr


def test_a_place_that_is_not_empty(paths: tuple[Path, Path]) -> None:
    paths[1].mkdir()
    (paths[1] / "mine").touch()
    fails(run("mount", *paths), 4, "it is not empty: it holds 'mine'", "give an empty directory")


def test_a_full_disk_says_what_frees_it(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    big = tmp_path / "big"
    big.write_bytes(os.urandom(8_000_000))
    store = small / "store"
    made = f"mount -t tmpfs -o size=4m none {small} && {LFSFS} mount {store} {tmp_path / 'mnt'} >/dev/null"
    ended = run("put", big, "--store", store, first=f"{made} && {LFSFS} unmount {tmp_path / 'mnt'}")
    fails(ended, 1, "`lfsfs vacuum`", "larger disk")


def test_a_place_that_this_user_may_not_use(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    ended = run("mount", locked / "store", tmp_path / "mnt", first=f"mount -t tmpfs -o ro none {locked}")
    fails(ended, 4, "Read-only file system", "name another place")


def test_a_store_of_a_newer_lfsfs(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    identity = {"format": 99, "id": "96ab12a1-37e8-4150-94b8-f73962a529bd", "created": 1}
    (store / "lfsfs.json").write_text(json.dumps(identity))
    fails(run("status", "--store", store), 1, "newer lfsfs (format 99", "upgrade lfsfs")


def test_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    fails(run("mount", tmp_path, tmp_path.with_name("elsewhere")), 1, "thesis.tex", "give an empty directory")
    fails(run("ls", "--store", tmp_path / "absent"), 3, "no store at", "`lfsfs mount STORE MNT` makes one")


def test_a_bucket_that_does_not_let_itself_be_used_says_what_to_set(paths: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    arguments = ["mount", *paths, "--s3", "s3://some-bucket/lfs", "--s3-endpoint", address]
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true",
            "HOME": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}  # fmt: skip
    fails(run(*arguments, **none), 1, "no credentials were found", "set AWS_ACCESS_KEY_ID")


@pytest.mark.mount
def test_a_mount_in_use_and_a_store_in_use_say_how_to_end_that(
    paths: tuple[Path, Path], tmp_path: Path
) -> None:
    assert run("status", "--store", tmp_path).returncode == 3
    mounted = subprocess.run([LFSFS, "mount", *paths], capture_output=True, text=True, timeout=60)
    assert mounted.returncode == 0, mounted.stderr
    try:
        with subprocess.Popen(["sleep", "60"], cwd=paths[1]) as inside:
            fails(run("unmount", paths[1]), 4, "is in use: sleep", "--force")
            inside.kill()
        fails(run("fsck", "--repair", "--store", paths[0]), 4, f"`lfsfs unmount {paths[1]}`")
        fails(run("mount", tmp_path / "other", paths[1]), 4, "another store is mounted", "unmount that")
    finally:
        subprocess.run([LFSFS, "unmount", paths[1], "--force"], check=True, timeout=60)
