"""Changes: whoever looks for what another process has committed is woken when something was written, not in vain.

The index is files that every process writes to, so the kernel tells of it (inotify(7)): a mount that nobody uses leaves
the processor alone. A moment passes between the write that ends a commit and its being seen, so the look comes
PAUSE_SECONDS later, once for all that was written meanwhile. Where there is no inotify it is looked every PAUSE_SECONDS.
"""

import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path

import trio

log = logging.getLogger("lfsfs.index")
PAUSE_SECONDS = 0.25
UNTOLD_SECONDS = 10.0
"""It is looked so often all the same: a process may have been stopped between its last write and the end of a commit."""
_EVENTS_BYTES = 4096
_IN_MODIFY, _IN_CLOSE_WRITE = 0x2, 0x8  # a process that ends closes its files after its commits
_libc = ctypes.CDLL(None, use_errno=True)


class Changes:
    """Of the index in `directory`, whose newest transaction `newest` tells. From one trio thread."""

    def __init__(self, directory: Path, newest: Callable[[], int]) -> None:
        self._directory = directory
        self._newest = newest
        self._descriptor: int | None = None
        self._look: trio.Event | None = None

    async def after(self, transaction: int) -> int:
        """The newest transaction that a view sees, as soon as it is not this one any more."""
        while (newest := self._newest()) == transaction:
            await self._written()
        return newest

    def close(self) -> None:
        if self._descriptor is not None and self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = None

    async def _written(self) -> None:
        """Returns when it is worth a look. One of those who wait waits for the kernel, the others for that one."""
        if self._look is not None:
            await self._look.wait()
            return
        self._look = look = trio.Event()
        try:
            await self._told()
        finally:
            self._look = None
            look.set()

    async def _told(self) -> None:
        if self._descriptor is None:
            self._descriptor = _watch(self._directory)
        if self._descriptor >= 0:
            with trio.move_on_after(UNTOLD_SECONDS):
                await trio.lowlevel.wait_readable(self._descriptor)
                _drain(self._descriptor)  # before the pause: what is written in it is told once more
        await trio.sleep(PAUSE_SECONDS)


def _watch(directory: Path) -> int:
    """A descriptor that is readable when a file of the directory was written to, or closed by who could; -1: none."""
    descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor >= 0:
        if _libc.inotify_add_watch(descriptor, os.fsencode(directory), _IN_MODIFY | _IN_CLOSE_WRITE) >= 0:
            return descriptor
        os.close(descriptor)
    log.info("no inotify (%s): the index is looked at four times a second", os.strerror(ctypes.get_errno()))
    return -1


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, _EVENTS_BYTES):
            pass
    except BlockingIOError:
        pass
