"""An object's file, read whole from the local disk, not from memory, and compared with its oid."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from lfsfs.errors import Corrupt, NotFound
from lfsfs.integrity.pace import Pace
from lfsfs.oid import Oid
from lfsfs.store.digests import block_count
from lfsfs.store.hashing import BLOCK_BYTES, DIGEST_BYTES, Digest, block_digest
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.local_file import LocalFile

_UNREADABLE = frozenset((errno.EIO, errno.EUCLEAN, errno.EILSEQ))


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a file. `size` and `blocks` (its block digests) are right where it is whole."""

    state: Literal["whole", "damaged", "missing"]
    size: int = 0
    blocks: bytes = b""
    why: str = ""


def examine(tier: LocalTier, oid: Oid, size: int, blocks: bytes, pace: Pace, *, quick: bool) -> Found:
    """Reads the file. Blocks; in a thread of trio's.

    `size` and `blocks`: what the index says. `quick`: where every block has its digest, the file is taken to be what was
    committed; its SHA-256 is computed only where that is not so. PermissionError and the like are raised.
    """
    try:
        with tier.open(oid) as file, _from_disk(file.descriptor):
            if quick and _has_digests(file, size, blocks, pace):
                return Found("whole", size, blocks)
            return _compared(file, oid, pace)
    except NotFound:
        return Found("missing", why="its file is gone")
    except Corrupt as damaged:
        return Found("damaged", why=str(damaged))
    except OSError as failed:
        if failed.errno not in _UNREADABLE:
            raise
        return Found("damaged", why=f"the disk cannot read it: {failed.strerror}")


@contextmanager
def _from_disk(fd: int) -> Iterator[None]:
    """The pages that memory has of the file are dropped first, but for dirty ones: the disk is what is looked at.

    Afterwards memory has none where it had none: a verification takes no room from those who work.
    """
    was_cached = _is_cached(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    try:
        yield
    finally:
        if not was_cached:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _is_cached(fd: int) -> bool:
    """Whether memory has the beginning of the file."""
    try:
        return os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT) > 0
    except OSError:
        return False


def _compared(file: LocalFile, oid: Oid, pace: Pace) -> Found:
    digest = Digest()
    for piece in pace.pieces(file):
        digest.update(piece)
    if digest.sha256() != oid.to_bytes():
        return Found(
            "damaged", digest.size, why=f"its {digest.size} bytes do not have the SHA-256 of its name"
        )
    return Found("whole", digest.size, digest.blocks())


def _has_digests(file: LocalFile, size: int, blocks: bytes, pace: Pace) -> bool:
    """Whether the file is as long as is due, and every block of it has its digest."""
    if file.size != size or len(blocks) != block_count(size) * DIGEST_BYTES:
        return False
    number = 0
    for piece in _blocks(pace, file):
        if block_digest(piece) != blocks[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
            return False
        number += 1
    return number == block_count(size)


def _blocks(pace: Pace, file: LocalFile) -> Iterator[bytes]:
    """The file in blocks, whatever pieces a read brings."""
    held = b""
    for piece in pace.pieces(file):
        held = held + piece if held else piece
        while len(held) >= BLOCK_BYTES:
            yield held[:BLOCK_BYTES]
            held = held[BLOCK_BYTES:]
    if held:
        yield held
