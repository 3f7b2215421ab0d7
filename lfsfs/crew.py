"""Crew: a few tasks at once, the first that fails ends all, and its error is the crew's."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio


class Crew:
    """`crew` makes one."""

    def __init__(self, nursery: trio.Nursery, parallel: int) -> None:
        self._nursery = nursery
        self._free = trio.Semaphore(parallel)

    async def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Waits until one of them is free to do this work."""
        await self._free.acquire()
        self._nursery.start_soon(self._run, work)

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            self._free.release()


@asynccontextmanager
async def crew(parallel: int) -> AsyncIterator[Crew]:
    """At the end of the block all work is done. What fails is raised as it is, in no group of exceptions."""
    try:
        async with trio.open_nursery() as nursery:
            yield Crew(nursery, parallel)
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One that somebody caused: an interrupt before all others."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseExceptionGroup):
            waiting += reversed(found.exceptions)
        else:
            leaves.append(found)
    return next((leaf for leaf in leaves if not isinstance(leaf, Exception)), leaves[0])
