"""Boundary: what every request passes on its way in and its answer on the way out.

Each gets an id, is counted, logged, and answered in the API's words whatever went wrong.
"""

import logging
import time
import uuid

import trio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lfsfs.errors import LfsfsError, NoSpace
from lfsfs.server.connection import ZERO_COPY
from lfsfs.server.errors import HttpError, error_response
from lfsfs.server.service import Service
from lfsfs.store.store import as_error

log = logging.getLogger("lfsfs.server")
access_log = logging.getLogger("lfsfs.access")
REQUEST_ID = "X-Request-Id"
DRAIN_BYTES = 4 << 20
"""What is still read of a body that was refused, so that its sender gets to see why."""
DRAIN_SECONDS = 2.0
_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]


class Boundary:
    """The application in its frame."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        exchange = _Exchange(self._service, scope, receive, send)
        await exchange.run(self._app)
        return None


class _Exchange:
    """One request and its answer."""

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self._service = service
        self._scope = scope
        self._receive_next = receive
        self._send_on = send
        self._begun = time.perf_counter()
        self._id = uuid.uuid4().hex
        self._status = 0
        self._sent = 0
        self._ended = False  # the request's body
        scope["lfsfs.request_id"] = self._id
        scope["app"] = self  # where there is one, the framework raises what it would otherwise answer itself

    async def run(self, app: ASGIApp) -> None:
        self._service.metrics.active.inc()
        try:
            await app(self._scope, self._receive, self._send)
        except LfsfsError as error:
            await self._answer(error)
        except HTTPException as error:  # of the framework: no such path, no such method
            await self._answer(HttpError(error.status_code, error.detail, error.headers))
        except Exception as error:
            if isinstance(error, OSError) and isinstance(as_error(error), NoSpace):
                await self._answer(NoSpace("there is no room left on the server's disk"))
            else:
                log.exception("request %s failed", self._id)
                await self._answer(LfsfsError("internal error"))
        finally:
            self._service.metrics.active.dec()
            self._finish()

    async def _answer(self, error: LfsfsError) -> None:
        if error.status >= 500:
            log.error("request %s: %s", self._id, error)
        if self._status:
            return  # too late to say so: the answer is short, and the server closes the connection
        response = error_response(error, self._id)
        if self._scope["method"] == "HEAD":
            response = Response(b"", error.status, dict(response.headers))
        await self._respond(response)

    async def _respond(self, response: Response) -> None:
        """Sends an answer. What is left of the request is read afterwards, within bounds: a connection that is closed
        on somebody who still sends takes the answer with it.
        """
        if self._ended:
            await response(self._scope, self._receive, self._send)
            return
        await self._send(
            {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
        )
        await self._send({"type": "http.response.body", "body": response.body, "more_body": True})
        read = 0
        with trio.move_on_after(DRAIN_SECONDS):
            while not self._ended and read < DRAIN_BYTES:
                read += len((await self._receive()).get("body", b""))
        await self._send({"type": "http.response.body", "body": b""})

    async def _receive(self) -> Message:
        message = await self._receive_next()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._ended = True
        return message

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            present = Headers(raw=message["headers"])
            added = [(REQUEST_ID.lower().encode(), self._id.encode())]
            added += [(name, value) for name, value in _SECURITY if name.decode() not in present]
            message = {**message, "headers": [*message["headers"], *added]}
        else:
            self._sent += message["count"] if message["type"] == ZERO_COPY else len(message.get("body", b""))
        await self._send_on(message)

    def _finish(self) -> None:
        seconds = time.perf_counter() - self._begun
        endpoint = self._scope.get("lfsfs.endpoint", "none")
        method = self._scope["method"] if len(self._scope["method"]) <= 7 else "other"
        self._service.metrics.requests.labels(method, endpoint, str(self._status)).inc()
        self._service.metrics.seconds.labels(endpoint).observe(seconds)
        if access_log.isEnabledFor(logging.INFO):
            client = self._scope.get("client")
            access_log.info(
                "%s %s %s %s %d %d bytes %.3f s id=%s", client[0] if client else "unix",
                self._scope.get("lfsfs.user", "-"), self._scope["method"], _shown(self._scope), self._status,
                self._sent, seconds, self._id,
            )  # fmt: skip


def _shown(scope: Scope) -> str:
    """The path as it was sent: no control characters, no queries, which may hold what is private."""
    return str(scope["raw_path"].decode("ascii", "replace"))
