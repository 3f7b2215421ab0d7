"""One taxonomy of failure: what went wrong, its errno on the mount and its HTTP status, side by side."""

import errno as _errno


class LfsfsError(Exception):
    """Any failure that lfsfs reports on purpose. The message is for a person."""

    errno: int = _errno.EIO
    status: int = 500


class InvalidOid(LfsfsError, ValueError):
    """Not 64 lower-case hexadecimal digits."""

    errno, status = _errno.EINVAL, 422


class InvalidPointer(LfsfsError, ValueError):
    """Not a Git LFS pointer."""

    errno, status = _errno.EINVAL, 422


class InvalidName(LfsfsError, ValueError):
    """A name that the place it was meant for cannot hold."""

    errno, status = _errno.EINVAL, 422


class InvalidConfig(LfsfsError, ValueError):
    """A configuration that cannot be used, or an option that makes no sense."""

    errno, status = _errno.EINVAL, 500


class InvalidEmbedding(LfsfsError, ValueError):
    """Not a vector that can be stored, or not a file that holds one."""

    errno, status = _errno.EINVAL, 422


class NotFound(LfsfsError):
    """No object, name or repository like that."""

    errno, status = _errno.ENOENT, 404


class Exists(LfsfsError):
    """The name is taken."""

    errno, status = _errno.EEXIST, 409


class HashMismatch(LfsfsError):
    """The bytes do not have the SHA-256 (or the size) that they were said to have."""

    errno, status = _errno.EBADMSG, 422


class Corrupt(LfsfsError):
    """Stored bytes no longer match their digest. They are not served."""

    errno, status = _errno.EIO, 500


class LocalDamage(Corrupt):
    """The copy on the local disk is damaged, or gone. Says nothing of what a remote tier has."""


class InUse(LfsfsError):
    """Something still refers to it, or holds it open."""

    errno, status = _errno.EBUSY, 409


class Refused(LfsfsError):
    """The store's own rules forbid it."""

    errno, status = _errno.EPERM, 403


class Denied(LfsfsError):
    """A remote tier does not accept who we are, or does not let us do it."""

    errno, status = _errno.EACCES, 403


class ReadOnly(LfsfsError):
    """The store, the mount or this part of the tree takes no writes."""

    errno, status = _errno.EROFS, 403


MAKE_ROOM = "`lfsfs status` says what the trash holds: `lfsfs vacuum --trash-time 0` gives it back"


class NoSpace(LfsfsError):
    """A limit on bytes is reached: the disk's or a configured one."""

    errno, status = _errno.ENOSPC, 507


class TooLarge(LfsfsError):
    """One object exceeds what this tier can take."""

    errno, status = _errno.EFBIG, 413


class QuotaExceeded(LfsfsError):
    """A repository would refer to more bytes than it may."""

    errno, status = _errno.EDQUOT, 507


class NameTooLong(InvalidName):
    """A name or a path with more bytes than it may have."""

    errno, status = _errno.ENAMETOOLONG, 422


class TooManyUploads(LfsfsError):
    """As many files are being written as may be at once."""

    errno, status = _errno.ENFILE, 429


class Infected(LfsfsError):
    """A scanner has found something in the object."""

    errno, status = _errno.EACCES, 422


class Unavailable(LfsfsError):
    """A tier did not answer by its deadline."""

    errno, status = _errno.ETIMEDOUT, 503


class StoreFormat(LfsfsError):
    """What lies at STORE is not a store, is damaged, or was made by a newer lfsfs."""

    errno, status = _errno.EINVAL, 500
