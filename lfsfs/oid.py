"""Oid: the name of an object, which is the SHA-256 of its bytes."""

import hashlib
import re
from collections.abc import Sequence

from lfsfs.errors import InvalidOid

OID_HEX_DIGITS = 64
OID_BYTES = 32
_PATTERN = re.compile(r"[0-9a-f]{64}\Z")


class Oid(str):
    """64 lower-case hexadecimal digits, as Git LFS writes a SHA-256.

    A str, so that it prints, sorts and joins paths as one. `Oid("ABC")` raises InvalidOid.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> "Oid":
        if not isinstance(text, str) or _PATTERN.match(text) is None:
            raise InvalidOid(f"not an oid: {_shown(text)}: an oid is {OID_HEX_DIGITS} lower-case hex digits")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, content: bytes) -> "Oid":
        """The oid of these bytes."""
        return str.__new__(cls, hashlib.sha256(content).hexdigest())

    @classmethod
    def all_of(cls, texts: Sequence[str]) -> "list[Oid]":
        """Each of them as an oid, several times as fast as one by one. InvalidOid where one is none."""
        if not set(map(len, texts)) <= {OID_HEX_DIGITS} or not _is_hex("".join(texts)):
            return [cls(text) for text in texts]  # which raises
        return [str.__new__(cls, text) for text in texts]

    @classmethod
    def from_bytes(cls, digest: bytes) -> "Oid":
        """From the 32 bytes of a SHA-256 digest. InvalidOid."""
        return str.__new__(cls, digest.hex()) if len(digest) == OID_BYTES else cls(digest.hex())

    def to_bytes(self) -> bytes:
        """The 32 bytes of the digest."""
        return bytes.fromhex(self)

    def path(self) -> str:
        """Where git-lfs keeps it below objects/: `aa/bb/<oid>`."""
        return f"{self[:2]}/{self[2:4]}/{self}"


def digests(oids: Sequence[Oid]) -> list[bytes]:
    """`to_bytes` of each, several times as fast as one by one."""
    joined = bytes.fromhex("".join(oids))
    return [joined[start : start + OID_BYTES] for start in range(0, len(joined), OID_BYTES)]


EMPTY_OID = Oid.of(b"")
"""The oid of no bytes. git-lfs never stores it: an empty file is its own pointer."""


def _is_hex(text: str) -> bool:
    """Whether it is lower-case hexadecimal digits, an even number of them, and nothing else."""
    try:
        return bytes.fromhex(text).hex() == text
    except ValueError:
        return False


def _shown(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 90 else f"{shown[:80]}… ({len(shown)} characters)"
