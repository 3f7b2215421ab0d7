"""The sealed form of a note: small, read whole, and replaced by what is written next under its key.

Layout: docs/FORMAT.md. It is bound to the note's key: under another one it does not open.
"""

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lfsfs.errors import Corrupt
from lfsfs.tiers.encryption.frames import KEY_BYTES, NONCE_BYTES, TAG_BYTES
from lfsfs.tiers.encryption.ring import Ring

MAGIC = b"lfsfs-note-0001\n"
_HEAD = struct.Struct(">16s16s")  # magic, id of the ring's key
EXTRA_BYTES = _HEAD.size + NONCE_BYTES + TAG_BYTES
_PURPOSE = b"lfsfs notes"


class Notes:
    """Seals and opens the notes of one ring."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._ciphers = {key.id: AESGCM(_derived(key.key)) for key in ring.keys}

    def seal(self, key: str, content: bytes) -> bytes:
        head = _HEAD.pack(MAGIC, self._ring.newest.id)
        nonce = os.urandom(NONCE_BYTES)
        cipher = self._ciphers[self._ring.newest.id]
        return head + nonce + cipher.encrypt(nonce, content, head + key.encode())

    def open(self, key: str, sealed: bytes) -> bytes:
        """Corrupt where it is not what was sealed under this key; UnknownKey."""
        if len(sealed) < EXTRA_BYTES or not sealed.startswith(MAGIC):
            raise Corrupt(f"{key} in the remote tier is not encrypted, or is damaged")
        head, rest = sealed[: _HEAD.size], sealed[_HEAD.size :]
        _, key_id = _HEAD.unpack(head)
        self._ring.find(key_id)
        try:
            return self._ciphers[key_id].decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], head + key.encode())
        except InvalidTag as error:
            raise Corrupt(f"{key} in the remote tier is damaged") from error


def _derived(key: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, None, _PURPOSE).derive(key)
