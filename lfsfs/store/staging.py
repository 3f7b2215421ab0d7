"""Staging: where the files that a process writes lie until they are objects, and what dead processes left of theirs."""

import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from lfsfs.alone import LOCK_FILE, UNREADY, make_held, try_alone
from lfsfs.store.gathered import Gathered
from lfsfs.store.limits import Limits
from lfsfs.store.residents import room_of
from lfsfs.store.space import Space
from lfsfs.store.staged_file import StagedFile


class Staging:
    """The directory where this process stages, `directory`/<own>/, and the threads that hash.

    The directory's lock file is held while the process lives; a directory that nobody holds is what a dead process
    left behind, and is removed by `clean`.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self.directory = directory
        self.durable = durable
        self.space: Space | None = None  # where the store bounds what may be staged
        self.limits: Limits | None = None  # where anything is limited
        self.gathered = Gathered()
        self.pool = ThreadPoolExecutor(
            max_workers=2 * max(2, os.cpu_count() or 1), thread_name_prefix="lfsfs-hash"
        )
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="lfsfs-flush") if durable else None
        self._own: Path | None = None
        self._lock = -1
        self._number = 0

    def new_path(self) -> Path:
        """A path of its own in this process's staging directory, which is made on first use."""
        if self._own is None:
            self._own, self._lock = _make_own(self.directory)
        self._number += 1
        return self._own / f"{self._number}"

    @asynccontextmanager
    async def place(self, size: int, *, commits: bool = False) -> AsyncIterator[Path]:
        """A path for a file of so many bytes, which are reserved meanwhile; what lies there in the end is removed.

        `commits`: it is made an object meanwhile. Waits for room where the store has bounds. NoSpace.
        """
        path = self.new_path()
        async with self.room(size, commits=commits):
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)

    @asynccontextmanager
    async def room(self, size: int, *, commits: bool = False) -> AsyncIterator[None]:
        """As `place`, of a file that lies elsewhere on the store's disk, and is removed by who made it."""
        if self.space is None or size == 0:
            yield
            return
        grant = self.space.grant()
        try:
            beside = self.space.beside(size) if commits else 0
            await self.space.reserve_pending(grant, room_of(size) + beside)
            yield
        finally:
            grant.close()

    def new_file(self, mode: int = 0o644) -> StagedFile:
        """An empty staged file with these permission bits. TooManyUploads."""
        if self.limits is not None:
            self.limits.check_uploads()
        grant = self.space.grant() if self.space else None
        made = StagedFile(
            self.new_path(), self.pool, grant=grant, mode=mode, limits=self.limits, gathered=self.gathered,
            flusher=self._flusher,
        )  # fmt: skip
        if self.limits is not None:
            self.limits.begin(made)
        return made

    def take_over(self, state: tuple[str, int, bytes | None]) -> StagedFile:
        """What another process has staged. Its file, if it has one, gets a second name here, and keeps the first."""
        path, mode, memory = state
        made = self.new_file(mode)
        if memory is None:
            os.link(path, made.path)
        made.go_on(memory)
        return made

    def follow(self, path: Path, key: object) -> StagedFile:
        """A file elsewhere on the store's disk (a git-lfs temp), as a staged file; `key` tells it from others."""
        grant = self.space.grant(key) if self.space else None
        return StagedFile(
            path, self.pool, grant=grant, limits=self.limits, gathered=self.gathered, flusher=self._flusher
        )

    def discard(self, file: StagedFile, *, written: bool = True) -> None:
        """Removes the staged file's name; absent is success. `written`: there may be such a name."""
        if self.limits is not None:
            self.limits.end(file)
        try:
            if written:
                os.unlink(file.path)
        except FileNotFoundError:
            pass  # it lay in memory
        if file.grant is not None:
            file.grant.close()

    def forget(self, key: object) -> None:
        """The file that was followed under this key is gone, or has become an object."""
        if self.space is not None:
            self.space.forget(key)

    def close(self) -> None:
        self.pool.shutdown(wait=True)
        if self._flusher is not None:
            self._flusher.shutdown(wait=True, cancel_futures=True)
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._lock)
            self._own = None

    def clean(self) -> int:
        """Removes what dead processes left staged; how many directories that was."""
        return sweep(self.directory, self._own)


def sweep(directory: Path, own: Path | None = None) -> int:
    """Removes what dead processes left in a directory where some stage; how many directories that was.

    What has another name than those that stage give to theirs is not touched.
    """
    removed = 0
    for entry in sorted(directory.iterdir()) if directory.is_dir() else []:
        if entry != own and _PROCESS_DIRECTORY.fullmatch(entry.name) and _abandoned(entry):
            shutil.rmtree(entry, ignore_errors=True)
            removed += 1
    return removed


_PROCESS_DIRECTORY = re.compile(
    rf"\d+-(put-)?\w{{8}}({re.escape(UNREADY)})?"
)  # this module's, and LocalTier's
_YOUNG_SECONDS = 10.0  # a directory whose lock is not held may be a process's that has only just made it


def _make_own(directory: Path) -> tuple[Path, int]:
    directory.mkdir(exist_ok=True)
    return make_held(directory, f"{os.getpid()}-")


def _abandoned(directory: Path) -> bool:
    if not directory.is_dir() or directory.is_symlink():
        return False
    try:
        young = time.time() - directory.stat().st_mtime <= _YOUNG_SECONDS
    except FileNotFoundError:
        return False
    if young and directory.name.endswith(UNREADY):
        return False
    try:
        with (directory / LOCK_FILE).open("rb") as lock:
            return try_alone(lock)
    except FileNotFoundError:
        return not young
