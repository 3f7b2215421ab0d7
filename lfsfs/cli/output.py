"""The only place that prints: tables and sentences for people, JSON for programs, one line per error."""

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Generic, Literal, TextIO, TypeVar

from lfsfs.errors import (
    Exists,
    InUse,
    InvalidConfig,
    InvalidName,
    InvalidOid,
    LfsfsError,
    NoSpace,
    NotFound,
    ReadOnly,
    Refused,
)
from lfsfs.units import iso_time as iso_time
from lfsfs.units import safe as safe

T = TypeVar("T")

Style = Literal["good", "bad", "warn", "head"]
_STYLES: dict[Style, str] = {"good": "32", "bad": "1;31", "warn": "33", "head": "1"}
DONE, FAILED, USAGE, ABSENT, REFUSED = 0, 1, 2, 3, 4
INTERRUPTED = 130  # as a shell says it of SIGINT
_STATUS: tuple[tuple[tuple[type[LfsfsError], ...], int], ...] = (
    ((InvalidConfig, InvalidOid, InvalidName), USAGE),
    ((NotFound,), ABSENT),
    ((InUse, Refused, Exists, ReadOnly), REFUSED),
)
_ROOM = "; `lfsfs gc --yes` and `lfsfs vacuum` free what nothing needs; or use a larger disk"
_ELSEWHERE = "; run this as a user who may, or name another place"
_FILES = "; raise the limit of open files: `lfsfs doctor` says how"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: "; nothing can be written there: name another place, or mount with --read-only",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOTCONN: "; the mount's daemon is gone: `lfsfs unmount` takes it away, then mount again",
}
"""What to do, after what went wrong: of errors that do not say it themselves."""


class ToldByDaemon(LfsfsError):
    """An error that another process of ours had; with the exit status that tells it."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def exit_status(error: BaseException) -> int:
    """The exit status that tells this error."""
    if isinstance(error, ToldByDaemon):
        return error.exit_status
    return next((status for kinds, status in _STATUS if isinstance(error, kinds)), FAILED)


def line(text: str = "", *, mark: str = "", style: Style | None = None) -> None:
    """A line on standard output. Whatever a name in it may hold, it stays one line.

    `mark` stands before it, in this style where a person watches.
    """
    sys.stdout.write(styled(mark, style, sys.stdout) + safe(text) + "\n")


def styled(text: str, style: Style | None, stream: TextIO) -> str:
    """The text as a terminal shows it in this style; as it is in a pipe, and where NO_COLOR asks for that."""
    if style is None or not text or not in_colour(stream):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def in_colour(stream: TextIO) -> bool:
    """https://no-color.org"""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def raw(text: str) -> None:
    """A text of our own, as it is, on standard output."""
    sys.stdout.write(text)


def note(text: str) -> None:
    """A line on standard error, for the person at the terminal."""
    _complain(text)


def error(problem: BaseException) -> int:
    """Says what went wrong, in one line on standard error; the exit status that tells it."""
    _complain(told(problem), "bad")
    return exit_status(problem)


def told(problem: BaseException) -> str:
    """The error in words: what failed, why, and what to do where that can be known from here."""
    if not isinstance(problem, OSError):
        return (str(problem) or type(problem).__name__) + (_ROOM if isinstance(problem, NoSpace) else "")
    if not problem.strerror:
        return str(problem) or type(problem).__name__
    where = os.fsdecode(problem.filename) if isinstance(problem.filename, str | bytes) else None
    said = f"{where}: {problem.strerror}" if where else problem.strerror
    return said + _REMEDIES.get(problem.errno or 0, "")


def as_json(value: object) -> None:
    """A JSON value on standard output. Names that are no UTF-8 have their bytes as \\udc80 to \\udcff."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


class Listing(Generic[T]):
    """A list printed as it comes: a line of text each, or one JSON array with an element a line."""

    def __init__(self, *, json: bool, element: Callable[[T], object], text: Callable[[T], str]) -> None:
        self._json = json
        self._element = element
        self._text = text
        self._lines = 0

    def __enter__(self) -> "Listing[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """An array that an error cuts short stays open, so that no program takes it for all there is."""
        if self._json and kind is None:
            sys.stdout.write("\n]\n" if self._lines else "[]\n")

    def add(self, value: T) -> None:
        if self._json:
            sys.stdout.write(f"{',' if self._lines else '['}\n  {json.dumps(self._element(value))}")
        else:
            line(self._text(value))
        self._lines += 1


def table(rows: list[tuple[str, str]]) -> None:
    """Names and values, aligned; a value of several lines is continued below itself."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        for number, piece in enumerate(value.split("\n")):
            line(f"{name if number == 0 else '':{width}}  {piece}")


_hushed = False


def hush() -> None:
    """No progress is shown from now on, in this process."""
    global _hushed
    _hushed = True


def is_hushed() -> bool:
    return _hushed


def _complain(text: str, style: Style | None = None) -> None:
    sys.stderr.write(f"{styled('lfsfs:', style, sys.stderr)} {safe(text)}\n")
