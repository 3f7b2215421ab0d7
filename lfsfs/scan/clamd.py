"""clamd: ClamAV's daemon, which is sent the bytes over its socket (clamd(8), INSTREAM)."""

import re
import struct
from contextlib import aclosing

import trio

from lfsfs.errors import Unavailable
from lfsfs.scan.scanner import Subject, shown

_BEGIN = b"zINSTREAM\0"
_LENGTH = struct.Struct(">I")
_END = _LENGTH.pack(0)
_LONGEST_REPLY = 4096
_ADDRESS = re.compile(r"\[(?P<six>[^]]+)\]:(?P<sixport>\d+)|(?P<host>[^:]+):(?P<port>\d+)")


class Clamd:
    """The daemon at HOST:PORT, [IPV6]:PORT or unix:/PATH. A connection for each object."""

    def __init__(self, address: str) -> None:
        self.name = f"clamd at {address}"
        self._address = address

    async def scan(self, subject: Subject) -> str | None:
        """As Scanner.scan."""
        try:
            stream = await self._connect()
            async with stream:
                return self._told(await _exchange(stream, subject))
        except (OSError, trio.BrokenResourceError) as failed:
            raise Unavailable(f"{self.name} cannot be reached: {failed}") from failed

    async def _connect(self) -> trio.SocketStream:
        if self._address.startswith("unix:"):
            return await trio.open_unix_socket(self._address.removeprefix("unix:"))
        found = _ADDRESS.fullmatch(self._address)
        assert found is not None  # the configuration has seen to it
        return await trio.open_tcp_stream(
            found["six"] or found["host"], int(found["sixport"] or found["port"])
        )

    def _told(self, reply: str) -> str | None:
        """Of "stream: OK", "stream: NAME FOUND" and "… ERROR"."""
        if reply == "stream: OK":
            return None
        if reply.endswith(" FOUND"):
            return shown(reply.removeprefix("stream: ").removesuffix(" FOUND"))
        raise Unavailable(f"{self.name} does not scan it: {shown(reply) or 'no answer'}")


async def _exchange(stream: trio.SocketStream, subject: Subject) -> str:
    """Sends the bytes; the reply. clamd replies early to what is more than it takes, and closes."""
    try:
        await stream.send_all(_BEGIN)
        async with aclosing(subject.pieces()) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if piece:
                    await stream.send_all(_LENGTH.pack(len(piece)) + piece)
        await stream.send_all(_END)
    except trio.BrokenResourceError:
        pass  # the reply says why, if there is one
    reply = b""
    while not reply.endswith(b"\0") and len(reply) < _LONGEST_REPLY:
        try:
            piece = await stream.receive_some(_LONGEST_REPLY)
        except trio.BrokenResourceError:
            break  # what it had not read of the bytes makes the kernel reset the connection
        if not piece:
            break
        reply += piece
    return reply.rstrip(b"\0").decode(errors="replace").strip()
