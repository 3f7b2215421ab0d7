"""Streams with a clock: a peer that does not read what is sent to it is given up, whoever waits for it."""

import os
from collections.abc import Awaitable, Callable

import trio

SMALLEST_RECEIVE = 64 << 10
"""Bytes that are read at once: no head of a request is much longer."""
LARGEST_RECEIVE = 1 << 20
"""What that grows to while more comes in than that."""
SMALL_SEND = 128 << 10
"""Bytes that are sent without a pause for others, where the socket has room for them."""


class TimedStream(trio.abc.HalfCloseableStream):
    """A socket stream as Hypercorn, or TLS above it, uses one."""

    def __init__(self, stream: trio.SocketStream, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds
        self._receiving = SMALLEST_RECEIVE
        self.socket = stream.socket
        self.broken = False
        """Whether something could not be sent: nobody reads it any more."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """`max_bytes` None: as many at once as seem right, which are more while they come in quickly."""
        size = self._receiving if max_bytes is None else max_bytes
        received = bytes(await self._stream.receive_some(size))
        if max_bytes is None:
            grown = len(received) == size
            self._receiving = min(2 * size, LARGEST_RECEIVE) if grown else max(size // 2, SMALLEST_RECEIVE)
        return received

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """BrokenResourceError if the peer takes nothing for too long. Hypercorn shields this from cancellation."""
        view = memoryview(data)
        if 0 < len(view) <= SMALL_SEND:
            view = view[self._sent_at_once(view) :]

        async def send(begin: int) -> int:
            return await self.socket.send(view[begin:])

        await self._send(len(view), send)

    def _sent_at_once(self, data: memoryview) -> int:
        """How many bytes the socket takes without waiting, and without others having a turn."""
        try:
            return os.write(self.socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.broken = True
            raise trio.BrokenResourceError("the peer is gone") from error

    async def send_file(self, file: int, offset: int, size: int) -> None:
        """Sends bytes of a file, by its descriptor. Errors as `send_all`, also where the file has fewer bytes."""

        async def send(begin: int) -> int:
            while True:
                try:
                    sent = os.sendfile(self.socket.fileno(), file, offset + begin, size - begin)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.socket)
                    continue
                if sent == 0:
                    raise OSError("the file became shorter while it was sent")
                await trio.lowlevel.checkpoint()
                return sent

        await self._send(size, send)

    async def _send(self, size: int, send: Callable[[int], Awaitable[int]]) -> None:
        """`send` sends some of what is left, from the given byte on; how many it sent."""
        sent = 0
        if not size:
            return
        with trio.move_on_after(self._seconds) as waiting:
            while sent < size:
                try:
                    sent += await send(sent)
                except OSError as error:
                    self.broken = True
                    raise trio.BrokenResourceError("the peer is gone") from error
                waiting.deadline = trio.current_time() + self._seconds
        if waiting.cancelled_caught:
            self.broken = True
            raise trio.BrokenResourceError("the peer does not read")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
