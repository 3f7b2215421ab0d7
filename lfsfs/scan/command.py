"""A program as a scanner. Its exit status is as clamscan's: 0 nothing found, 1 something found, else it failed."""

import os
import subprocess
import tempfile
from pathlib import Path

import trio

from lfsfs.errors import Unavailable
from lfsfs.scan.scanner import Subject, shown

PATH = "{path}"
"""In an argument: the object's file. Without it, the object is the program's standard input."""
_NOTHING, _FOUND = 0, 1


class Command:
    """A program and its arguments. It finds LFSFS_OID and LFSFS_SIZE in its environment."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self.name = arguments[0]
        self._arguments = arguments

    async def scan(self, subject: Subject) -> str | None:
        """As Scanner.scan. What was found is the last line that the program writes."""
        by_path = any(PATH in one for one in self._arguments)
        if not by_path and subject.content is not None:
            return await self._run(subject, self._arguments, subject.content)
        if subject.content is None:
            return await self._with_file(subject, subject.path, by_path=by_path)
        with tempfile.TemporaryDirectory(prefix="lfsfs-scan-") as folder:
            file = Path(folder) / subject.oid
            file.write_bytes(subject.content)
            return await self._with_file(subject, file, by_path=by_path)

    async def _with_file(self, subject: Subject, file: Path, *, by_path: bool) -> str | None:
        if by_path:
            arguments = tuple(one.replace(PATH, str(file)) for one in self._arguments)
            return await self._run(subject, arguments, b"")
        with file.open("rb") as opened:
            return await self._run(subject, self._arguments, opened.fileno())

    async def _run(self, subject: Subject, arguments: tuple[str, ...], given: bytes | int) -> str | None:
        environment = os.environ | {"LFSFS_OID": subject.oid, "LFSFS_SIZE": str(subject.size)}
        try:
            done = await trio.run_process(
                arguments,
                stdin=given,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                env=environment,
            )
        except OSError as failed:
            raise Unavailable(f"the scanner {self.name} cannot be run: {failed.strerror}") from failed
        lines = [line for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
        said = shown(lines[-1]) if lines else ""
        if done.returncode == _NOTHING:
            return None
        if done.returncode == _FOUND:
            return said or "found by " + self.name
        raise Unavailable(f"the scanner {self.name} failed (exit status {done.returncode}): {said}")
