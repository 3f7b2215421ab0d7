"""Circuit: what stands between us and a remote tier that may not answer. Waits, tries again, and knows when not to.

After a few failures in a row the circuit is open: nothing is sent but a small probe from time to time. Its first answer
closes the circuit. Every operation has a deadline.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from lfsfs.errors import LfsfsError, LocalDamage, Unavailable

log = logging.getLogger("lfsfs.remote")
FAILURES = 3  # in a row, before the circuit opens
FIRST_PAUSE_SECONDS = 0.2
PROBE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 1.0  # one small request a second finds out soon when it is back
T = TypeVar("T")


class Circuit:
    """The state of one remote tier as this process sees it. Used from one trio thread.

    `probe` is one small request: what is tried while the circuit is open, whatever the work is.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]]) -> None:
        self.failures = 0
        self.answered_at = -math.inf  # when the remote tier last did
        self._probe = probe
        self.last_error = ""
        self._pause = FIRST_PAUSE_SECONDS
        self._retry_at = 0.0
        self._trial = False
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def is_open(self) -> bool:
        """Whether the remote tier is taken to be away."""
        return self.failures >= FAILURES

    async def call(self, work: Callable[[], Awaitable[T]], deadline: float) -> T:
        """What `work` returns. Repeats it after an Unavailable until `deadline` seconds have passed; then Unavailable.

        `work` must be fit to be repeated; an answer that is an error (NotFound, Denied…) is an answer. LocalDamage is
        none.
        """
        end = trio.current_time() + deadline
        while True:
            await self._admitted(end)
            try:
                with trio.fail_at(end):
                    result = await work()
            except (Unavailable, trio.TooSlowError) as failed:
                self._failed(str(failed) or "no answer in time")
                if trio.current_time() >= end:
                    raise self.unavailable() from failed
                await trio.sleep(min(self._pause, max(0.0, end - trio.current_time())))
            except LocalDamage:
                raise
            except LfsfsError:
                self._answered()
                raise
            else:
                self._answered()
                return result

    def retry_now(self) -> None:
        """Somebody asks for another trial at once."""
        self._retry_at = 0.0
        self._changed.unpark_all()

    async def _admitted(self, end: float) -> None:
        """Returns when we may try: at once while the circuit is closed, else when a probe was answered."""
        while self.is_open:
            now = trio.current_time()
            if now >= end:
                raise self.unavailable()
            if not self._trial and now >= self._retry_at:
                await self._try(end)
                continue
            wait = end if self._trial else min(end, self._retry_at)
            with trio.move_on_at(wait):
                await self._changed.park()

    async def _try(self, end: float) -> None:
        self._trial = True
        try:
            with trio.fail_at(min(end, trio.current_time() + PROBE_SECONDS)):
                await self._probe()
            self._answered()
        except (Unavailable, trio.TooSlowError) as failed:
            self._failed(str(failed) or "no answer in time")
        except LfsfsError:
            self._answered()  # it refuses, but it is there
        finally:
            self._trial = False
            self._changed.unpark_all()

    def _answered(self) -> None:
        if self.is_open:
            log.info("the remote tier answers again")
        self.failures = 0
        self.answered_at = trio.current_time()
        self.last_error = ""
        self._pause = FIRST_PAUSE_SECONDS
        self._changed.unpark_all()

    def _failed(self, what: str) -> None:
        self.failures += 1
        self.last_error = what
        if self.failures == FAILURES:
            log.warning("the remote tier does not answer (%s): working with what is local", what)
        self._retry_at = trio.current_time() + self._pause * random.uniform(0.75, 1.25)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
        self._changed.unpark_all()

    def unavailable(self) -> Unavailable:
        """What whoever has waited long enough is told."""
        return Unavailable(f"the remote tier does not answer: {self.last_error or 'no answer in time'}")
