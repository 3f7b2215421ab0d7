"""Reading the list of mounts. What needs a real mount is in test_mount_commands.py."""

import os
from pathlib import Path

from lfsfs.mounts import MountEntry, health, lfsfs_mounts, located

LINES = b"""\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
40 27 0:51 / /mnt/one rw,nosuid shared:7 - fuse.lfsfs /srv/one rw,user_id=0
41 27 0:52 / /mnt/with\\040space\\134and\\011tab rw - fuse.lfsfs /srv/my\\040store rw,user_id=0
42 27 0:53 / /mnt/\xff\xc3\xa9\rx rw - fuse.lfsfs /srv/raw rw,user_id=0
43 27 0:54 / /mnt/other rw - fuse.sshfs host:/ rw
44 27 0:55 / /mnt/hidden rw - fuse.lfsfs /srv/hidden rw
45 44 0:56 / /mnt/hidden rw - tmpfs tmpfs rw
46 27 0:57 / /mnt/stacked rw - fuse.lfsfs /srv/below rw
47 46 0:58 / /mnt/stacked rw - fuse.lfsfs /srv/above rw
"""


def test_the_list_has_the_lfsfs_mounts_as_they_can_be_reached_with_their_true_names() -> None:
    assert lfsfs_mounts(LINES) == [
        MountEntry(Path("/srv/one"), Path("/mnt/one"), 51),
        MountEntry(Path("/srv/my store"), Path("/mnt/with space\\and\ttab"), 52),
        MountEntry(Path("/srv/raw"), Path(os.fsdecode(b"/mnt/\xff\xc3\xa9\rx")), 53),
        MountEntry(Path("/srv/above"), Path("/mnt/stacked"), 58),
    ]


def test_the_kernels_own_list_can_be_read() -> None:
    assert all(entry.mountpoint.is_absolute() for entry in lfsfs_mounts())


def test_a_path_is_located_without_its_symbolic_links(tmp_path: Path) -> None:
    real = Path(os.path.realpath(tmp_path)) / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "link-to-link").symlink_to(tmp_path / "link")
    assert located(tmp_path / "link-to-link") == real
    assert located(tmp_path / "link" / "absent") == real / "absent"
    assert located(Path("/")) == Path("/")


def test_an_ordinary_directory_is_alive(tmp_path: Path) -> None:
    assert health(tmp_path) == "alive"
