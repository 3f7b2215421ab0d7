"""Channel: two daemons of one user, one that ends and one that follows it, and what they tell and give each other.

A message is a dict of plain values, and descriptors beside it. Nothing but plain values is ever made of what arrives:
the two may be of different versions of lfsfs.
"""

import array
import io
import os
import pickle
import select
import socket
import struct
import time
from collections.abc import Sequence

from lfsfs.errors import LfsfsError

_HEAD = struct.Struct("=QI")  # bytes of the message, and descriptors beside it
_AT_ONCE = 200  # descriptors in one datagram: the kernel takes 253
_PIECE = 1 << 20
_PROTOCOL = 4
Message = dict[str, object]


class Hung(LfsfsError):
    """The other one has ended, or does not answer in time."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise Hung(f"a message with something in it that is no plain value: {module}.{name}")


class Channel:
    """One end. Blocks; for threads."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Hung. The descriptors stay open here."""
        content = pickle.dumps(message, _PROTOCOL)
        self._end.settimeout(None)
        try:
            self._end.sendall(_HEAD.pack(len(content), len(descriptors)))
            for first in range(0, len(descriptors), _AT_ONCE):
                socket.send_fds(self._end, [b"+"], list(descriptors[first : first + _AT_ONCE]))
            self._end.sendall(content)
        except OSError as failed:
            raise Hung(f"it has ended ({failed.strerror})") from failed

    def receive(self, seconds: float | None = None) -> tuple[Message, list[int]]:
        """The next message, and its descriptors, which are the caller's. Hung."""
        end = None if seconds is None else time.monotonic() + seconds
        size, count = _HEAD.unpack(self._exactly(_HEAD.size, end))
        descriptors: list[int] = []
        while len(descriptors) < count:
            self._wait(end)
            _, extra, _, _ = self._end.recvmsg(1, socket.CMSG_SPACE(4 * _AT_ONCE), socket.MSG_CMSG_CLOEXEC)
            for level, kind, content in extra:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors += array.array("i", content)
            if not extra:
                raise Hung("it has ended")
        found = _Plain(io.BytesIO(self._exactly(size, end))).load()
        return (found if isinstance(found, dict) else {}), descriptors

    def close(self) -> None:
        self._end.close()

    def _exactly(self, size: int, end: float | None) -> bytes:
        content = bytearray()
        while len(content) < size:
            self._wait(end)
            piece = self._end.recv(min(_PIECE, size - len(content)))
            if not piece:
                raise Hung("it has ended")
            content += piece
        return bytes(content)

    def _wait(self, end: float | None) -> None:
        self._end.settimeout(None)
        if end is None:
            return
        left = end - time.monotonic()
        if left <= 0 or not _readable(self._end, left):
            raise Hung("it does not answer")


def _readable(end: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def pair() -> tuple[Channel, socket.socket]:
    """Our end, and the other one's, which a process is to inherit."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    os.set_inheritable(theirs.fileno(), True)
    return Channel(ours), theirs
