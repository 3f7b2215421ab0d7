"""Places that tiers are tried on: another file system than the usual one, and a small one."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SMALL_DISK = "24m"


def as_root(*command: str) -> None:
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*prefix, *command], check=True, timeout=30)


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A directory to which nothing in tmp_path can be linked or renamed."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="lfsfs-test-") as directory:
        assert os.stat(directory).st_dev != tmp_path.stat().st_dev
        yield Path(directory)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB of its own."""
    directory = tmp_path / "small-disk"
    directory.mkdir()
    as_root("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=777", "lfsfs-test", str(directory))
    yield directory
    as_root("umount", str(directory))
