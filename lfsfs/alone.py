"""Alone: what one process at a time does, and who finds out that another one does it."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LOCK_FILE = "lock"
UNREADY = ".new"  # ends the name of a directory whose lock is not held yet


def try_alone(lock: BinaryIO | int, *, shared: bool = False) -> bool:
    """Whether nobody else holds this file (`shared`: alone); then it is ours until it is closed. Does not wait."""
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Waits until nobody else is in here with this directory, in any process; a process that dies is out."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_held(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new directory in `parent`, and the descriptor of its lock file: it is in use as long as that is open.

    Its name is `prefix` and eight digits or letters. It has that name only once the lock is held: at no moment may
    it be taken for one that somebody has left behind. What a kill leaves in between has a name with UNREADY.
    """
    while True:
        made = parent / f"{prefix}{uuid.uuid4().hex[:8]}"
        unready = made.with_name(made.name + UNREADY)
        unready.mkdir(mode=0o700)
        lock = -1
        try:
            lock = os.open(unready / LOCK_FILE, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            if try_alone(lock):
                unready.rename(made)
                return made, lock
            os.close(lock)
        except OSError as error:
            if lock >= 0:
                os.close(lock)
            if not isinstance(error, FileNotFoundError) or not parent.is_dir():
                shutil.rmtree(unready, ignore_errors=True)
                raise
        # We stood still for so long that it was taken for what a dead process has left: another one.
