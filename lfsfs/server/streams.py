"""Streams with a clock: a peer that does not read what is sent to it is given up, whoever waits for it."""

import trio

SMALLEST_RECEIVE = 64 << 10
"""Bytes that are read at once: no head of a request is much longer."""
LARGEST_RECEIVE = 1 << 20
"""What that grows to while a body comes in: more than Hypercorn asks for, which is what makes uploads quick."""


class TimedStream(trio.abc.HalfCloseableStream):
    """A socket stream as Hypercorn, or TLS above it, uses one."""

    def __init__(self, stream: trio.SocketStream, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds
        self._receiving = SMALLEST_RECEIVE
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = self._receiving
        received = bytes(await self._stream.receive_some(size))
        self._receiving = (
            min(2 * size, LARGEST_RECEIVE) if len(received) == size else max(size // 2, SMALLEST_RECEIVE)
        )
        return received

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """BrokenResourceError if the peer takes nothing for too long. Hypercorn shields this from cancellation."""
        view = memoryview(data)
        with trio.move_on_after(self._seconds) as waiting:
            while view:
                view = view[await self._send(view) :]
                waiting.deadline = trio.current_time() + self._seconds
        if waiting.cancelled_caught:
            raise trio.BrokenResourceError("the peer does not read")

    async def _send(self, view: memoryview) -> int:
        try:
            return await self.socket.send(view)
        except OSError as error:
            raise trio.BrokenResourceError("the peer is gone") from error

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
