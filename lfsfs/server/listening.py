"""Listening: the sockets, TLS, and what connects Hypercorn's HTTP to them: limits on how many and how long."""

import functools
import logging
import os
import socket
import ssl
import stat
from collections.abc import Mapping

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp

from lfsfs.config import ServerOptions
from lfsfs.errors import InvalidConfig, LfsfsError
from lfsfs.server.connection import Connection, Straight
from lfsfs.server.metrics import Metrics
from lfsfs.server.streams import TimedStream

log = logging.getLogger("lfsfs.server")
BACKLOG = 1024
HEAD_BYTES = 32 << 10


class Listening:
    """The sockets that a server listens on, opened before anything is served: a taken port is an error at once."""

    def __init__(self, options: ServerOptions, inherited: Mapping[str, int] = {}) -> None:
        """`inherited`: sockets that another daemon listened on, by their addresses; all are this one's from now on."""
        self._options = options
        self._kept = False
        self._sockets: list[tuple[str, socket.socket]] = []
        self._context = _tls(options)
        try:
            for address in options.listen:
                given = inherited.get(address)
                opened = _listen(address) if given is None else socket.socket(fileno=given)
                self._sockets.append((address, opened))
        except BaseException:
            self.close()
            raise

    @property
    def urls(self) -> list[str]:
        """Where it listens, with the ports that were given to it."""
        return [self._url(address, opened) for address, opened in self._sockets]

    @property
    def sockets(self) -> list[tuple[str, int]]:
        """The addresses, as they were given, and the descriptors: for who goes on listening."""
        return [(address, opened.fileno()) for address, opened in self._sockets]

    def keep(self) -> None:
        """Somebody else listens on them too by now: their files stay."""
        self._kept = True

    def close(self) -> None:
        """Closes what `serve` did not take over, and removes the files of unix sockets."""
        for address, opened in self._sockets:
            opened.close()
            if not self._kept and address.startswith("unix:"):
                _remove_socket(address.removeprefix("unix:"))

    async def serve(self, app: ASGIApp, metrics: Metrics, ending: trio.Event) -> None:
        """Serves until `ending` is set and what was being answered then is answered, or shutdown_timeout is over."""
        connections = _Connections(app, self._options, metrics)
        async with trio.open_nursery() as handlers:
            async with trio.open_nursery() as accepting:
                for address, opened in self._sockets:
                    listener = trio.SocketListener(trio.socket.from_stdlib_socket(opened))
                    secure = self._context if not address.startswith("unix:") else None
                    serve = functools.partial(connections.handle, secure)
                    accepting.start_soon(
                        functools.partial(trio.serve_listeners, serve, [listener], handler_nursery=handlers)
                    )
                await ending.wait()
                accepting.cancel_scope.cancel()
            await connections.context.terminated.set()
            handlers.cancel_scope.deadline = trio.current_time() + self._options.shutdown_timeout

    def _url(self, address: str, opened: socket.socket) -> str:
        if address.startswith("unix:"):
            return address
        scheme = "https" if self._context is not None else "http"
        return f"{scheme}://{address.rpartition(':')[0]}:{opened.getsockname()[1]}"


class _Connections:
    """The connections of one server."""

    def __init__(self, app: ASGIApp, options: ServerOptions, metrics: Metrics) -> None:
        self._app = wrap_app(Straight(app), 0, "asgi")  # type: ignore[arg-type]  # two spellings of ASGI
        self._options = options
        self._metrics = metrics
        self._open = 0
        self._config = _hypercorn(options)
        self.context = WorkerContext(None)

    async def handle(self, secure: ssl.SSLContext | None, stream: trio.SocketStream) -> None:
        """One connection, from its first byte to its last."""
        if self._open >= self._options.connections:
            self._metrics.refused.inc()
            return await stream.aclose()
        self._open += 1
        self._metrics.connections.inc()
        try:
            await self._serve(secure, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass  # the client went away
        finally:
            self._open -= 1
            self._metrics.connections.dec()
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await stream.aclose()

    async def _serve(self, secure: ssl.SSLContext | None, stream: trio.SocketStream) -> None:
        idle = self._options.idle_timeout
        timed: trio.abc.HalfCloseableStream | trio.SSLStream[TimedStream] = TimedStream(stream, idle)
        if secure is not None:
            timed = trio.SSLStream(TimedStream(stream, idle), secure, server_side=True, https_compatible=True)
        await Connection(self._app, self._config, self.context, ConnectionState({}), timed)  # type: ignore[arg-type]


def _hypercorn(options: ServerOptions) -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = log
    config.include_server_header = False
    config.keep_alive_timeout = options.head_timeout
    config.ssl_handshake_timeout = options.head_timeout
    config.keep_alive_max_requests = 100_000
    config.h11_max_incomplete_size = HEAD_BYTES
    config.max_app_queue_size = 2
    return config


def _tls(options: ServerOptions) -> ssl.SSLContext | None:
    if options.tls_certificate is None or options.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(options.tls_certificate, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidConfig(f"the TLS certificate or its key cannot be used: {error}") from error
    return context


def _listen(address: str) -> socket.socket:
    try:
        if address.startswith("unix:"):
            return _listen_unix(address.removeprefix("unix:"))
        host, _, port = address.rpartition(":")
        family, _, _, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _ready(opened, where)
    except OSError as error:
        raise LfsfsError(f"cannot listen on {address}: {error.strerror}") from error


def _listen_unix(path: str) -> socket.socket:
    """A socket that nobody listens on any more is replaced."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        if other.connect_ex(path) == 0:
            raise LfsfsError(f"cannot listen on unix:{path}: somebody does already")
    _remove_socket(path)
    return _ready(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path)


def _ready(opened: socket.socket, where: object) -> socket.socket:
    try:
        opened.bind(where)  # type: ignore[arg-type]
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


def _remove_socket(path: str) -> None:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
