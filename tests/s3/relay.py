"""The process behind Proxy: relays HTTP/1.1 to a server on the loopback, request by request, and fails as told.

relay.py PORT        of the server; prints two ports: the clients' and the one that commands come to
"""

import base64
import hashlib
import json
import socket
import ssl
import struct
import sys
from collections import Counter
from dataclasses import dataclass, field

import trio
import trio.testing

CHUNK = 1 << 16
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close(2) sends RST
_SHA256 = "x-amz-checksum-sha256"
_NO_BODY = (204, 304)


@dataclass
class Fault:
    """What happens to the next `times` requests that match. What is None or False does not happen."""

    times: float = 1
    method: str | None = None
    path: str = ""
    """Part of the target, the query included."""
    status: int | None = None
    """Answered by the proxy, with `code` and `message` as S3 says them; the server never hears of it."""
    code: str = ""
    message: str = "forged"
    body: str | None = None
    """Instead of those."""
    delay: float = 0.0
    """Seconds before the request goes on."""
    drop_reply: bool = False
    """The server has done it, but the client's connection is reset instead of an answer."""
    cut_reply_after: int | None = None
    """Bytes of the answer's body after which the connection is closed,"""
    reset_reply_after: int | None = None
    """or reset,"""
    stall_reply_after: int | None = None
    """or nothing more comes until the client gives up."""
    reset_request_after: int | None = None
    """Bytes of the request's body after which both connections are reset."""
    flip_request_byte: int | None = None
    """Offset in the request's body of a byte that arrives wrong."""
    flip_reply_byte: int | None = None
    drop_field: str | None = None
    """A header of the request, in small letters, that the server does not see; it must not be signed."""
    check_sha256: bool = False
    """The proxy compares x-amz-checksum-sha256, as Amazon does, in front of a server that does not."""
    replace_date: str | None = None
    """Of the answer."""

    @property
    def limit(self) -> int | None:
        """Bytes of the answer's body that come through."""
        stops = (self.cut_reply_after, self.reset_reply_after, self.stall_reply_after)
        return min((stop for stop in stops if stop is not None), default=None)

    def takes(self, method: str, target: str) -> bool:
        if self.times <= 0 or self.method not in (None, method) or self.path not in target:
            return False
        self.times -= 1
        return True


class Broken(Exception):
    """This connection has come to its end, as planned or because somebody hung up."""


class Wire:
    """One connection, read with a buffer."""

    def __init__(self, stream: trio.SocketStream, tls: ssl.SSLContext | None = None) -> None:
        self._socket = stream.socket
        self.stream = stream if tls is None else trio.SSLStream(stream, tls, server_side=True)
        self._buffer = b""

    async def some(self, most: int = CHUNK) -> bytes:
        """At least a byte, unless it has ended."""
        if not self._buffer:
            self._buffer = bytes(await self.stream.receive_some(CHUNK))
        piece, self._buffer = self._buffer[:most], self._buffer[most:]
        return piece

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and including the mark; empty when it ends before the first byte."""
        found = b""
        while mark not in found:
            piece = await self.some()
            if not piece and found:
                raise Broken
            if not piece:
                return b""
            found += piece
        end = found.index(mark) + len(mark)
        self._buffer = found[end:] + self._buffer
        return found[:end]

    async def send(self, piece: bytes) -> None:
        await self.stream.send_all(piece)

    def reset(self) -> None:
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._socket.close()


@dataclass
class Head:
    """The first lines of a request or an answer."""

    raw: bytes
    first: list[str] = field(init=False)
    fields: dict[str, str] = field(init=False)
    relayed: int = 0
    """Bytes of the body that went on to the server."""

    def __post_init__(self) -> None:
        lines = self.raw.decode("latin-1").split("\r\n")
        self.first = lines[0].split(" ")
        self.fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }

    @property
    def length(self) -> int:
        return int(self.fields.get("content-length", 0))

    @property
    def chunked(self) -> bool:
        return "chunked" in self.fields.get("transfer-encoding", "")

    def without(self, name: str) -> bytes:
        lines = self.raw.split(b"\r\n")
        return b"\r\n".join(line for line in lines if not line.lower().startswith(name.encode() + b":"))


class Relay:
    """The proxy's side of things."""

    def __init__(self, upstream: int, tls: ssl.SSLContext | None) -> None:
        self.upstream = upstream
        self.tls = tls
        self.faults: list[Fault] = []
        self.latency = 0.0
        self.rate = 0.0  # bytes a second, both ways together; 0: as fast as it goes
        self.counters: Counter[str] = Counter()
        self._next_slot = 0.0
        self._connections: set[Wire] = set()

    async def paced(self, size: int) -> None:
        if self.rate:
            self._next_slot = max(self._next_slot, trio.current_time()) + size / self.rate
            await trio.sleep_until(self._next_slot)

    def hang_up(self) -> None:
        for wire in list(self._connections):
            wire.reset()

    async def serve(self, stream: trio.SocketStream) -> None:
        self.counters["connections"] += 1
        client = Wire(stream, self.tls)
        self._connections.add(client)
        try:
            server = Wire(await trio.open_tcp_stream("127.0.0.1", self.upstream))
            async with server.stream:
                while await self.exchange(client, server):
                    pass
        except* (Broken, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        finally:
            self._connections.discard(client)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def exchange(self, client: Wire, server: Wire) -> bool:
        """One request and its answer. Whether another may follow on these connections."""
        raw = await client.until(b"\r\n\r\n")
        if not raw:
            return False
        request = Head(raw)
        method, target = request.first[0], request.first[1]
        self.counters["requests"] += 1
        self.counters[method] += 1
        fault = next((fault for fault in self.faults if fault.takes(method, target)), Fault())
        await trio.sleep(self.latency + fault.delay)
        if fault.status is not None:
            await self.forge(client, request, fault)
            return False
        if fault.check_sha256 and _SHA256 in request.fields:
            return await self.checked(client, server, request)
        await server.send(raw if fault.drop_field is None else request.without(fault.drop_field))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.send_body, client, server, request, fault)
            reusable = await self.answer(client, server, method, fault)
            nursery.cancel_scope.cancel()  # a server may refuse before it has read everything
        unsent = request.relayed == 0 and "expect" in request.fields
        return reusable and (request.relayed == request.length or unsent)

    async def checked(self, client: Wire, server: Wire, request: Head) -> bool:
        """The request goes on when its body is what it says: 400 otherwise."""
        if "expect" in request.fields:
            await client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = b""
        while len(body) < request.length and (piece := await client.some(request.length - len(body))):
            body += piece
        if base64.b64encode(hashlib.sha256(body).digest()).decode() != request.fields[_SHA256]:
            refused = Head(request.without("content-length"))
            await self.forge(client, refused, Fault(status=400, code="BadDigest"))
            return False
        await server.send(request.without("expect") + body)
        return await self.answer(client, server, request.first[0], Fault())

    async def forge(self, client: Wire, request: Head, fault: Fault) -> None:
        if "expect" not in request.fields:
            left = request.length
            while left and (piece := await client.some(left)):
                left -= len(piece)
        error = f"<Error><Code>{fault.code}</Code><Message>{fault.message}</Message></Error>"
        body = (error if fault.body is None else fault.body).encode()
        head = f"HTTP/1.1 {fault.status} Forged\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        if request.first[0] == "HEAD":
            body = b""
        await client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def send_body(self, client: Wire, server: Wire, request: Head, fault: Fault) -> None:
        at, length = 0, request.length
        limit = fault.reset_request_after
        while at < length:
            if limit is not None and at >= limit:
                client.reset()
                server.reset()
                raise Broken
            piece = await client.some(min(length - at, CHUNK if limit is None else max(1, limit - at)))
            if not piece:
                raise Broken
            await self.paced(len(piece))
            self.counters["bytes up"] += len(piece)
            await server.send(flipped(piece, at, fault.flip_request_byte))
            at += len(piece)
            request.relayed = at

    async def answer(self, client: Wire, server: Wire, method: str, fault: Fault) -> bool:
        raw = await server.until(b"\r\n\r\n")
        while raw.startswith(b"HTTP/1.1 100"):  # some servers say it twice
            await client.send(raw)
            raw = await server.until(b"\r\n\r\n")
        if not raw:
            raise Broken
        head = Head(raw)
        if fault.drop_reply:
            client.reset()
            raise Broken
        if fault.replace_date is not None:
            raw = head.without("date")[:-2] + f"Date: {fault.replace_date}\r\n\r\n".encode()
        await client.send(raw)
        if method != "HEAD" and int(head.first[1]) not in _NO_BODY:
            if head.chunked:
                await self.chunks(client, server, fault)
            else:
                await self.body(client, server, head.length, fault)
        return head.fields.get("connection", "").lower() != "close"

    async def chunks(self, client: Wire, server: Wire, fault: Fault) -> None:
        """Listings and errors, usually: limits count their bytes too."""
        limit, at, size = fault.limit, 0, -1
        while size != 0:
            line = await server.until(b"\r\n")
            size = int(line.split(b";")[0], 16)
            await client.send(line)
            left = size + 2
            while left:
                if limit is not None and at >= limit:
                    await self.stop(client, fault)
                piece = await server.some(left if limit is None else max(1, min(left, limit - at)))
                if not piece:
                    raise Broken
                self.counters["bytes down"] += len(piece)
                await client.send(piece)
                left -= len(piece)
                at += len(piece)

    async def body(self, client: Wire, server: Wire, length: int, fault: Fault) -> None:
        limit, at = fault.limit, 0
        while at < length:
            if limit is not None and at >= limit:
                await self.stop(client, fault)
            piece = await server.some(min(length - at, CHUNK if limit is None else max(1, limit - at)))
            if not piece:
                raise Broken
            await self.paced(len(piece))
            await client.send(flipped(piece, at, fault.flip_reply_byte))
            self.counters["bytes down"] += len(piece)
            at += len(piece)

    async def stop(self, client: Wire, fault: Fault) -> None:
        if fault.reset_reply_after is not None:
            client.reset()
        elif fault.stall_reply_after is not None:
            while await client.some():  # until the client hangs up
                pass
        raise Broken

    async def control(self, stream: trio.SocketStream, switch: trio.MemorySendChannel[bool]) -> None:
        """One JSON value a line: [name, arguments]; each is answered with one."""
        wire = Wire(stream)
        while line := await wire.until(b"\n"):
            name, arguments = json.loads(line)
            answer: object = None
            if name == "fault":
                self.faults.append(Fault(**arguments))
            elif name == "pace":
                self.latency, self.rate = arguments["latency"], arguments["rate"]
            elif name == "clear":
                self.faults.clear()
            elif name == "up":
                await switch.send(arguments["up"])
                await trio.sleep(0.05)
            elif name == "counters":
                answer = dict(self.counters)
            await wire.send(json.dumps(answer).encode() + b"\n")


def flipped(piece: bytes, at: int, byte: int | None) -> bytes:
    """The piece, which begins at offset `at`, with the lowest bit of this byte flipped."""
    if byte is None or not at <= byte < at + len(piece):
        return piece
    index = byte - at
    return piece[:index] + bytes((piece[index] ^ 1,)) + piece[index + 1 :]


async def listen_while_up(relay: Relay, port: int, switch: trio.MemoryReceiveChannel[bool]) -> None:
    """Serves clients while it is switched on. Off, connections are refused, and those that exist are reset."""
    async for up in switch:
        if not up:
            continue
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, relay.serve, listeners)
            while await switch.receive():
                pass
            relay.hang_up()
            nursery.cancel_scope.cancel()


async def run(upstream: int, certificate: str | None = None) -> None:
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    relay = Relay(upstream, tls)
    send, receive = trio.open_memory_channel[bool](0)
    ports = [free_port(), free_port()]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen_while_up, relay, ports[0], receive)
        await send.send(True)

        async def control(stream: trio.SocketStream) -> None:
            await relay.control(stream, send)
            nursery.cancel_scope.cancel()  # whoever started us is gone

        listeners = await trio.open_tcp_listeners(ports[1], host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, control, listeners)
        await trio.testing.wait_all_tasks_blocked()
        print(json.dumps(ports), flush=True)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    trio.run(run, int(sys.argv[1]), sys.argv[2] if sys.argv[2:] else None)
