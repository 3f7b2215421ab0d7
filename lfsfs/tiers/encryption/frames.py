"""The sealed form of an object: a head, then frames of 64 KiB, each encrypted and authenticated by itself.

The law of this file (layout and vectors: docs/FORMAT.md):

1. Every object has a data key of its own, by chance, wrapped in its head by a key of the ring. The wrapping is bound to
   the oid: a sealed object under another name cannot be opened.
2. The nonce of a frame is its number and whether it is the last. A key is used for one object only, so no nonce is used
   twice; frames that change places, or an end that is cut off, do not open.
3. The length of the object follows from the length of the sealed one.

The construction of the frames is that of age's payload (https://age-encryption.org/v1), with AES-256-GCM.
"""

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lfsfs.errors import Corrupt
from lfsfs.oid import Oid

MAGIC = b"lfsfs-sealed-01\n"
FRAME_BYTES = 64 << 10
TAG_BYTES = 16
SEALED_FRAME_BYTES = FRAME_BYTES + TAG_BYTES
KEY_BYTES, KEY_ID_BYTES, NONCE_BYTES = 32, 16, 12
_HEAD = struct.Struct(
    ">16s16sI12s48s"
)  # magic, id of the ring's key, bytes of a frame, nonce, wrapped data key
_BOUND_BYTES = 36  # of the head: what the wrapping is bound to, beside the oid
HEAD_BYTES = _HEAD.size


@dataclass(frozen=True, slots=True)
class Head:
    """What a sealed object says of itself."""

    key_id: bytes
    nonce: bytes
    wrapped: bytes


def encode_head(oid: Oid, key_id: bytes, ring_key: bytes, data_key: bytes, nonce: bytes) -> bytes:
    bound = struct.pack(">16s16sI", MAGIC, key_id, FRAME_BYTES)
    return bound + nonce + AESGCM(ring_key).encrypt(nonce, data_key, bound + oid.to_bytes())


def decode_head(head: bytes) -> Head | None:
    """None where the bytes do not begin a sealed object."""
    if len(head) < HEAD_BYTES or not head.startswith(MAGIC):
        return None
    _, key_id, frame, nonce, wrapped = _HEAD.unpack_from(head)
    return Head(key_id, nonce, wrapped) if frame == FRAME_BYTES else None


def unwrap(head: Head, oid: Oid, ring_key: bytes) -> bytes:
    """The data key. Corrupt where the head is damaged, or another object's."""
    bound = struct.pack(">16s16sI", MAGIC, head.key_id, FRAME_BYTES)
    try:
        return AESGCM(ring_key).decrypt(head.nonce, head.wrapped, bound + oid.to_bytes())
    except InvalidTag as error:
        raise Corrupt(f"object {oid}: the head of its sealed form is damaged, or another object's") from error


def frame_count(size: int) -> int:
    """Of an object of so many bytes: an empty one has one frame, which is empty."""
    return max(1, -(-size // FRAME_BYTES))


def sealed_size(size: int) -> int:
    return HEAD_BYTES + size + TAG_BYTES * frame_count(size)


def plain_size(sealed: int) -> int:
    """Of a sealed object of so many bytes. Corrupt where no object has such a sealed form."""
    size = apparent_size(sealed)
    if sealed_size(size) != sealed:
        raise Corrupt(f"a sealed object of {sealed} bytes is cut short")
    return size


def apparent_size(sealed: int) -> int:
    """As plain_size; of what is cut short, some other size than it had."""
    body = sealed - HEAD_BYTES
    return max(0, body - TAG_BYTES * max(1, -(-body // SEALED_FRAME_BYTES)))


def offset_of(frame: int) -> int:
    """Where the frame begins in the sealed object."""
    return HEAD_BYTES + frame * SEALED_FRAME_BYTES


class Frames:
    """Seals and opens the frames of one object. Any number of threads at once."""

    def __init__(self, oid: Oid, data_key: bytes) -> None:
        self._oid = oid
        self._cipher = AESGCM(data_key)

    def seal(self, number: int, plain: bytes | memoryview, *, last: bool) -> bytes:
        return self._cipher.encrypt(_nonce(number, last), plain, None)

    def open(self, number: int, sealed: bytes | memoryview, *, last: bool) -> bytes:
        """Corrupt where it is not what was sealed as this frame of this object."""
        try:
            return self._cipher.decrypt(_nonce(number, last), sealed, None)
        except InvalidTag as error:
            raise Corrupt(f"object {self._oid}: the sealed frame {number} is damaged: not served") from error


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(NONCE_BYTES - 1, "big") + bytes([last])
