"""Connection: one connection of Hypercorn's, past whose parser and buffers the bytes of objects go.

What Hypercorn and h11 do with a byte of a body, five copies of it in Python's one thread, costs more than to hash it.
So a body of announced length that comes in over HTTP/1.1 is handed on as the socket gives it, but for its end, which the
parser is to see; and files go out by sendfile where there is no TLS: ASGI's extension `http.response.zerocopysend`.
"""

import math
import ssl
from typing import Any

import h11
import trio
from h11._readers import ContentLengthReader
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.tcp_server import TCPServer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lfsfs.server.streams import TimedStream

ZERO_COPY = "http.response.zerocopysend"
PARSED_BYTES = 64 << 10
"""The end of a body, which the parser gets: from it the parser learns that the request is over."""
LARGEST_RECEIVE = 1 << 20
ON_THE_WAY_SECONDS = 0.25  # a request of who has connected while the server ends
JOINED_BYTES = 128 << 10
"""The head of an answer goes out together with a body that is not longer."""
_CONNECTION = "lfsfs.connection"


class Connection(TCPServer):
    """One connection. `state` is what Hypercorn copies into the scope of each request."""

    _ended = False
    _busy = False
    _idle: trio.CancelScope | None = None

    async def run(self) -> None:
        self.state[_CONNECTION] = self
        self._held: list[bytes] = []
        self._holding = False
        with trio.CancelScope() as self._scope:
            await super().run()

    @property
    def sends_files(self) -> bool:
        """Whether the bytes of a file may go into the socket as they are."""
        return isinstance(self.stream, TimedStream) and self._parser() is not None

    def hold(self) -> None:
        """What is sent from now on waits for `flush`, or for the end of the answer."""
        self._holding = True

    async def flush(self) -> None:
        """Sends what was held."""
        self._holding = False
        if self._held:
            pieces, self._held = self._held, []
            if sum(map(len, pieces)) <= JOINED_BYTES:
                pieces = [b"".join(pieces)]
            for piece in pieces:
                await self._send(piece)

    async def protocol_send(self, event: Event) -> None:
        """What Hypercorn's protocol says: bytes to send, the end of the connection, or whether a request is going on."""
        if isinstance(event, RawData):
            if event.data:
                self._held.append(event.data)
            if not self._holding:
                await self.flush()
            return
        await self.flush()
        if isinstance(event, Updated):
            self._busy = not event.idle
            if self._idle is not None:
                self._idle.deadline = self._patience()
        else:
            await super().protocol_send(event)

    async def _send(self, data: bytes) -> None:
        try:
            self.send_lock.acquire_nowait()
        except trio.WouldBlock:
            await self.send_lock.acquire()
        try:
            with trio.CancelScope(shield=True):
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self.protocol.handle(Closed())
        finally:
            self.send_lock.release()

    async def check(self) -> None:
        """Ends all that is done for the client if what was sent to it reaches nobody any more."""
        timed = self.stream if isinstance(self.stream, TimedStream) else self.stream.transport_stream
        if isinstance(timed, TimedStream) and timed.broken:
            self._scope.cancel()
            await trio.lowlevel.checkpoint()

    async def send_file(self, message: Message) -> None:
        """The next bytes of the answer's body, as a message of the extension tells where they lie."""
        parser = self._parser()
        assert parser is not None
        counted: Any = range(message["count"])  # the parser asks how many they are, and no more
        parser.send_with_data_passthrough(h11.Data(counted))
        await self.flush()
        async with self.send_lock:
            try:
                await self.stream.send_file(message["file"], message["offset"], message["count"])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # `check` sees it

    def drain(self, receive: Receive) -> None:
        """Reads what is left of a request, to its end, and forgets it."""

        async def read() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        self._task_group.spawn(read)

    async def _read_data(self) -> None:
        while True:
            body, length = self._body()
            left = 0 if length is None else max(0, length._remaining - PARSED_BYTES)
            try:
                data = await self._receive(min(left, LARGEST_RECEIVE)) if left else await self._receive_some()
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            if data and left and body is not None and length is not None:
                length._remaining -= len(data)
                await body.handle(Body(STREAM_ID, data))
                continue
            await self.protocol.handle(RawData(data))
            if not data:
                break
        self._ended = True
        await self.idle_task.stop()
        await self.protocol.handle(Closed())

    async def _receive_some(self, most: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(most))

    async def _receive(self, most: int) -> bytes:
        """What has come. TLS gives out a record of 16 KiB at a time: those that are there are put together."""
        received = await self._receive_some(most)
        if isinstance(self.stream, TimedStream) or not received:
            return received
        pieces, size = [received], len(received)
        try:
            while size < most:
                pieces.append(self.stream._ssl_object.read(most - size))
                size += len(pieces[-1])
        except ssl.SSLError:
            pass  # nothing more is there, or the next receive meets it again
        return b"".join(pieces)

    async def _idle_timeout(self) -> None:
        """Ends the connection when nobody asks for anything, for too long or because the server ends. Hypercorn has a
        task of its own for each pause between two requests; this is one for all of them, whose deadline moves.
        """
        with trio.CancelScope(deadline=self._patience()) as self._idle:
            await self.context.terminated.wait()
            if not self._busy:
                await trio.sleep(ON_THE_WAY_SECONDS)
        if not self._busy and not self._ended:
            with trio.CancelScope(shield=True):
                await self._initiate_server_close()

    def _patience(self) -> float:
        """When the connection ends, if nothing happens until then."""
        return math.inf if self._busy else trio.current_time() + self.config.keep_alive_timeout

    def _parser(self) -> h11.Connection | None:
        protocol = self.protocol.protocol
        parser = protocol.connection if isinstance(protocol, H11Protocol) else None
        return parser if isinstance(parser, h11.Connection) else None

    def _body(self) -> tuple[HTTPStream | None, ContentLengthReader | None]:
        """The request whose body is coming in, and what counts that: None where its length was not announced."""
        parser = self._parser()
        if parser is None or parser.their_state is not h11.SEND_BODY:
            return None, None
        body = getattr(self.protocol.protocol, "stream", None)
        length = parser._reader
        return (
            body if isinstance(body, HTTPStream) else None,
            length if isinstance(length, ContentLengthReader) else None,
        )


class Straight:
    """The application as Hypercorn knows it: with the extension, ended where nobody reads any more, and freed of what it
    does not read itself of a request. Hypercorn has a queue for that, and waits for ever where it is full.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = scope.get("state", {}).pop(_CONNECTION, None)
        if scope["type"] != "http" or not isinstance(connection, Connection):
            return await self._app(scope, receive, send)
        if connection.sends_files:
            scope["extensions"][ZERO_COPY] = {}
        drains = not any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])

        def drain() -> None:
            nonlocal drains
            if not drains:
                drains = True
                connection.drain(receive)

        async def receive_next() -> Message:
            nonlocal drains
            message = await receive()
            drains = drains or not message.get(
                "more_body", False
            )  # the last one, but for that of the connection
            return message

        async def send_on(message: Message) -> None:
            more = message.get("more_body", False)
            if message["type"] == ZERO_COPY:
                await connection.send_file(message)
                message = {"type": "http.response.body", "body": b"", "more_body": more}
            if message["type"] == "http.response.start":
                connection.hold()
            elif not more:
                drain()
            await send(message)
            if message["type"] != "http.response.start":
                await connection.flush()
            await connection.check()

        try:
            await self._app(scope, receive_next, send_on)
        finally:
            drain()
        return None
