"""FileSource: the bytes of a file on their way into a tier."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lfsfs.errors import LfsfsError, LocalDamage
from lfsfs.oid import Oid


@dataclass(frozen=True)
class FileSource:
    """The Source of a file that is open."""

    fd: int
    size: int
    sha256: bytes | None = None
    exact: bool = True
    over: bool = False

    def read_at(self, offset: int, size: int) -> bytes:
        piece = os.pread(self.fd, size, offset)
        if len(piece) < size:
            raise LocalDamage("the file changed while it was stored: it ends early")
        return piece


@contextmanager
def open_source(oid: Oid, path: Path, *, over: bool = False) -> Iterator[FileSource]:
    """The file of an object as a source, as long as the block lasts; `over` as Source has it.

    LfsfsError where it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LfsfsError(f"cannot store {oid}: {error.strerror}") from error
    try:
        yield FileSource(fd, os.fstat(fd).st_size, oid.to_bytes(), over=over)
    finally:
        os.close(fd)
