"""The log of a daemon in the background: a file that does not grow for ever, and that nobody else need turn over."""

import os
import stat
import sys
from pathlib import Path

import trio

EARLIER = ".1"
"""What is added to the name of the file that was full."""
LOOK_SECONDS = 5.0


async def keep_small(size: int) -> None:
    """Turns the log over whenever it has `size` bytes: so it and the one before it have twice that, and a little more.

    Where standard error is no file (a terminal, the journal), or one that was turned over by somebody else, it stays as
    it is.
    """
    file = log_of(2)
    while file is not None:
        if os.fstat(2).st_size >= size:
            sys.stderr.flush()
            turn_over(file)
        await trio.sleep(LOOK_SECONDS)


def log_of(descriptor: int) -> Path | None:
    """The file that a descriptor writes to; None where it is no file, or has another name by now."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        return None
    file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    try:
        return file if os.path.samestat(file.stat(), found) else None
    except OSError:
        return None


def turn_over(file: Path) -> None:
    """The file gets the name of an earlier one, in the place of the last; standard output and error go to a new one."""
    mode = stat.S_IMODE(file.stat().st_mode)
    file.replace(file.with_name(file.name + EARLIER))
    new = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
    os.dup2(new, 1)
    os.dup2(new, 2)
    os.close(new)
