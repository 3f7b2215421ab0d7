"""The kernel's side of a mount: what it is called there, and how many requests come at once."""

import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lfsfs import mounts

log = logging.getLogger("lfsfs.mount")
CONNECTIONS = Path("/sys/fs/fuse/connections")
DEVICES = Path("/sys/class/bdi")
READ_AHEAD_BYTES = 1 << 20  # as much as one request can carry
COMMAND_SECONDS = 10.0


def option_value(path: Path) -> str:
    """The path as libfuse reads it in an option: pyfuse3 passes ASCII only, a comma would end the option, and
    a backslash begins an octal byte (fuse_opt.c).
    """
    plain = frozenset(range(0x20, 0x7F)) - frozenset(b"\\,")
    return "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in os.fsencode(path))


def widen(mountpoint: Path, requests: int) -> None:
    """Lets the kernel have so many reads under way.

    It allows 12 by default, for all files together: so many that wait for a remote tier would stop the reads of what is
    local. Left as it is where we may not, which is no error.
    """
    entry = mounts.mount_at(mountpoint)
    if entry is None:
        return
    try:
        with _connection(entry.device) as connection:
            (connection / "max_background").write_text(str(requests))
            (connection / "congestion_threshold").write_text(str(requests * 3 // 4))
    except (OSError, subprocess.SubprocessError) as refused:
        log.info("%s: the kernel sends at most 12 reads at once: %s", mountpoint, refused)


def read_ahead(mountpoint: Path) -> None:
    """Lets the kernel read ahead by READ_AHEAD_BYTES; by default it is 128 KiB: eight requests of what could be one.

    To be called while the mount is served, in a thread. Left as it is where we may not, which is no error.
    """
    try:
        entry = mounts.mount_at(mountpoint)
        if entry is not None:
            os.stat(
                mountpoint
            )  # the kernel's first request is answered then: before, its answer would undo this
            (DEVICES / f"0:{entry.device}" / "read_ahead_kb").write_text(str(READ_AHEAD_BYTES >> 10))
    except OSError as refused:
        log.info("%s: the kernel reads ahead no further than by default: %s", mountpoint, refused)


@contextmanager
def _connection(device: int) -> Iterator[Path]:
    """The control files of a connection; root gets at them where nobody has mounted them."""
    usual = CONNECTIONS / str(device)
    if usual.is_dir() or os.geteuid() != 0:
        yield usual
        return
    with tempfile.TemporaryDirectory(prefix="lfsfs-") as place:
        _run("mount", "-t", "fusectl", "fusectl", place)
        try:
            yield Path(place) / str(device)
        finally:
            _run("umount", place)


def _run(*command: str) -> None:
    subprocess.run(
        command, check=True, capture_output=True, timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL
    )
