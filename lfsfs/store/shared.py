"""Shared: one piece of work for all who ask for it at the same time."""

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from lfsfs.errors import LfsfsError

T = TypeVar("T")


class Shared(Generic[T]):
    """Whoever asks while the work for a key is under way waits for it, and gets its result or its error.

    Work that is cancelled with the one who began it is begun again by another who waits.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, _Work[T]] = {}

    async def do(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        while True:
            running = self._running.get(key)
            if running is None:
                return await self._begin(key, work)
            await running.ended.wait()
            if running.error is not None:
                raise running.error
            if running.done:
                return running.result  # type: ignore[return-value]

    async def _begin(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        running = self._running[key] = _Work()
        try:
            running.result = await work()
            running.done = True
            return running.result
        except LfsfsError as error:
            running.error = error
            raise
        finally:
            del self._running[key]
            running.ended.set()


class _Work(Generic[T]):
    def __init__(self) -> None:
        self.ended = trio.Event()
        self.done = False
        self.result: T | None = None
        self.error: LfsfsError | None = None
