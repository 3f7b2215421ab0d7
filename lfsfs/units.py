"""Sizes, ages and times as people write and read them, and names as they can be shown."""

import re
from datetime import UTC, datetime

from lfsfs.errors import InvalidConfig

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
SECOND_NS = 10**9
_AGES = {"s": 1.0, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_BINARY = {prefix: 1024**power for power, prefix in enumerate("KMGTPE", start=1)}
_DECIMAL = {prefix: 1000**power for power, prefix in enumerate("KMGTPE", start=1)}
_AGE = re.compile(r"(\d+(?:\.\d+)?) ?([smhdw])\Z", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:([KMGTPE])(i?)B?|B?)\Z", re.ASCII | re.IGNORECASE)
_SHARE = re.compile(r"(\d+(?:\.\d+)?) ?(%?)\Z", re.ASCII)
SIZES = "a number of bytes, or one with a unit: 512, 100MB (1000s), 10GiB (1024s)"
AGES = "a number with a unit (s, m, h, d or w), such as 90s, 12h or 7d"
TIMES = (
    "a date (2026-01-31), a date and time (2026-01-31T12:00, local unless it says otherwise), or an age (7d)"
)
_LARGEST = 2**63 - 1


def parse_size(text: str) -> int:
    """Bytes. A unit with an i counts in 1024s, one without in 1000s. InvalidConfig if it is no size."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise InvalidConfig(f"not a size: {text!r}: it is {SIZES}")
    number, prefix, binary = match.groups()
    factor = 1 if prefix is None else (_BINARY if binary else _DECIMAL)[prefix.upper()]
    size = int(number) * factor if number.isdigit() else int(float(number) * factor)
    if size > _LARGEST:
        raise InvalidConfig(f"too large a size: {text!r}")
    return size


def parse_count(text: str) -> int:
    """InvalidConfig if it is no whole number above 0."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 0 < int(text) <= _LARGEST):
        raise InvalidConfig(f"not a number: {text!r}: it is 1 or more")
    return int(text)


def parse_age(text: str) -> float:
    """Seconds. InvalidConfig if it is no age."""
    match = _AGE.match(text.strip())
    if match is None:
        raise InvalidConfig(f"not an age: {text!r}: it is {AGES}")
    return float(match[1]) * _AGES[match[2]]


def parse_share(text: str) -> float:
    """Above 0, at most 1: of "5%" or "0.05". InvalidConfig if it is no part of a whole."""
    match = _SHARE.match(text.strip())
    share = 0.0 if match is None else float(match[1]) / (100 if match[2] else 1)
    if not 0 < share <= 1:
        raise InvalidConfig(f"not a part of a whole: {text!r}: it is such as 5%, up to 100%")
    return share


def parse_time(text: str, now: float) -> int:
    """Nanoseconds since 1970. An age counts back from `now` (in seconds). InvalidConfig if neither."""
    if _AGE.match(text.strip()):
        return max(0, int((now - parse_age(text)) * SECOND_NS))
    try:
        return max(0, round(datetime.fromisoformat(text.strip()).timestamp() * SECOND_NS))
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidConfig(f"not a time: {text!r}: it is {TIMES}") from error


def format_size(size: int) -> str:
    """At most 4 digits and a unit of 1024s: `17 B`, `9.5 MiB`, `200 MiB`."""
    if size < 1024:
        return f"{size} B"
    amount = float(size)
    for prefix in _BINARY:
        amount /= 1024
        if amount < 999.5 or prefix == "E":
            break
    return f"{amount:.{1 if amount < 9.95 else 0}f} {prefix}iB"


def format_time(nanoseconds: int) -> str:
    """Local time, to the second."""
    return datetime.fromtimestamp(nanoseconds / SECOND_NS).strftime("%Y-%m-%d %H:%M:%S")


def format_age(seconds: float) -> str:
    """The largest two units: `3d 4h`, `12m 5s`, `0s`."""
    left = max(0, int(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def iso_time(nanoseconds: int) -> str:
    """UTC, to the microsecond."""
    moment = datetime.fromtimestamp(nanoseconds // SECOND_NS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % SECOND_NS // 1000:06d}Z"


def safe(text: str) -> str:
    """The text without what would confuse a terminal, a page or a reader of lines: control characters, stray bytes and
    what changes the direction of writing become escapes, as in C.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how python carries a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
