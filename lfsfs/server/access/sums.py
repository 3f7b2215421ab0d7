"""A sum in the last line of a text that programs write and people edit: a bit that has flipped is told from an edit.

Where the sum does not fit any more, every bit is tried: if the text with one bit of it turned back has the sum, nobody
has edited it, the disk has changed it. What a person has changed has no such bit, and is as good as before.
"""

import re
import zlib
from pathlib import Path

from lfsfs.errors import InvalidConfig

_LINE = "# The sum of the lines above, by which a damaged file is found; who edits them need not care: %08x\n"
_FOUND = re.compile(rb"\n?# The sum of the lines above, [^\n]*: ([0-9a-f]{8})\n\Z")


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def with_sum(text: bytes) -> bytes:
    """The text, which has none, with a last line that has its sum."""
    text = text if text.endswith(b"\n") or not text else text + b"\n"
    return text + (_LINE % zlib.crc32(text)).encode()


def without_sum(text: bytes) -> bytes:
    found = _FOUND.search(text)
    return text if found is None else text[: _start(found)]


def check_sum(file: Path, text: bytes) -> None:
    """InvalidConfig, which says where, in a text in which a bit has flipped since it was given its sum."""
    found = _FOUND.search(text)
    if found is None:
        return
    rest = text[: _start(found)]
    at = _flipped(rest, zlib.crc32(rest) ^ int(found[1], 16))
    if at is None:
        return
    byte, bit = at
    line = rest.count(b"\n", 0, byte) + 1
    before, now = chr(rest[byte] ^ 1 << bit), chr(rest[byte])
    raise InvalidConfig(
        f"{file} is damaged: in line {line}, a bit has flipped, and {before!r} became {now!r}. Put it right; if that is"
        " what somebody has meant, remove the last line of the file, which has its sum"
    )


def _start(found: "re.Match[bytes]") -> int:
    return found.start() + (found[0][:1] == b"\n")


def _flipped(text: bytes, difference: int) -> tuple[int, int] | None:
    """The byte and the bit by which alone a text has a CRC that differs so much. None: there is no such bit, or the CRC
    does not differ. What one bit changes depends only on how far it is from the end.
    """
    if not difference:
        return None
    changes = {bit: _TABLE[1 << bit] for bit in range(8)}
    for byte in range(len(text) - 1, -1, -1):
        for bit, change in changes.items():
            if change == difference:
                return byte, bit
            changes[bit] = _TABLE[change & 0xFF] ^ change >> 8
    return None
