"""The lfsfs mounts of this machine, as the kernel lists them, and how they do.

Reading the list never touches a mount, so it works however broken one is. Asking a mount how it does happens
in a process of its own: a call into one whose daemon does not answer can be neither interrupted nor killed.
"""

import errno
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MOUNTINFO = Path("/proc/self/mountinfo")
FILE_SYSTEM = "fuse.lfsfs"
VIEW = "lfsfs-view"
"""The type of a view of a collection, which is no mount of a store."""
ANSWER_SECONDS = 10.0
"""A mount that takes longer than this to answer statvfs(3) does not answer."""

Health = Literal["alive", "dead", "wedged"]
_ESCAPE = re.compile(rb"\\([0-7]{3})")
# statvfs and not stat: the kernel answers a stat from its cache, and knows nothing of the free space.
_ASK = f"""
import os, sys
try:
    os.statvfs(os.fsencode(sys.argv[1]))
except OSError as error:
    sys.exit({errno.ENOTCONN} if error.errno in ({errno.ENOTCONN}, {errno.ECONNABORTED}) else 0)
"""


@dataclass(frozen=True)
class MountEntry:
    """One line of mountinfo. `device` is the minor number: the name of the FUSE connection below /sys."""

    store: Path
    mountpoint: Path
    device: int


def lfsfs_mounts(mountinfo: bytes | None = None, *, kind: str = FILE_SYSTEM) -> list[MountEntry]:
    """Every lfsfs mount that this process can see. Of several at one place the topmost: it hides the rest."""
    topmost: dict[Path, MountEntry | None] = {}
    for line in _lines(mountinfo):
        fields, _, rest = line.partition(b" - ")
        _, _, device, _, point = fields.split(b" ")[:5]
        found, source = rest.split(b" ")[:2]
        mountpoint = _path(point)
        topmost.pop(mountpoint, None)
        ours = found == kind.encode()
        topmost[mountpoint] = (
            MountEntry(_path(source), mountpoint, int(device.partition(b":")[2])) if ours else None
        )
    return [entry for entry in topmost.values() if entry is not None]


def mount_at(mountpoint: Path) -> MountEntry | None:
    """The lfsfs mount at exactly this place."""
    place = located(mountpoint)
    return next((entry for entry in lfsfs_mounts() if entry.mountpoint == place), None)


def views() -> list[MountEntry]:
    """Every view of a collection that this process can see."""
    return lfsfs_mounts(kind=f"fuse.{VIEW}")


def mount_of(path: Path) -> MountEntry | None:
    """The lfsfs mount that `path` lies in or is."""
    place = located(path)
    around = [entry for entry in lfsfs_mounts() if _is_within(place, entry.mountpoint)]
    return max(around, key=lambda entry: len(entry.mountpoint.parts), default=None)


def mounts_of_store(store: Path) -> list[MountEntry]:
    """Where this store is mounted."""
    place = Path(os.path.realpath(store))
    return [entry for entry in lfsfs_mounts() if entry.store == place]


def mounts_below(mountpoint: Path) -> list[Path]:
    """The places below a mountpoint where something, of whatever kind, is mounted."""
    places = {_path(line.split(b" ", 5)[4]) for line in _lines(None)}
    return sorted(place for place in places if mountpoint in place.parents)


def located(path: Path) -> Path:
    """The absolute path without symbolic links, as in mountinfo; found without asking any lfsfs mount."""
    place = Path(os.path.abspath(path))
    if any(_is_within(place, entry.mountpoint) for entry in lfsfs_mounts()):
        return place
    # realpath asks every component, so the last is left out: it may be the mountpoint of a daemon that hangs.
    # readlink does not: that it is no symbolic link, the kernel knows by itself.
    place = Path(os.path.realpath(place.parent)) / place.name
    if any(_is_within(place, entry.mountpoint) for entry in lfsfs_mounts()):
        return place
    return Path(os.path.realpath(place)) if _is_link(place) else place


def health(mountpoint: Path, seconds: float = ANSWER_SECONDS) -> Health:
    """alive: it answers. dead: its daemon is gone. wedged: there is one, and it does not answer in time."""
    asking = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _ASK, mountpoint],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status = asking.wait(seconds)
    except subprocess.TimeoutExpired:
        asking.kill()  # takes effect when its call returns, which may be never: nobody waits for that
        asking.returncode = -1  # or Popen warns that it still runs
        return "wedged"
    return "dead" if status == errno.ENOTCONN else "alive"


def is_dead(mountpoint: Path) -> bool:
    """Whether the daemon of the mount there is gone: every call into it gives ENOTCONN."""
    return health(mountpoint) == "dead"


def _lines(mountinfo: bytes | None) -> list[bytes]:
    """A carriage return is no end of a line: the kernel writes it as it is."""
    return (MOUNTINFO.read_bytes() if mountinfo is None else mountinfo).strip(b"\n").split(b"\n")


def _path(field: bytes) -> Path:
    return Path(os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field)))


def _is_within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _is_link(path: Path) -> bool:
    try:
        os.readlink(path)
    except OSError:
        return False
    return True
