"""Bursts: when many small files come at once, what can wait lets them pass."""

from collections import deque

import trio

FILES = 16
WITHIN_SECONDS = 0.2  # so many files in so short a time are a burst
LONGEST_SECONDS = 5.0  # what waits for a burst to end waits no longer, and then works for as long
LOOK_SECONDS = 0.05


class Bursts:
    """Used from one trio thread."""

    def __init__(self) -> None:
        self._arrivals: deque[float] = deque(maxlen=FILES)
        self._works_until = 0.0

    def arrived(self) -> None:
        """A small file is being committed."""
        self._arrivals.append(trio.current_time())

    def go_on(self) -> None:
        """Somebody waits for the work: it lets nothing pass for a while."""
        self._works_until = trio.current_time() + LONGEST_SECONDS

    def done(self) -> None:
        """There is nothing left of the work that somebody has waited for."""
        self._works_until = 0.0

    async def pass_by(self) -> None:
        """Returns at once where there is no burst, else when it is over, or has gone on for too long."""
        since = trio.current_time()
        while self._is_on() and trio.current_time() >= self._works_until:
            if trio.current_time() - since > LONGEST_SECONDS:
                self.go_on()
            await trio.sleep(LOOK_SECONDS)

    def _is_on(self) -> bool:
        arrivals = self._arrivals
        return len(arrivals) == FILES and trio.current_time() - arrivals[0] < WITHIN_SECONDS
