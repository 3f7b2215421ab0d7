"""The kernel's side of a mount: how far it reads ahead."""

import logging
import os
from pathlib import Path

from lfsfs import mounts

log = logging.getLogger("lfsfs.mount")
DEVICES = Path("/sys/class/bdi")
READ_AHEAD_BYTES = 1 << 20  # as much as one request can carry


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
