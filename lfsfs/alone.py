"""Alone: what one process at a time does, and who finds out that another one does it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
