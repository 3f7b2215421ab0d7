"""What is corrupt everywhere is not served, and the next upload of it heals it: by the mount, and by the server."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from gitlfs.mounted import LFSFS, Mount, within
from server.served import Api, free_port

from .damage import file_of, flip

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]
MIB = 1 << 20


class MountServing(Mount):
    """A mount with a server."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        super().__init__(folder, "--listen", f"127.0.0.1:{self.port}")

    @property
    def api(self) -> Api:
        return Api(f"http://127.0.0.1:{self.port}/studio/game.git/info/lfs")


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountServing]:
    with MountServing(tmp_path_factory.mktemp("healing")) as mount:
        yield mount


def verify(mount: Mount, oid: str) -> tuple[int, str]:
    done = subprocess.run(
        [LFSFS, "verify", oid, "--store", mount.store],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout


def quarantine(mount: Mount, oid: str) -> None:
    """Damages the object, which the kernel knows, and has it found beside the mount."""
    file_of(mount.path, oid).read_bytes()
    flip(file_of(mount.store, oid), MIB)
    assert verify(mount, oid)[0] == 1
    assert within(5, lambda: not file_of(mount.path, oid).exists())


@pytest.mark.promise("9.8")
def test_a_file_that_is_open_by_name_fails_with_eio_and_the_log_says_why(mount: MountServing) -> None:
    content = os.urandom(2 * MIB)
    oid = mount.api.put(content)
    (mount.path / "incoming" / "film").write_bytes(content)
    quarantine(mount, oid)
    with pytest.raises(OSError) as failure:
        (mount.path / "incoming" / "film").read_bytes()
    assert failure.value.errno == errno.EIO
    assert any(oid in line and "corrupt" in line for line in mount.log().splitlines())


@pytest.mark.promise("9.8")
def test_the_next_upload_to_the_mount_heals_it(mount: MountServing) -> None:
    content = os.urandom(2 * MIB)
    oid = mount.api.put(content)
    quarantine(mount, oid)
    (mount.path / "incoming" / "again").write_bytes(content)
    assert verify(mount, oid)[0] == 0
    assert file_of(mount.path, oid).read_bytes() == content


@pytest.mark.promise("9.8")
def test_the_next_upload_to_the_server_heals_it(mount: MountServing) -> None:
    content = os.urandom(2 * MIB)
    oid = mount.api.put(content)
    quarantine(mount, oid)
    assert mount.api.asked("download", oid, len(content))["error"]["code"] == 410
    assert "actions" in mount.api.asked("upload", oid, len(content))
    assert mount.api.put(content) == oid
    assert verify(mount, oid)[0] == 0
    assert file_of(mount.path, oid).read_bytes() == content
    assert "actions" in mount.api.asked("download", oid, len(content))
