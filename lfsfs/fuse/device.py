"""The kernel's device: mounting and unmounting through fusermount3, which any user may call."""

import array
import os
import select
import socket
import subprocess
from pathlib import Path

from lfsfs.errors import LfsfsError

HELPER = "fusermount3"
HELPER_SECONDS = 30.0


class MountRefused(LfsfsError):
    """The kernel, or fusermount3, does not mount there; the message says why."""


def option_value(path: Path) -> bytes:
    """The path as fusermount3 reads it in an option: a comma would end it; what follows a backslash is as it is."""
    return os.fsencode(path).replace(b"\\", b"\\\\").replace(b",", b"\\,")


def mount(mountpoint: Path, options: list[bytes]) -> int:
    """Mounts; the device's descriptor, which does not block. MountRefused."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        try:
            ended = subprocess.run(
                [HELPER, "-o", b",".join(options), "--", mountpoint],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=HELPER_SECONDS,
            )
        except FileNotFoundError as missing:
            raise MountRefused(
                f"{HELPER} is not installed: it is in the package fuse3 (apt-get install fuse3)"
            ) from missing
        if ended.returncode != 0:
            said = os.fsdecode(ended.stderr).strip().removeprefix(f"{HELPER}: ")
            why = said or f"{HELPER} exits with {ended.returncode}"
            raise MountRefused(f"{mountpoint}: {why}; `lfsfs doctor` says what this machine lacks")
        descriptor = _received(ours)
    os.set_blocking(descriptor, False)
    return descriptor


def _received(channel: socket.socket) -> int:
    numbers = array.array("i", [-1])
    _, extra, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(numbers.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return array.array("i", content[: numbers.itemsize])[0]
    raise MountRefused(f"{HELPER} mounted and handed over no descriptor")


def unmount(mountpoint: Path, descriptor: int) -> None:
    """Closes the device and takes the mount away, if it is still there; lazily, as somebody may be inside."""
    gone = bool(_events(descriptor) & select.POLLERR)
    os.close(descriptor)  # first: an unmount asks the file system, and would wait for its answer
    if not gone:
        subprocess.run(
            [HELPER, "-u", "-q", "-z", "--", mountpoint],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=HELPER_SECONDS,
        )


def _events(descriptor: int) -> int:
    poll = select.poll()
    poll.register(descriptor, 0)
    return next((events for _, events in poll.poll(0)), 0)
