"""Conditions and ranges of HTTP (RFC 9110, 13 and 14): what of an object a GET is to answer with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*\Z", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes `start` to `end`, which is not one of them."""

    start: int
    end: int


class Unsatisfiable(ValueError):
    """A range that begins behind the last byte."""


def part(headers: Mapping[str, str], size: int, etag: str) -> Part | None:
    """The part that is asked for; None: all. Unsatisfiable. Whatever is no single range of bytes is ignored."""
    wanted = _RANGE.match(headers.get("range", ""))
    if wanted is None or headers.get("if-range", etag) != etag:
        return None
    first, last = wanted.groups()
    if not first and not last:
        return None
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        raise Unsatisfiable
    return Part(start, end)


def is_known(headers: Mapping[str, str], etag: str) -> bool:
    """Whether the client has the object with this tag already."""
    tags = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
    return etag in tags or tags == ["*"]
