"""Names: what things are called in an encrypted tier. By their oids, or so that who has no key learns nothing by them.

Hashed names: each oid, and each digest in the name of a note, is encrypted by AES-256-XTS with a tweak of zeros and the
key of docs/FORMAT.md. The same oid has the same name on each machine, and the key makes the oid of a name again.
"""

from collections.abc import Callable
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lfsfs.oid import Oid

_PURPOSE = b"lfsfs names"
_KEY_BYTES = 64
_DIGEST_DIGITS = (32, 64)
_HEX = frozenset("0123456789abcdef")


class Names(Protocol):
    """A name for each oid and each note, and back."""

    ordered: bool
    """Whether names ascend as what they are for does."""

    def oid(self, oid: Oid) -> Oid: ...

    def oid_of(self, name: Oid) -> Oid: ...

    def note(self, key: str) -> str: ...

    def note_of(self, name: str) -> str: ...

    def folder(self, prefix: str) -> str:
        """What begins the names of all notes whose keys begin with `prefix`, and of others perhaps."""


class PlainNames:
    """The names are the oids and keys themselves."""

    ordered = True

    def oid(self, oid: Oid) -> Oid:
        return oid

    def oid_of(self, name: Oid) -> Oid:
        return name

    def note(self, key: str) -> str:
        return key

    def note_of(self, name: str) -> str:
        return name

    def folder(self, prefix: str) -> str:
        return prefix


class HashedNames:
    """`key`: 32 bytes; the one that this is derived from."""

    ordered = False

    def __init__(self, key: bytes) -> None:
        derived = HKDF(hashes.SHA256(), _KEY_BYTES, None, _PURPOSE).derive(key)
        self._cipher = Cipher(AES(derived), XTS(bytes(16)))

    def oid(self, oid: Oid) -> Oid:
        return Oid(self._hide(oid))

    def oid_of(self, name: Oid) -> Oid:
        return Oid(self._show(name))

    def note(self, key: str) -> str:
        return _each(key, self._hide)

    def note_of(self, name: str) -> str:
        return _each(name, self._show)

    def folder(self, prefix: str) -> str:
        parts = prefix.split("/")[:-1]
        known = next((at for at, part in enumerate(parts) if _is_shard(part)), len(parts))
        return "".join(f"{part}/" for part in self.note("/".join(parts[:known])).split("/") if part)

    def _hide(self, digits: str) -> str:
        return self._cipher.encryptor().update(bytes.fromhex(digits)).hex()

    def _show(self, digits: str) -> str:
        return self._cipher.decryptor().update(bytes.fromhex(digits)).hex()


def _each(name: str, change: Callable[[str], str]) -> str:
    """The name with each digest in it changed, and the folders aa/bb before one, which begin as it does, with it."""
    parts = name.split("/")
    for at, part in enumerate(parts):
        if len(part) not in _DIGEST_DIGITS or not _HEX.issuperset(part):
            continue
        parts[at] = changed = change(part)
        if parts[max(0, at - 2) : at] == [part[:2], part[2:4]]:
            parts[at - 2 : at] = [changed[:2], changed[2:4]]
    return "/".join(parts)


def _is_shard(part: str) -> bool:
    return len(part) == 2 and _HEX.issuperset(part)
