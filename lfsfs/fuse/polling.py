"""Polling: whether to ask the device again and again for a moment, before the thread sleeps until there is a request.

To wake a thread on a core that is idle takes 50 to 150 µs in a virtual machine, for requests that are answered in ten.
So where requests have followed one upon the other, the next one is awaited awake, as the kernel's own haltpoll does it.
It costs a core that nobody else wants then, and not for long: who polls in vain begins only after SHORT_WAITS requests
more, and who finds that others want the core, or the interpreter, leaves it to them for a while.
"""

import os

MOST_NS = 400_000
"""A longer wait is slept through."""
SHORT_WAITS = 4  # in a row, and the next wait is likely short as well
INTERRUPTED_NS = 250_000  # for what takes a fifth of it: somebody else had the core
REST_NS = 20_000_000


class Polling:
    """Of one thread. Times are those of time.perf_counter_ns()."""

    def __init__(self, cores: int | None = None) -> None:
        """`cores`: that the process may use; on a single one it would be in the way of who is to ask."""
        self._alone = (len(os.sched_getaffinity(0)) if cores is None else cores) < 2
        self._short = 0
        self._rests_until = 0

    def pays(self, now: int) -> bool:
        """Whether to begin, in a wait that begins now."""
        return self._short >= SHORT_WAITS and not self._alone and now >= self._rests_until

    def goes_on(self, begun: int, last: int, now: int) -> bool:
        """Whether to look on, who has begun and last looked then; if not, it was in vain."""
        if now - last > INTERRUPTED_NS:
            self._rests_until = now + REST_NS
        elif now - begun < MOST_NS:
            return True
        self._short = 0
        return False

    def slept(self, nanoseconds: int) -> None:
        """A wait that was slept through has taken so long."""
        self._short = self._short + 1 if nanoseconds < MOST_NS else 0
