"""Unfinished: uploads that came in part, and wait for somebody to go on with them, also after a restart.

Each is a file STORE/uploads/<who>-<oid>-<size>, as long as what has come; `who` is a digest of repository and uploader.
What a crash left in it is compared with the oid when the upload is whole, like all the rest.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from lfsfs.oid import Oid
from lfsfs.store.store import Store
from lfsfs.store.transfers import Upload

Key = tuple[str, str, Oid]
"""Repository, uploader, oid."""
MOST = 256
AGE_SECONDS = 24 * 3600.0
_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{64}-\d+")


@dataclass
class Partial:
    """An upload, and how much of it is there. Whoever appends holds `turn`."""

    upload: Upload
    size: int
    offset: int = 0
    used: float = 0.0
    turn: trio.Lock = field(default_factory=trio.Lock)


class Unfinished:
    """The uploads that wait. Used from one trio thread of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._directory = store.layout.uploads
        self._partials: dict[Key, Partial] = {}
        self._sweep()

    def find(self, key: Key) -> Partial | None:
        found = self._partials.get(key)
        if found is None:
            path = next(self._directory.glob(f"{_who(key)}-{key[2]}-*"), None)
            if path is not None:
                found = self._opened(key, path)
        if found is not None:
            found.used = time.time()
        return found

    async def keep(self, key: Key, size: int) -> Partial:
        """Begins a new one; drops those that nobody has gone on with for long, and, of too many, the oldest."""
        await self.drop(key)
        path = self._directory / f"{_who(key)}-{key[2]}-{size}"
        self._directory.mkdir(exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        kept = self._opened(key, path)
        self._sweep()
        idle = [
            (one.used, name)
            for name, one in self._partials.items()
            if one is not kept and not one.turn.locked()
        ]
        old = time.time() - AGE_SECONDS
        spare = len(self._partials) - MOST
        for number, (used, name) in enumerate(sorted(idle)):
            if used < old or number < spare:
                await self.drop(name)
        return kept

    async def drop(self, key: Key) -> None:
        """Forgets it, and what was written of it. Absent is success."""
        found = self.find(key)
        if found is not None:
            del self._partials[key]
            await found.upload.abort()

    def close(self) -> None:
        """The files stay, for whoever opens the store next."""
        for partial in self._partials.values():
            partial.upload.park()
        self._partials.clear()

    def _opened(self, key: Key, path: Path) -> Partial:
        repository, _, oid = key
        size = int(path.name.rpartition("-")[2])
        upload = self._store.resume_upload(path, oid, size, repository)
        self._partials[key] = opened = Partial(upload, size, upload.size, time.time())
        return opened

    def _sweep(self) -> None:
        """Of the files that nobody has open, those go that are old, and the oldest of too many."""
        known = {f"{_who(key)}-{key[2]}-{one.size}" for key, one in self._partials.items()}
        waiting = sorted(_ages(self._directory, known), reverse=True)
        for number, (age, path) in enumerate(waiting):
            if age > AGE_SECONDS or number < len(waiting) + len(known) - MOST:
                path.unlink(missing_ok=True)


def _who(key: Key) -> str:
    repository, user, _ = key
    return hashlib.sha256(f"{repository}\0{user}".encode()).hexdigest()[:32]


def _ages(directory: Path, known: set[str]) -> Iterator[tuple[float, Path]]:
    """The seconds since each was written to."""
    if directory.is_dir():
        for path in directory.iterdir():
            if _NAME.fullmatch(path.name) and path.name not in known:
                yield time.time() - path.lstat().st_mtime, path
