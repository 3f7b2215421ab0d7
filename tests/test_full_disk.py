"""A disk that fills, as a small file system of its own."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from gitlfs.mounted import Mount
from server.served import Served
from server.served import oid_of as sha256
from test_promises import commit, drop, listed, oid_of, read

MIB = 1 << 20
DISK_BYTES = 64 * MIB
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, timeout=60)
    subprocess.run([*AS_ROOT, "mount", "-o", "loop", image, disk], check=True, timeout=60)
    try:
        yield disk
    finally:
        subprocess.run([*AS_ROOT, "umount", "-l", disk], check=True, timeout=60)


def fill(path: Path) -> int:
    """Writes to a file until write(2) says that the disk is full; the bytes that went in."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    written = 0
    try:
        while written < 2 * DISK_BYTES:
            written += os.write(fd, os.urandom(MIB))
        pytest.fail("the disk never filled")
    except OSError as full:
        assert full.errno == errno.ENOSPC, full
        return written
    finally:
        try:
            os.close(fd)
        except OSError as full:
            assert full.errno == errno.ENOSPC, full


@pytest.mark.mount
@pytest.mark.promise("3.2")
@pytest.mark.parametrize("where", ["incoming", "tmp"])
def test_a_full_disk_fails_the_write_and_nothing_else(small_disk: Path, where: str) -> None:
    with Mount(small_disk / "own") as mount:
        before = drop(mount, "before", b"before" * MIB)
        full = mount.path / where / "full"
        assert fill(full) > 10 * MIB
        assert read(mount, before) == b"before" * MIB
        assert listed(mount.path / "objects") == {before}
        full.unlink(missing_ok=True)
        after = drop(mount, "after", b"after" * MIB)
        assert commit(mount.path, b"committed") == oid_of(b"committed")
        assert read(mount, after) == b"after" * MIB


@pytest.mark.slow
@pytest.mark.promise("3.2")
def test_a_full_disk_is_507_to_the_clients_of_the_server(small_disk: Path, tmp_path: Path) -> None:
    """Nothing is left of what did not fit, and what fits goes in as before."""
    with Served(tmp_path / "served", store=small_disk / "own") as served:
        api = served.api()
        before = api.put(b"before" * MIB)
        too_much = os.urandom(room(small_disk) + MIB)
        answer = api.request("PUT", f"objects/{sha256(too_much)}", data=too_much)
        assert answer.status_code == 507, answer.text
        assert "room" in answer.json()["message"]
        (small_disk / "ballast").write_bytes(
            bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 4096)
        )
        assert api.post("locks", {"path": "a"}).status_code in (201, 507)
        assert api.fetch(before, 6 * MIB).content == b"before" * MIB
        (small_disk / "ballast").unlink()
        after = api.put(b"after" * MIB)
        assert api.fetch(after, 5 * MIB).content == b"after" * MIB


def room(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize
