"""A store whose directory the kernel encrypts: all that lies in it, the index and every name included.

The key of the directory is by chance, wrapped by a master key as the ring of an encrypted bucket is, and lies in an
extended attribute of the directory, which can be read while that is locked. Once it is unlocked, it is an ordinary
directory to everybody with the right to use it, until it is locked again or the machine is switched off.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lfsfs import durable
from lfsfs.errors import InUse, InvalidConfig, LfsfsError, Refused
from lfsfs.store import fscrypt
from lfsfs.tiers.encryption.masters import MasterKey
from lfsfs.tiers.encryption.ring import Ring, WrongKey, new_ring, open_ring

RING_ATTRIBUTE = "user.lfsfs.ring"
_PURPOSE = b"lfsfs store"


def create(path: Path, master: MasterKey) -> None:
    """Makes the directory, or takes an empty one, and unlocks it. Refused where something is in it.

    InvalidConfig where its file system does not encrypt.
    """
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise Refused(
            f"{path} is not empty, and can be encrypted from the beginning only: make a new one, and copy into it"
        )
    ring = new_ring()
    with fscrypt.opened(path) as fd, _said(path):
        identifier = fscrypt.add_key(fd, _key(ring))
        os.setxattr(fd, RING_ATTRIBUTE, ring.encode(master))
        durable.fsync(fd, "fsync-store")  # the key is there before anything that needs it
        fscrypt.encrypt(fd, identifier)
        durable.fsync(fd, "fsync-store")


def unlock(path: Path, master: MasterKey) -> None:
    """Gives the kernel the key. Repeating is harmless. WrongKey; Refused where the directory is not encrypted."""
    with fscrypt.opened(path) as fd, _said(path):
        identifier = _identifier(fd, path)
        key = _key(open_ring(_ring_text(fd, path), master))
        added = fscrypt.add_key(fd, key)
        if added != identifier:
            fscrypt.remove_key(fd, added)
            raise WrongKey(f"{path} is encrypted with another key than the one that lies with it")


def rewrap(path: Path, old: MasterKey, new: MasterKey) -> None:
    """Has another master key wrap the directory's key. Nothing in it is written anew. WrongKey."""
    with fscrypt.opened(path) as fd, _said(path):
        ring = open_ring(_ring_text(fd, path), old)
        os.setxattr(fd, RING_ATTRIBUTE, ring.encode(new))
        durable.fsync(fd, "fsync-store")


def lock(path: Path) -> None:
    """Takes the key from the kernel. Locked already is success. InUse where a file is open, or another user has unlocked
    it too.
    """
    with fscrypt.opened(path) as fd:
        identifier = _identifier(fd, path)
    with fscrypt.opened(path.parent) as fd, _said(path):  # the directory itself would be in use
        left = fscrypt.remove_key(fd, identifier)
    if left:
        who = "files in it are open" if left & fscrypt.FILES_BUSY else "another user has unlocked it too"
        raise InUse(f"{path} is not all locked yet: {who}")


def is_encrypted(path: Path) -> bool:
    """Whether the kernel encrypts the directory."""
    with fscrypt.opened(path) as fd:
        return fscrypt.key_of(fd) is not None


def _identifier(fd: int, path: Path) -> bytes:
    identifier = fscrypt.key_of(fd)
    if identifier is None:
        raise Refused(f"{path} is not encrypted")
    return identifier


def _ring_text(fd: int, path: Path) -> bytes:
    try:
        return os.getxattr(fd, RING_ATTRIBUTE)
    except OSError as error:
        raise InvalidConfig(f"{path} has no {RING_ATTRIBUTE}: no lfsfs has encrypted it") from error


def _key(ring: Ring) -> bytes:
    return HKDF(hashes.SHA256(), fscrypt.KEY_BYTES, None, _PURPOSE).derive(ring.oldest.key)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in fscrypt.UNSUPPORTED:
            raise InvalidConfig(
                f"the file system of {path} does not encrypt: ext4 does, after `tune2fs -O encrypt DEVICE`, and f2fs"
            ) from error
        raise LfsfsError(f"{path} cannot be encrypted, or unlocked: {error.strerror}") from error
