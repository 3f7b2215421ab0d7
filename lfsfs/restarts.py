"""Restarts: SIGUSR2 makes a daemon start its successor, and hand over to it what it has when that one is ready.

What cannot be handed over is taken away and made anew; what fails leaves this daemon as it is.
"""

import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import trio

from lfsfs import notify
from lfsfs.config import Config
from lfsfs.daemon_state import State
from lfsfs.errors import LfsfsError, Unavailable
from lfsfs.mount.mount import Mount
from lfsfs.succession import Program, Successor

if TYPE_CHECKING:
    from lfsfs.server.serving import Serving

log = logging.getLogger("lfsfs.daemon")
DRAIN_SECONDS = 2.0  # what is being written gets to be closed
T = TypeVar("T")
HOLD_ATTEMPTS, HOLD_PAUSE_SECONDS = 30, 1.0


@dataclass
class Held:
    """What a daemon has that its successor gets, and the successor, which takes it that we have ended once this goes."""

    config: Config
    state: State
    lock: BinaryIO | None
    mount: Mount | None
    server: "Serving | None"
    upkeep: trio.CancelScope
    successor: Successor | None = None


class Restarts:
    """Of one daemon. `end` ends it in peace; `everything` at once."""

    def __init__(
        self, held: Held, program: Program, end: Callable[[], Awaitable[None]], everything: trio.CancelScope
    ) -> None:
        self._held = held
        self._program = program
        self._end = end
        self._everything = everything

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """For ever: restarts whenever it is asked to, until it has."""
        with trio.open_signal_receiver(signal.SIGUSR2) as signals:
            task_status.started()
            async for _ in signals:
                if await self._restarted():
                    return

    async def _restarted(self) -> bool:
        log.info("asked to restart: a successor loads")
        notify.reloading()
        successor: Successor | None = None
        try:
            successor = await _in_thread(partial(Successor, self._program))
            await _in_thread(successor.loaded)
            why = successor.objection(self._held.config)
            await (self._remount(successor, why) if why else self._hand_over(successor))
        except BaseException as failed:
            if successor is not None and not self._held.state.handed_on:
                successor.end()
            if not isinstance(failed, (LfsfsError, OSError)):
                raise
            log.error("no restart, and this daemon serves on: %s", failed)
            self._held.state.say(restart={"failed": str(failed), "at": time.time_ns()})
            notify.notify(notify.READY)
            return False
        await trio.lowlevel.wait_readable(successor.fileno())
        log.error("the successor (pid %d) has ended before this daemon had: ending at once", successor.pid)
        self._everything.cancel()
        return True

    async def _remount(self, successor: Successor, why: str) -> None:
        """The successor begins when this daemon has ended."""
        held = self._held
        log.warning("the mount is taken away and made anew: %s", why)
        await _in_thread(partial(successor.remount, self._lock(), self._sockets()))
        notify.notify(f"MAINPID={successor.pid}")
        held.state.handed_on, held.successor = True, successor
        if held.server is not None:
            held.server.keep_sockets()
        await self._end()

    async def _hand_over(self, successor: Successor) -> None:
        mount = self._held.mount
        await _in_thread(partial(successor.prepare, self._lock(), self._sockets()))
        if mount is None:
            await _in_thread(partial(successor.take, None))
            return self._go(successor, 0.0)
        await mount.writers_done(DRAIN_SECONDS)
        await self._hold(mount)
        begun = trio.current_time()
        try:
            await _in_thread(partial(successor.take, mount.described()))
            self._go(successor, trio.current_time() - begun)
        except BaseException:
            mount.release()
            raise

    async def _hold(self, mount: Mount) -> None:
        for _ in range(HOLD_ATTEMPTS):
            if await mount.hold():
                return
            await trio.sleep(HOLD_PAUSE_SECONDS)
        raise Unavailable("some of what the mount was asked for has been under way too long; try again later")

    def _go(self, successor: Successor, seconds: float) -> None:
        """From here on the successor serves. Hung if it has ended: then nothing has changed."""
        held = self._held
        notify.notify(f"MAINPID={successor.pid}")
        successor.go(seconds)
        held.state.handed_on = True
        if held.mount is not None:
            held.mount.leave()
        if held.server is not None:
            held.server.keep_sockets()
            held.server.end()
        held.upkeep.cancel()
        if held.lock is not None:
            held.lock.close()
        log.info("the daemon is process %d from now on; requests waited for %.3f s", successor.pid, seconds)

    def _lock(self) -> int:
        return os.open(os.devnull, os.O_RDONLY) if self._held.lock is None else self._held.lock.fileno()

    def _sockets(self) -> list[tuple[str, int]]:
        return [] if self._held.server is None else self._held.server.sockets


async def _in_thread(call: Callable[[], T]) -> T:
    """Cancelled, it leaves the thread to itself: the successor is ended then, and with it what the thread waits for."""
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)
