"""Archive: a ZIP of members that are stored as they are, written from its beginning to its end.

Its list of members waits in a temporary file: zipfile keeps an object for each in memory, which at a million is more
than half of the vectors. Always the same bytes for the same members. Format: PKWARE APPNOTE 6.3.
"""

import shutil
import struct
import tempfile
import zlib
from types import TracebackType
from typing import BinaryIO

_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LARGE_OFFSET = struct.Struct("<2HQ")
_LARGE_END = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_VERSION, _VERSION_LARGE, _UNIX = 20, 45, 3 << 8
_MIDNIGHT, _DAY = 0, 0x21  # 1980-01-01
_MODE = 0o100644 << 16
_SMALL_COUNT, _SMALL_SIZE = 0xFFFF, 0xFFFFFFFF


class Archive:
    """Writes to `file`, which is at its beginning; `with` completes it where nothing fails."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._list = tempfile.TemporaryFile()
        self._count = self._size = 0

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._list:
            if kind is None:
                self._end()

    def add(self, name: str, *pieces: bytes) -> None:
        """A member of less than 4 GiB; the name is ASCII."""
        encoded, check, size = name.encode("ascii"), 0, 0
        for piece in pieces:
            check, size = zlib.crc32(piece, check), size + len(piece)
        same = (_MIDNIGHT, _DAY, check, size, size, len(encoded))
        large = self._size >= _SMALL_SIZE
        extra = _LARGE_OFFSET.pack(1, 8, self._size) if large else b""
        version = _VERSION_LARGE if large else _VERSION
        offset = min(self._size, _SMALL_SIZE)
        head = _LOCAL.pack(b"PK\3\4", version, 0, 0, *same, 0) + encoded
        entry = _ENTRY.pack(
            b"PK\1\2", _UNIX | version, version, 0, 0, *same, len(extra), 0, 0, 0, _MODE, offset
        )
        self._file.writelines((head, *pieces))
        self._list.writelines((entry, encoded, extra))
        self._size += len(head) + size
        self._count += 1

    def _end(self) -> None:
        listed = self._list.tell()
        self._list.seek(0)
        shutil.copyfileobj(self._list, self._file, 1 << 20)
        if self._count >= _SMALL_COUNT or self._size + listed >= _SMALL_SIZE:
            counts = (self._count, self._count, listed, self._size)
            versions = (_UNIX | _VERSION_LARGE, _VERSION_LARGE)
            self._file.write(_LARGE_END.pack(b"PK\6\6", _LARGE_END.size - 12, *versions, 0, 0, *counts))
            self._file.write(_LOCATOR.pack(b"PK\6\7", 0, self._size + listed, 1))
        count = min(self._count, _SMALL_COUNT)
        size, start = min(listed, _SMALL_SIZE), min(self._size, _SMALL_SIZE)
        self._file.write(_END.pack(b"PK\5\6", 0, 0, count, count, size, start, 0))
