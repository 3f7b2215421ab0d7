"""fscrypt: what the kernel is asked to encrypt a directory. Layout: linux/fscrypt.h.

Contents by AES-256-XTS, names by AES-256-CTS, with policies of version 2. Each function takes a directory that is open.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY_BYTES = 64
UNSUPPORTED = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system says that does not encrypt."""
FILES_BUSY, OTHER_USERS = 1, 2
_SET_POLICY, _GET_POLICY, _ADD_KEY, _REMOVE_KEY, _KEY_STATUS = (
    0x800C6613, 0xC0096616, 0xC0506617, 0xC0406618, 0xC080661A,
)  # fmt: skip
_VERSION = 2
_AES_256_XTS, _AES_256_CTS, _PAD_32 = 1, 4, 3
_POLICY = struct.Struct(
    "=BBBBB3x16s"
)  # version, contents, names, flags, log2 of the data unit, key identifier
_SPECIFIER = struct.Struct("=II32s")  # by identifier, reserved, identifier
_BY_IDENTIFIER = 2
_IDENTIFIER_BYTES = 16
_PRESENT = 2


def is_locked(path: Path) -> bool:
    """Whether it is an encrypted directory whose key the kernel has not got. Absent is not locked."""
    try:
        with opened(path) as fd:
            identifier = key_of(fd)
            return identifier is not None and not has_key(fd, identifier)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return False
        raise


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """The directory, open."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def key_of(fd: int) -> bytes | None:
    """The identifier of the directory's key; None where it is not encrypted."""
    asked = bytearray(struct.pack("=Q", _POLICY.size) + bytes(_POLICY.size))
    try:
        fcntl.ioctl(fd, _GET_POLICY, asked)
    except OSError as error:
        if error.errno in (errno.ENODATA, *UNSUPPORTED):
            return None
        raise
    version, *_, identifier = _POLICY.unpack_from(asked, 8)
    return bytes(identifier) if version == _VERSION else None


def has_key(fd: int, identifier: bytes) -> bool:
    """Whether the kernel has it: what is being taken away does not count."""
    asked = bytearray(_specifier(identifier) + bytes(88))
    fcntl.ioctl(fd, _KEY_STATUS, asked)
    return bool(struct.unpack_from("=I", asked, _SPECIFIER.size + 24)[0] == _PRESENT)


def add_key(fd: int, key: bytes) -> bytes:
    """Gives the kernel a key, for this file system and this user. Its identifier. OSError."""
    asked = bytearray(_specifier(b"") + struct.pack("=II", len(key), 0) + bytes(32) + key)
    fcntl.ioctl(fd, _ADD_KEY, asked)
    return bytes(asked[8 : 8 + _IDENTIFIER_BYTES])


def remove_key(fd: int, identifier: bytes) -> int:
    """Takes it away; 0, or why it is not all gone: FILES_BUSY, OTHER_USERS. OSError."""
    asked = bytearray(_specifier(identifier) + bytes(24))
    try:
        fcntl.ioctl(fd, _REMOVE_KEY, asked)
    except OSError as error:
        if error.errno != errno.ENOKEY:
            raise
    return int(struct.unpack_from("=I", asked, _SPECIFIER.size)[0])


def encrypt(fd: int, identifier: bytes) -> None:
    """Has the kernel encrypt whatever will lie in this empty directory. OSError."""
    fcntl.ioctl(fd, _SET_POLICY, _POLICY.pack(_VERSION, _AES_256_XTS, _AES_256_CTS, _PAD_32, 0, identifier))


def _specifier(identifier: bytes) -> bytes:
    return _SPECIFIER.pack(_BY_IDENTIFIER, 0, identifier)
