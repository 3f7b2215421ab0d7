"""Session: a store that is open in a thread of its own, for all of a process who use it: LMDB opens an index once."""

import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import trio

from lfsfs.errors import InUse, LfsfsError
from lfsfs.store.opening import open_store
from lfsfs.store.store import Durability, Store

T = TypeVar("T")
Options = tuple[Durability, bool]


class Session:
    """An open store, and how many use it. `join` makes one."""

    def __init__(self, path: Path, options: Options, create: bool) -> None:
        self.options = options
        self.pid = os.getpid()
        self.users = 0
        self._path = path
        self._create = create
        self._opened: Future[tuple[Store, trio.lowlevel.TrioToken, trio.Event]] = Future()
        self._thread = threading.Thread(target=self._serve, name="lfsfs-client", daemon=True)
        self._thread.start()
        self.store, self._token, self._end = self._opened.result()

    def call(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """What `work` returns, or raises, with the store, in its thread."""
        if self.pid != os.getpid():
            raise InUse(
                f"{self._path} was opened before this process was forked: spawn it, and open the store there"
            )
        if not self._thread.is_alive():
            raise LfsfsError("the store is closed")
        return trio.from_thread.run(work, self.store, trio_token=self._token)

    def soon(self, work: Callable[[], object]) -> None:
        """Has `work` done in the thread, without waiting for it. Of a closed store: nothing happens."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(work)

    def leave(self) -> None:
        """One uses it no more; with the last one it ends, after the calls under way."""
        with _lock:
            self.users -= 1
            if self.users or self.pid != os.getpid():
                return
            _sessions.pop(self._path, None)
            self._token.run_sync_soon(self._end.set)
            self._thread.join()

    def _serve(self) -> None:
        durability, read_only = self.options

        async def main() -> None:
            async with open_store(
                self._path, durability=durability, create=self._create, read_only=read_only
            ) as store:
                end = trio.Event()
                self._opened.set_result((store, trio.lowlevel.current_trio_token(), end))
                await end.wait()

        try:
            trio.run(main)
        except BaseException as error:  # whoever opens it is to know, whatever it is
            if self._opened.done():
                raise
            self._opened.set_exception(error)


_lock = threading.Lock()
_sessions: dict[Path, Session] = {}


def join(path: Path, durability: Durability, create: bool, read_only: bool) -> Session:
    """The session of the store at `path`, which it opens for the first. InUse where it is open with other options."""
    place, options = Path(os.path.realpath(path)), (durability, read_only)
    with _lock:
        found = _sessions.get(place)
        if found is None or found.pid != os.getpid():
            found = _sessions[place] = Session(place, options, create)
        elif found.options != options:
            raise InUse(
                f"{path} is open in this process already, with other options: close that, or use the same"
            )
        found.users += 1
        return found
