"""Derived: a value that takes a walk through the index to know, kept until the index has changed, and never computed
for one request alone: one page after another in a thread, for a small share of the time at most.
"""

import logging
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

import trio

from lfsfs.errors import LfsfsError
from lfsfs.store.index import Index

log = logging.getLogger("lfsfs.server")
T = TypeVar("T")

PATIENCE_SECONDS = 1.0
"""What a request waits for a value before it shows the last one."""
SHARE = 20
"""A walk rests for so many times as long as it took."""
TURN_SECONDS = 0.02
"""In the thread at once; then it rests as long."""


class Derived(Generic[T]):
    """A value. `count` begins a walk: it yields after each page, and returns the value. `threads`: which walks share."""

    def __init__(
        self, index: Index, count: Callable[[], Generator[None, None, T]], threads: trio.CapacityLimiter
    ) -> None:
        self._index = index
        self._count = count
        self._threads = threads
        self._value: T | None = None
        self._seen = -1  # the transaction that the value is of
        self._rests_until = -1.0
        self._walking: trio.Event | None = None

    async def current(self, nursery: trio.Nursery, patience: float = PATIENCE_SECONDS) -> T | None:
        """The value, not older than the last walk; None as long as the first one takes.

        `nursery`: where a walk goes on when the request is answered.
        """
        due = self._seen != self._index.last_transaction() and trio.current_time() >= self._rests_until
        if due and self._walking is None:
            self._walking = trio.Event()
            nursery.start_soon(self._walk, self._walking)
        if self._walking is not None:
            with trio.move_on_after(patience):
                await self._walking.wait()
        return self._value

    async def _walk(self, ended: trio.Event) -> None:
        seen = self._index.last_transaction()
        pages = self._count()
        worked, running = 0.0, True
        try:
            while running:
                seconds, running = await trio.to_thread.run_sync(self._turn, pages, limiter=self._threads)
                worked += seconds
                if running:
                    await trio.sleep(seconds)
            self._seen = seen
        except LfsfsError as error:
            log.error("what the page shows cannot be counted: %s", error)
        finally:
            self._rests_until = trio.current_time() + worked * SHARE
            self._walking = None
            ended.set()

    def _turn(self, pages: Generator[None, None, T]) -> tuple[float, bool]:
        """Pages for a moment: how many seconds they took, and whether there are more."""
        begun = time.perf_counter()
        while (seconds := time.perf_counter() - begun) < TURN_SECONDS:
            try:
                next(pages)
            except StopIteration as end:
                self._value = end.value
                return time.perf_counter() - begun, False
        return seconds, True
