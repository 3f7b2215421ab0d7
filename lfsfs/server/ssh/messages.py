"""Messages of the pure SSH protocol: a command with arguments, and content behind a delimiter if there is some."""

from dataclasses import dataclass

import trio

from lfsfs.server.ssh.pktline import DELIMITER, FLUSH, PacketReader, PacketWriter, ProtocolError

ARGUMENTS_LIMIT = 100
PIECE_BYTES = 1 << 20
LINES = 1000


@dataclass(frozen=True)
class Request:
    """What the client asks. `more`: content follows, and must be read."""

    command: str
    words: tuple[str, ...]
    arguments: dict[str, str]
    more: bool


class Requests:
    """The requests of one session, read in threads: what else this process does goes on meanwhile."""

    def __init__(self, reader: PacketReader) -> None:
        self._reader = reader
        self._more = False

    async def next(self) -> Request | None:
        """None where the client has gone. ProtocolError."""
        read = await trio.to_thread.run_sync(self._next)
        self._more = read is not None and read.more
        return read

    async def lines(self, limit: int) -> list[str]:
        """The content as lines of text. ProtocolError where there are more than `limit`."""
        found: list[str] = []
        while self._more:
            found += await trio.to_thread.run_sync(self._lines)
            if len(found) > limit:
                raise ProtocolError(f"a batch may have {limit} objects")
        return found

    async def piece(self) -> bytes:
        """The next of the content: PIECE_BYTES and a packet at most. Nothing at its end."""
        return await trio.to_thread.run_sync(self._piece) if self._more else b""

    async def skip(self) -> None:
        """Reads what is left of the content, so that the answer can be heard."""
        while await self.piece():
            pass

    def _next(self) -> Request | None:
        first = self._reader.read()
        if first is None:
            return None
        if not isinstance(first, bytes):
            raise ProtocolError("a message begins with a command")
        command, *words = _text(first).split(" ")
        arguments: dict[str, str] = {}
        while True:
            packet = self._reader.read()
            if packet is FLUSH or packet is DELIMITER:
                return Request(command, tuple(words), arguments, packet is DELIMITER)
            if not isinstance(packet, bytes) or len(arguments) == ARGUMENTS_LIMIT:
                raise ProtocolError("the message does not end")
            name, _, value = _text(packet).partition("=")
            arguments[name] = value

    def _lines(self) -> list[str]:
        """A few lines: fewer than LINES only at the end."""
        found: list[str] = []
        while len(found) < LINES:
            packet = self._reader.read()
            if packet is FLUSH:
                self._more = False
                break
            if not isinstance(packet, bytes):
                raise ProtocolError("the content does not end")
            found.append(_text(packet))
        return found

    def _piece(self) -> bytes:
        found = bytearray()
        while len(found) < PIECE_BYTES:
            packet = self._reader.read()
            if packet is FLUSH:
                self._more = False
                break
            if not isinstance(packet, bytes):
                raise ProtocolError("the content does not end")
            found += packet
        return bytes(found)


class Answers:
    """What is answered, a message each."""

    def __init__(self, writer: PacketWriter) -> None:
        self.writer = writer

    def capabilities(self, *names: str) -> None:
        for name in names:
            self.writer.line(name)
        self.writer.flush()

    def status(
        self, status: int, arguments: dict[str, str] | None = None, lines: list[str] | None = None
    ) -> None:
        """`lines` None: there is no content, and no delimiter before it."""
        self.begin(status, arguments or {}, content=lines is not None)
        for line in lines or ():
            self.writer.line(line)
        self.writer.flush()

    def begin(self, status: int, arguments: dict[str, str], *, content: bool = True) -> None:
        """An answer whose content, and flush, are still to be written."""
        self.writer.line(f"status {status:03d}")
        for name, value in arguments.items():
            self.writer.line(f"{name}={value}")
        if content:
            self.writer.delimiter()


def _text(packet: bytes) -> str:
    return packet.removesuffix(b"\n").decode("utf-8", "surrogateescape")
