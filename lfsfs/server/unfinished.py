"""Unfinished: uploads that came in part, and wait for somebody to go on with them."""

from dataclasses import dataclass, field

import trio

from lfsfs.store.transfers import Upload

Key = tuple[str, str, str]
"""Repository, uploader, oid."""
MOST = 256
AGE_SECONDS = 24 * 3600.0


@dataclass
class Partial:
    """An upload, and how much of it is there. Whoever appends holds `turn`."""

    upload: Upload
    size: int
    offset: int = 0
    used: float = 0.0
    turn: trio.Lock = field(default_factory=trio.Lock)


class Unfinished:
    """The uploads that wait. Used from one trio thread; they end with the process."""

    def __init__(self) -> None:
        self._partials: dict[Key, Partial] = {}

    def find(self, key: Key) -> Partial | None:
        found = self._partials.get(key)
        if found is not None:
            found.used = trio.current_time()
        return found

    async def keep(self, key: Key, upload: Upload, size: int) -> Partial:
        """Keeps a new one; drops those that nobody has gone on with for long, and, of too many, the oldest."""
        self._partials[key] = kept = Partial(upload, size, used=trio.current_time())
        idle = [
            (one.used, name)
            for name, one in self._partials.items()
            if one is not kept and not one.turn.locked()
        ]
        old = trio.current_time() - AGE_SECONDS
        spare = len(self._partials) - MOST
        for number, (used, name) in enumerate(sorted(idle)):
            if used < old or number < spare:
                await self.drop(name)
        return kept

    async def drop(self, key: Key) -> None:
        """Forgets it, and what was written of it. Absent is success."""
        found = self._partials.pop(key, None)
        if found is not None:
            await found.upload.abort()
