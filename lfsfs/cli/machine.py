"""Machine: what lfsfs needs of a machine, whether it is there, and the command that mends what is not."""

import ctypes
import os
import platform
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lfsfs.units import format_size

Verdict = Literal["ok", "note", "no"]
DEVICE, FUSE_CONF, FILE_SYSTEMS = Path("/dev/fuse"), Path("/etc/fuse.conf"), Path("/proc/filesystems")
LEAST_KERNEL, LEAST_GIT, LEAST_GIT_LFS = (5, 4), (2, 30), (2, 13)
LEAST_FILES = 65_536
LEAST_FREE_BYTES = 1 << 30
COMMAND_SECONDS = 10.0
NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "glusterfs", "afs"))
FLEETING = frozenset(("tmpfs", "ramfs", "overlay"))
CLOCK_IS_WRONG = 5
"""TIME_ERROR of adjtimex(2): nothing keeps the clock right."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `no`: lfsfs does not work so; `note`: it does, for most purposes.

    `remedy`: what to do, in words. `fix`: the command that does it; empty where that is not for us to do.
    """

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""
    fix: tuple[str, ...] = ()
    for_root: bool = True


def look(stores: list[Path]) -> Iterator[Finding]:
    """Looks at everything, in the order in which one would mend it."""
    yield from (check() for check in CHECKS)
    for store in stores:
        yield _disk(store)


def _kernel() -> Finding:
    release = platform.release()
    found = _numbers(release)
    if found < LEAST_KERNEL:
        return Finding("kernel", "no", f"Linux {release}", "lfsfs needs Linux 5.4 or newer")
    return Finding("kernel", "ok", f"Linux {release}")


def _module() -> Finding:
    known = re.search(r"\bfuse$", FILE_SYSTEMS.read_text(), re.MULTILINE)
    if known:
        return Finding("FUSE in the kernel", "ok", "there")
    return Finding(
        "FUSE in the kernel", "no", "the module is not loaded",
        "load it; in a container, on its host", ("modprobe", "fuse"),
    )  # fmt: skip


def _device() -> Finding:
    name = str(DEVICE)
    try:
        found = DEVICE.stat()
    except FileNotFoundError:
        return Finding(
            name, "no", "is not there",
            "load the module; a container needs --device /dev/fuse --cap-add SYS_ADMIN", ("modprobe", "fuse"),
        )  # fmt: skip
    if not stat.S_ISCHR(found.st_mode):
        return Finding(
            name, "no", "is no device", f"remove it, and load the module: modprobe fuse makes {name}"
        )
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Finding(
            name, "no", f"this user may not use it (mode {stat.S_IMODE(found.st_mode):04o})",
            "let every user, as distributions do", ("chmod", "666", name),
        )  # fmt: skip
    return Finding(name, "ok", "may be read and written")


def _fusermount() -> Finding:
    found = shutil.which("fusermount3")
    if found is None:
        return Finding(
            "fusermount3", "no", "is not installed", "install the package fuse3", _installing("fuse3")
        )
    if os.geteuid() != 0 and not os.stat(found).st_mode & stat.S_ISUID:
        return Finding(
            "fusermount3", "no", f"{found} does not run as root, so that no other user can mount",
            "give it the bit that its package gives it", ("chmod", "u+s", found),
        )  # fmt: skip
    return Finding("fusermount3", "ok", found)


def _allow_other() -> Finding:
    try:
        allowed = re.search(r"^\s*user_allow_other\s*$", FUSE_CONF.read_text(), re.MULTILINE)
    except OSError:
        allowed = None
    if allowed:
        return Finding("user_allow_other", "ok", f"in {FUSE_CONF}")
    if os.geteuid() == 0:
        return Finding("user_allow_other", "ok", "root needs none")
    return Finding(
        "user_allow_other", "note", f"not in {FUSE_CONF}: `mount --allow-other` is for root alone",
        "add the line where other users are to use your mounts",
        ("sh", "-c", f"echo user_allow_other >> {FUSE_CONF}"),
    )  # fmt: skip


def _git() -> Finding:
    return _tool("git", ("git", "version"), LEAST_GIT)


def _git_lfs() -> Finding:
    return _tool("git-lfs", ("git-lfs", "version"), LEAST_GIT_LFS)


def _tool(name: str, command: tuple[str, ...], least: tuple[int, ...]) -> Finding:
    said = _said(command)
    if said is None:
        return Finding(name, "no", "is not installed", f"install the package {name}", _installing(name))
    version = ".".join(map(str, _numbers(said)))
    if _numbers(said) < least:
        wanted = ".".join(map(str, least))
        return Finding(name, "no", f"{version} is too old", f"install {wanted} or newer", _installing(name))
    return Finding(name, "ok", version)


def _filters() -> Finding:
    if shutil.which("git") is None or shutil.which("git-lfs") is None:
        return Finding("git-lfs in git", "no", "cannot be looked at without git and git-lfs", "install them")
    if _said(("git", "config", "--get", "filter.lfs.process")):
        return Finding("git-lfs in git", "ok", "its filter is set")
    return Finding(
        "git-lfs in git", "note", "its filter is not set: git commits files as they are, not as pointers",
        "set it for this user", ("git", "lfs", "install", "--skip-repo"), for_root=False,
    )  # fmt: skip


def _files() -> Finding:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= LEAST_FILES:
        return Finding(
            "open files", "ok", "any number" if most == resource.RLIM_INFINITY else f"up to {most}"
        )
    return Finding(
        "open files", "note", f"up to {most}: as many files can be open in a mount",
        f"raise it: LimitNOFILE={LEAST_FILES} in a service, `ulimit -Hn {LEAST_FILES}` in a shell of root",
    )  # fmt: skip


def _clock() -> Finding:
    buffer = ctypes.create_string_buffer(512)  # struct timex, zeroed: nothing is to be changed
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) != CLOCK_IS_WRONG:
        return Finding("clock", "ok", "is kept right")
    return Finding(
        "clock", "note", "nothing says that it is kept right: S3 refuses machines that are 15 minutes off",
        "run a time service, such as systemd-timesyncd or chrony (in a container: its host's)",
    )  # fmt: skip


CHECKS: tuple[Callable[[], Finding], ...] = (
    _kernel, _module, _device, _fusermount, _allow_other, _git, _git_lfs, _filters, _files, _clock,
)  # fmt: skip


def _disk(store: Path) -> Finding:
    name = f"disk of {store}"
    try:
        space = os.statvfs(store)
    except OSError as error:
        return Finding(name, "no", f"cannot be looked at: {error.strerror}", "see who may read it")
    free, size = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    kind = file_system(store)
    detail = f"{format_size(free)} free of {format_size(size)}, {kind}"
    if not os.access(store, os.W_OK):
        return Finding(name, "note", f"{detail}; this user may not write there", "mount it as its owner")
    if kind in NETWORK:
        return Finding(
            name, "no", f"{detail}: a file system of the network, on which the index is not safe",
            "keep the store on a local disk, and share it by S3 or `lfsfs serve`",
        )  # fmt: skip
    if free < min(LEAST_FREE_BYTES, size // 20):
        return Finding(
            name, "no", f"{detail}: nearly full", "`lfsfs gc`, then `lfsfs vacuum`, or a larger disk"
        )
    if kind in FLEETING:
        return Finding(
            name, "note", f"{detail}: what is there may be gone at the next start",
            "keep the store on a disk (a container: on a volume)",
        )  # fmt: skip
    return Finding(name, "ok", detail)


def file_system(path: Path) -> str:
    """The type of the file system at `path`, as the kernel names it."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split(" ")[2] == wanted:
            return rest.split(" ")[0]
    return "a file system of unknown kind"


def _installing(package: str) -> tuple[str, ...]:
    return ("apt-get", "install", "-y", package) if shutil.which("apt-get") else ()


def _said(command: tuple[str, ...]) -> str | None:
    """What a command prints; None where it is not there or fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _numbers(text: str) -> tuple[int, ...]:
    """The first version number in a text."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else (0,)
