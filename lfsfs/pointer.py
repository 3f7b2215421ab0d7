"""Pointer: the small text that git keeps in place of an object.

The format is docs/spec.md of git-lfs; what is accepted beside it (CRLF, blank lines, old version URLs, no
newline at the end, extension lines anywhere before the size) is what lfs/pointer.go of git-lfs 3.3 accepts,
and no more: the tests compare the two. Such a pointer parses, but is not `canonical`: git-lfs would write
other bytes for the same object.
"""

import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from lfsfs.errors import InvalidOid, InvalidPointer
from lfsfs.oid import EMPTY_OID, Oid

POINTER_LIMIT_BYTES = 1024
"""git-lfs looks no further into a file; its scanners of trees want pointers shorter than this."""

VERSION = "https://git-lfs.github.com/spec/v1"
KNOWN_VERSIONS = frozenset((VERSION, "https://hawser.github.com/spec/v1", "http://git-media.io/v/2"))
SIZE_LIMIT = 2**63 - 1

_KEYS = (b"version", b"oid", b"size")
_EXTENSION_KEY = re.compile(rb"ext-([0-9])-([0-9A-Za-z_][^ \n]*)\Z")
_EXTENSION_NAME = re.compile(r"[0-9A-Za-z_][^ \n]*\Z")
_SIZE = re.compile(rb"[+-]?[0-9]+\Z")
# What Go's bytes.TrimSpace takes away: str.strip() would take the ASCII separators 0x1c-0x1f as well.
_GO_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


class Extension(NamedTuple):
    """An `ext-<priority>-<name>` line: a program that changed the content, and the oid of what it got."""

    priority: int
    name: str
    oid: Oid


@dataclass(frozen=True, slots=True)
class Pointer:
    """An object's oid and size, with the extensions its content went through, by ascending priority.

    `canonical` tells whether the bytes it was parsed from are those that `encode` gives; it takes no part in
    comparison. InvalidPointer for a size or extensions that no pointer text can hold.
    """

    oid: Oid
    size: int
    extensions: tuple[Extension, ...] = ()
    canonical: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.size <= SIZE_LIMIT:
            raise InvalidPointer(f"not a pointer: size {self.size} is not between 0 and {SIZE_LIMIT}")
        priorities = [extension.priority for extension in self.extensions]
        if priorities != sorted(set(priorities)):
            raise InvalidPointer(
                "not a pointer: extensions must be in order, each with a priority of its own"
            )
        for priority, name, _ in self.extensions:
            if not 0 <= priority <= 9 or _EXTENSION_NAME.match(name) is None:
                raise InvalidPointer(f"not a pointer: no extension can be ext-{priority}-{_shown(name)}")

    @classmethod
    def for_object(cls, oid: Oid, size: int) -> "Pointer":
        """The pointer of a stored object. InvalidPointer if only one of oid and size is that of no bytes."""
        if (size == 0) != (oid == EMPTY_OID):
            raise InvalidPointer(f"no object {oid} of {size} bytes can be: {EMPTY_OID} is the one of 0 bytes")
        return cls(oid, size)

    @classmethod
    def parse(cls, content: bytes) -> "Pointer":
        """Reads a pointer as git-lfs does. No bytes at all are the pointer of the empty object.

        InvalidPointer says what is wrong.
        """
        if len(content) > POINTER_LIMIT_BYTES:
            raise InvalidPointer(
                f"not a pointer: {len(content)} bytes, a pointer has at most {POINTER_LIMIT_BYTES}"
            )
        if not content:
            return cls(EMPTY_OID, 0)
        values, extensions = _split(_trimmed(content))
        if values[b"version"].decode("utf-8", "surrogateescape") not in KNOWN_VERSIONS:
            raise InvalidPointer(f"not a pointer: unknown version {_shown(values[b'version'])}")
        pointer = cls(_oid(values[b"oid"]), _size(values[b"size"]), _extensions(extensions))
        return replace(pointer, canonical=pointer._text() == content)

    def encode(self) -> bytes:
        """The canonical text; for size 0 no bytes, since git-lfs leaves an empty file as it is.

        InvalidPointer if the names of the extensions are so long that git-lfs would not know it for a
        pointer.
        """
        text = self._text()
        if len(text) >= POINTER_LIMIT_BYTES:
            raise InvalidPointer(f"a pointer must be shorter than {POINTER_LIMIT_BYTES} bytes: {len(text)}")
        return text

    def _text(self) -> bytes:
        if self.size == 0:
            return b""
        lines = [f"version {VERSION}"]
        lines += [f"ext-{priority}-{name} sha256:{oid}" for priority, name, oid in self.extensions]
        lines += [f"oid sha256:{self.oid}", f"size {self.size}", ""]
        return "\n".join(lines).encode("utf-8", "surrogateescape")


def _trimmed(content: bytes) -> bytes:
    return content.decode("utf-8", "surrogateescape").strip(_GO_SPACES).encode("utf-8", "surrogateescape")


def _split(content: bytes) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """The values of version, oid and size, in this order, and those of the extension lines."""
    values: dict[bytes, bytes] = {}
    extensions: dict[bytes, bytes] = {}
    for raw in content.split(b"\n"):
        line = raw.removesuffix(b"\r")
        if not line:
            continue
        key, space, value = line.partition(b" ")
        if not space:
            raise InvalidPointer(f"not a pointer: a line without a value: {_shown(line)}")
        if len(values) == len(_KEYS):
            raise InvalidPointer(f"not a pointer: a line after the size: {_shown(line)}")
        expected = _KEYS[len(values)]
        if key == expected:
            values[key] = value
        elif _EXTENSION_KEY.match(key):
            extensions[key] = value
        else:
            raise InvalidPointer(f"not a pointer: {expected.decode()} expected, not {_shown(line)}")
    if len(values) < len(_KEYS):
        raise InvalidPointer(f"not a pointer: {_KEYS[len(values)].decode()} is missing")
    return values, extensions


def _oid(value: bytes) -> Oid:
    kind, _, digits = value.partition(b":")
    if kind != b"sha256":
        raise InvalidPointer(f"not a pointer: an oid must be sha256:<64 hex digits>, not {_shown(value)}")
    try:
        return Oid(digits.decode("ascii", "surrogateescape"))
    except InvalidOid as error:
        raise InvalidPointer(f"not a pointer: {error}") from error


def _size(value: bytes) -> int:
    # At most 1,024 bytes come here, so that int() has no long work to do.
    if _SIZE.match(value) is None or not 0 <= int(value) <= SIZE_LIMIT:
        raise InvalidPointer(f"not a pointer: invalid size {_shown(value)}")
    return int(value)


def _extensions(lines: dict[bytes, bytes]) -> tuple[Extension, ...]:
    found = []
    for key, value in lines.items():
        _, priority, name = key.split(b"-", 2)
        found.append(Extension(int(priority), name.decode("utf-8", "surrogateescape"), _oid(value)))
    found.sort(key=lambda extension: extension.priority)
    for one, other in pairwise(found):
        if one.priority == other.priority:
            raise InvalidPointer(f"not a pointer: two extensions of priority {one.priority}")
    return tuple(found)


def _shown(text: object) -> str:
    shown = repr(text).removeprefix("b")
    return shown if len(shown) <= 90 else f"{shown[:80]}…"
