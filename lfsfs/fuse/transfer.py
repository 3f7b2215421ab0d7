"""Reading requests from the device, and writing answers to it.

Both calls wait for nothing, and take some microseconds where little is moved. So the interpreter is held meanwhile:
whoever lets go of it for each of them loses it to another thread as often, and gets it back half a millisecond later.
What moves much lets go of it, as everybody else does.
"""

import ctypes
import errno
import mmap
import os

LITTLE_BYTES = 64 << 10
_libc = ctypes.PyDLL(None, use_errno=True)
_read = _libc.read
_read.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_read.restype = ctypes.c_ssize_t
_write = _libc.write
_write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_write.restype = ctypes.c_ssize_t


class RequestBuffer:
    """Where the requests come to lie, one at a time. Takes memory only where one has lain."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size)
        self._size = size
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._much = False
        self.view = memoryview(self._memory)

    def receive(self, device: int) -> int:
        """Reads a request; its size, 0 where there is none. OSError."""
        if self._much:  # such a request seldom comes alone
            try:
                size = os.readv(device, [self._memory])
            except BlockingIOError:
                size = 0
        else:
            size = _read(device, self._address, self._size)
            if size < 0:
                if ctypes.get_errno() != errno.EAGAIN:
                    raise _failure()
                return 0
        self._much = size > LITTLE_BYTES
        return size


def send(device: int, head: bytes, content: bytes | bytearray | memoryview = b"") -> None:
    """Writes an answer: its header, and what follows. OSError."""
    if len(content) > LITTLE_BYTES:
        os.writev(device, [head, content])
        return
    answer = b"".join((head, content))
    if _write(device, answer, len(answer)) < 0:
        raise _failure()


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
