"""The digest note: an object's block digests as they lie beside it in the remote tier, so that any machine can verify.

An object of one block needs none: its oid verifies it. Layout: docs/FORMAT.md.
"""

import errno
import struct

import trio

from lfsfs.errors import Corrupt, LocalDamage, NotFound
from lfsfs.oid import Oid
from lfsfs.store.hashing import BLOCK_BYTES, DIGEST_BYTES, block_digest
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.local_file import LocalFile

MAGIC = b"lfsfs-digests-1\n"
_HEAD = struct.Struct(">16s32sQ")  # magic, oid, size; then the digests, then the BLAKE3 of all before


def note_key(oid: Oid) -> str:
    return f"digests/{oid.path()}"


def block_count(size: int) -> int:
    return -(-size // BLOCK_BYTES)


def needs_note(size: int) -> bool:
    return size > BLOCK_BYTES


def note_size(size: int) -> int:
    """The bytes of the note of an object of so many."""
    return _HEAD.size + (block_count(size) + 1) * DIGEST_BYTES


def encode(oid: Oid, size: int, digests: bytes) -> bytes:
    text = _HEAD.pack(MAGIC, oid.to_bytes(), size) + digests
    return text + block_digest(text)


def decode(note: bytes, oid: Oid, size: int) -> bytes:
    """The digests. Corrupt unless it is the note of this object."""
    text, check = note[:-DIGEST_BYTES], note[-DIGEST_BYTES:]
    expected = _HEAD.size + block_count(size) * DIGEST_BYTES
    if (
        len(text) != expected
        or block_digest(text) != check
        or _HEAD.unpack_from(text) != (MAGIC, oid.to_bytes(), size)
    ):
        raise Corrupt(f"the digest note of {oid} in the remote tier is damaged")
    return text[_HEAD.size :]


def verify(tier: LocalTier, oid: Oid, size: int, blocks: bytes) -> None:
    """LocalDamage unless the file is what was committed: damage must not spread to the remote tier. OSError.

    Runs in a thread of trio's, and ends early where that is cancelled.
    """
    try:
        with tier.open(oid) as file:
            _verify(file, oid, size, blocks)
    except LocalDamage:
        raise
    except NotFound as gone:
        raise FileNotFoundError(errno.ENOENT, str(gone)) from gone
    except Corrupt as damaged:
        raise LocalDamage(f"{damaged}: not uploaded") from damaged


def _verify(file: LocalFile, oid: Oid, size: int, blocks: bytes) -> None:
    if file.size != size:
        raise LocalDamage(f"object {oid} has {file.size} bytes on the local disk, {size} are due")
    for number in range(block_count(size)):
        trio.from_thread.check_cancelled()
        block = file.read_at(number * BLOCK_BYTES, BLOCK_BYTES)
        if block_digest(block) != blocks[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
            raise LocalDamage(
                f"object {oid} is damaged on the local disk at {number * BLOCK_BYTES}: not uploaded"
            )
