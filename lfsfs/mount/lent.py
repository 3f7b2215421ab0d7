"""LentFiles: files that the kernel writes to by itself, and the hash that follows them all the same."""

import trio

from lfsfs.store.staged_file import StagedFile

LEAST_SECONDS, MOST_SECONDS = 0.004, 0.25  # between two looks, while they grow and while they do not


class LentFiles:
    """Of one mount. `run` looks again and again what was written, as long as there are any."""

    def __init__(self) -> None:
        self.refused = False
        """Whether this process is not told who else writes to a file: then none is lent any more."""
        self._files: dict[StagedFile, None] = {}
        self._some = trio.Event()

    def add(self, file: StagedFile) -> None:
        self._files[file] = None
        self._some.set()

    def remove(self, file: StagedFile) -> None:
        """Repeating is harmless."""
        self._files.pop(file, None)

    async def run(self) -> None:
        pause = LEAST_SECONDS
        while True:
            if not self._files:
                self._some = trio.Event()
                await self._some.wait()
                pause = LEAST_SECONDS
            await trio.sleep(pause)
            grown = [file.catch_up() for file in list(self._files)]
            pause = LEAST_SECONDS if any(grown) else min(2 * pause, MOST_SECONDS)
