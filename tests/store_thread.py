"""StoreThread: a store that is open in a thread of its own, for tests that are not asynchronous themselves."""

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import trio

from lfsfs import Store

OPEN_SECONDS = 120.0
T = TypeVar("T")


class StoreThread:
    """It stays open from the beginning until `close`."""

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[Store]]) -> None:
        self._opening = opening
        self.open()

    def open(self) -> None:
        """Once more, after `close`."""
        self._ready: Future[tuple[Store, trio.Event, trio.lowlevel.TrioToken]] = Future()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), daemon=True)
        self._thread.start()
        self.store, self._end, self._token = self._ready.result(OPEN_SECONDS)

    def run(self, call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        return trio.from_thread.run(call, *arguments, trio_token=self._token)

    def close(self) -> None:
        self._token.run_sync_soon(self._end.set)
        self._thread.join(OPEN_SECONDS)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        try:
            async with self._opening() as store:
                end = trio.Event()
                self._ready.set_result((store, end, trio.lowlevel.current_trio_token()))
                await end.wait()
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)
