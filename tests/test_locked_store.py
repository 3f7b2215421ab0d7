"""A store whose directory the kernel encrypts: what is on the disk while it is locked, and who gets in."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forking
import pytest
from gitlfs.mounted import Mount, lfsfs

pytestmark = [pytest.mark.mount, pytest.mark.slow]
SECRET, NAME = b"the secret recipe of the house. ", "plan-of-the-vault.txt"
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


def as_root(*command: str | Path) -> None:
    subprocess.run([*AS_ROOT, *command], check=True, timeout=60, capture_output=True)


def formatted(folder: Path, *options: str) -> Iterator[Path]:
    """An ext4 of its own in FOLDER/image, which is mounted at FOLDER/disk."""
    image, disk = folder / "image", folder / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(96 << 20)
    subprocess.run(
        ["mkfs.ext4", "-q", *options, image], check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    )
    as_root("mount", "-o", "loop", image, disk)
    try:
        as_root("chown", str(os.getuid()), disk)
        yield disk
    finally:
        as_root("umount", disk)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    yield from formatted(tmp_path, "-O", "encrypt")


@pytest.fixture
def plain_disk(tmp_path: Path) -> Iterator[Path]:
    yield from formatted(tmp_path, "-O", "^encrypt")


def key(folder: Path, name: str) -> str:
    lfsfs("key", "new", folder / f"{name}.key")
    return f"file:{folder / f'{name}.key'}"


def refusal(status: int, *arguments: str | Path) -> str:
    found, out, err = forking.run("forking:command", *map(str, arguments), seconds=60)
    assert found == status, f"exit {found}\n{out}{err}"
    return out + err


def mount_at(store: Path, folder: Path) -> Mount:
    mount = Mount(folder)
    mount.store = store
    return mount


@pytest.mark.promise("18.1", "18.2")
def test_a_locked_store_tells_nothing_and_unlocks_to_what_it_was(tmp_path: Path, disk: Path) -> None:
    store, one = disk / "store", key(tmp_path, "one")
    lfsfs("unlock", store, "--key", one)
    with mount_at(store, tmp_path / "m") as mount:
        (mount.path / "incoming" / NAME).write_bytes(SECRET * 1000)
        (mount.path / "repos" / "vault-repository").mkdir()
        assert "mounted" in refusal(4, "lock", store)
        assert (mount.path / "incoming" / NAME).read_bytes() == SECRET * 1000
    lfsfs("lock", store)
    lfsfs("lock", store)
    as_root("sync", "-f", disk)
    image = (tmp_path / "image").read_bytes()
    for telling in (SECRET, NAME.encode(), b"vault-repository", b"lfsfs.json", b"daemon.log"):
        assert telling not in image, telling
    assert b"user.lfsfs.ring" in image or b"lfsfs.ring" in image, "the image is that of the store"
    assert "locked" in refusal(4, "mount", store, mount.path)
    assert "locked" in refusal(4, "status", "--store", store)
    assert "master key" in refusal(2, "unlock", store, "--key", key(tmp_path, "another"))
    assert "locked" in refusal(4, "ls", "--store", store)
    lfsfs("unlock", store, "--key", one)
    mount.start()
    try:
        assert (mount.path / "incoming" / NAME).read_bytes() == SECRET * 1000
    finally:
        mount.stop()


@pytest.mark.promise("18.3")
def test_another_master_key_opens_the_same_directory_and_the_old_one_does_not(
    tmp_path: Path, disk: Path
) -> None:
    store, old, new = disk / "store", key(tmp_path, "old"), key(tmp_path, "new")
    lfsfs("unlock", store, "--key", old)
    (store / "objects").mkdir()
    (store / "objects" / "file").write_bytes(SECRET)
    lfsfs("unlock", store, "--key", old, "--to", new)
    lfsfs("lock", store)
    assert not (store / "objects").exists()
    assert "master key" in refusal(2, "unlock", store, "--key", old)
    lfsfs("unlock", store, "--key", new)
    assert (store / "objects" / "file").read_bytes() == SECRET


def test_what_cannot_be_encrypted_is_refused_and_stays_as_it_is(tmp_path: Path, plain_disk: Path) -> None:
    one = key(tmp_path, "one")
    assert "tune2fs" in refusal(2, "unlock", plain_disk / "store", "--key", one)
    (plain_disk / "full").mkdir()
    (plain_disk / "full" / "file").write_bytes(b"content")
    assert "not empty" in refusal(4, "unlock", plain_disk / "full", "--key", one)
    assert "not encrypted" in refusal(4, "lock", plain_disk / "full")
    assert (plain_disk / "full" / "file").read_bytes() == b"content"
