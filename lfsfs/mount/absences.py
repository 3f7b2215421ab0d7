"""Absences: oids of which the kernel was told, a moment ago, that there is no such object.

git-lfs asks three times for a name before it makes it: once that costs a request, for the moment that the kernel
remembers the answer. What another process or machine makes meanwhile shows after SECONDS. What this mount makes shows
at once: who makes it waits until the kernel has forgotten.
"""

from collections import OrderedDict
from functools import partial

import trio

from lfsfs.fuse import Notifier
from lfsfs.oid import Oid

SECONDS = 0.1
_WAY_SECONDS = 0.1  # what an answer may take to the kernel, which counts from there


class Absences:
    """Of one mount. From one trio thread."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[Oid, int], float] = (
            OrderedDict()
        )  # oid and directory: until when, at most
        self._directories: dict[Oid, set[int]] = {}

    def tell(self, oid: Oid, directory: int) -> float:
        """The kernel is told that it is not in the directory of this number; for how many seconds."""
        now = trio.current_time()
        self._forget_old(now)
        self._told[oid, directory] = now + SECONDS + _WAY_SECONDS
        self._told.move_to_end((oid, directory))
        self._directories.setdefault(oid, set()).add(directory)
        return SECONDS

    def has(self, oid: Oid) -> bool:
        """Whether the kernel may take it for absent somewhere."""
        return oid in self._directories

    async def end(self, oid: Oid, kernel: Notifier | None, *, renamed_into: int | None = None) -> None:
        """The object is there now: returns when the kernel knows nothing else.

        `renamed_into`: where the kernel itself puts it, and lets nobody in until it is answered.
        """
        for directory in self._directories.get(oid, set()) - {renamed_into}:
            left = self._told[oid, directory] - trio.current_time()
            if kernel is None or left <= 0:
                continue
            forget = partial(kernel.forget_name_now, directory, oid.encode())
            with trio.move_on_after(left):  # it has forgotten by itself then, whoever holds the directory
                await trio.to_thread.run_sync(forget, abandon_on_cancel=True)

    def _forget_old(self, now: float) -> None:
        while self._told:
            (oid, directory), until = next(iter(self._told.items()))
            if until > now:
                return
            del self._told[oid, directory]
            there = self._directories[oid]
            there.discard(directory)
            if not there:
                del self._directories[oid]
