"""BackingFiles: regular files that the kernel reads by itself, where an open file of the mount stands for one of them.

FUSE passthrough, in Linux since 6.9: no request reaches the daemon for what is read through such an open file, and the
pages are those of the regular file. The kernel grants it to a daemon with CAP_SYS_ADMIN.
"""

import errno
import fcntl
import logging
import os
import struct

log = logging.getLogger("lfsfs.fuse")
# _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t), include/uapi/linux/fuse.h
_OPEN, _CLOSE = 0x4010E501, 0x4004E502
_MAP = struct.Struct("=iIQ")  # descriptor, flags, padding
_ID = struct.Struct("=I")
_NEVER = frozenset((errno.EPERM, errno.ENOTTY, errno.EOPNOTSUPP, errno.ELOOP, errno.EINVAL, errno.ENOSYS))


class BackingFiles:
    """Those of one mount. `agreed`: the kernel has said that it can; cleared when it turns out that it does not."""

    def __init__(self, device: int) -> None:
        self._device = device
        self.agreed = False

    def open(self, descriptor: int) -> int:
        """The number by which the kernel knows the file from now on; 0: it does not take it. The caller's to close."""
        if not self.agreed:
            return 0
        try:
            number: int = fcntl.ioctl(self._device, _OPEN, bytearray(_MAP.pack(descriptor, 0, 0)))
        except OSError as refused:
            if refused.errno in _NEVER:  # no privilege, or the store lies on stacked file systems
                self.agreed = False
                log.info("files are read through the daemon: the kernel says %s", os.strerror(refused.errno))
            return 0
        return number

    def close(self, number: int) -> None:
        """Open files that stand for it go on."""
        try:
            fcntl.ioctl(self._device, _CLOSE, bytearray(_ID.pack(number)))
        except OSError as refused:
            if refused.errno not in (
                errno.EBADF,
                errno.ENODEV,
                errno.ENOENT,
            ):  # the mount is gone, and all with it
                log.warning("backing file %d: %s", number, os.strerror(refused.errno or 0))
