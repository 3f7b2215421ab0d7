"""pkt-line (gitprotocol-common(5)): how Git frames what it says over a pipe.

Four hex digits of length, themselves included, and as many bytes; 0000 is a flush, 0001 a delimiter.
"""

from typing import BinaryIO

from lfsfs.errors import LfsfsError

DATA_LIMIT_BYTES = 65516
"""Of one packet: git's own limit, and what git-lfs takes."""
_HEAD_BYTES = 4
_LARGEST = 65520


class ProtocolError(LfsfsError):
    """The peer says what the protocol does not have."""

    status = 400


class Flush:
    """The end of a message."""


class Delimiter:
    """What stands between the arguments of a message and its content."""


FLUSH, DELIMITER = Flush(), Delimiter()
Packet = bytes | Flush | Delimiter


class PacketReader:
    """Packets from a buffered stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self) -> Packet | None:
        """The next one; None where the stream ends between two. ProtocolError; also where it ends within one."""
        head = self._stream.read(_HEAD_BYTES)
        if not head:
            return None
        try:
            size = int(head, 16) if len(head) == _HEAD_BYTES and head.isalnum() else -1
        except ValueError:
            size = -1
        if size == 0:
            return FLUSH
        if size == 1:
            return DELIMITER
        if not _HEAD_BYTES <= size <= _LARGEST:
            raise ProtocolError(f"no packet begins with {head!r}")
        content = self._stream.read(size - _HEAD_BYTES)
        if len(content) != size - _HEAD_BYTES:
            raise ProtocolError("the stream ended within a packet")
        return content


class PacketWriter:
    """Packets to a buffered stream; they go out with each flush packet."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def line(self, text: str) -> None:
        """One packet of text, with a newline; what a name in it may hold, it stays one line."""
        self.data(text.replace("\n", " ").encode("utf-8", "surrogateescape")[: DATA_LIMIT_BYTES - 1] + b"\n")

    def data(self, content: bytes) -> None:
        """As many packets as it needs. Nothing for nothing: an empty packet would be none."""
        view = memoryview(content)
        for start in range(0, len(view), DATA_LIMIT_BYTES):
            piece = view[start : start + DATA_LIMIT_BYTES]
            self._stream.write(b"%04x" % (len(piece) + _HEAD_BYTES))
            self._stream.write(piece)

    def delimiter(self) -> None:
        self._stream.write(b"0001")

    def flush(self) -> None:
        self._stream.write(b"0000")
        self._stream.flush()
