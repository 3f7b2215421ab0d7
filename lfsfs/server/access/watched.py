"""Watched: a file of permissions, read again when it has changed, so that what an administrator does holds at once."""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from lfsfs.errors import InvalidConfig, Unavailable

log = logging.getLogger("lfsfs.access")
T = TypeVar("T")
Stamp = tuple[int, int, int, int]


class Watched(Generic[T]):
    """What a file says. InvalidConfig if it says nothing good when this is made."""

    def __init__(self, file: Path, parse: Callable[[Path, bytes], T]) -> None:
        self._file = file
        self._parse = parse
        self._stamp, self._content = self._read()

    def current(self) -> T:
        """As of now. Unavailable while the file is gone or broken: nobody is let in by what it said before."""
        try:
            stamp = _stamp(os.stat(self._file))
            if stamp != self._stamp:
                self._stamp, self._content = self._read()
        except (OSError, InvalidConfig) as error:
            self._stamp = (0, 0, 0, 0)
            log.error("nobody can be let in: %s", error)
            raise Unavailable("the server does not know its users") from error
        return self._content

    def _read(self) -> tuple[Stamp, T]:
        return read_checked(self._file, self._parse)


def read_checked(file: Path, parse: Callable[[Path, bytes], T]) -> tuple[Stamp, T]:
    """The file's content and its stamp. InvalidConfig: it cannot be read, or just anybody can write it."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read()
    except OSError as error:
        raise InvalidConfig(f"{file}: {error.strerror}") from error
    if status.st_mode & stat.S_IWOTH:
        raise InvalidConfig(f"{file}: everybody may write it: take that away with chmod o-w")
    return _stamp(status), parse(file, content)


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode
