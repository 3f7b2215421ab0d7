"""The ASGI application: every path of the server, and the boundary that all requests pass."""

from collections.abc import Awaitable, Callable, Sequence

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from lfsfs.config import ServerOptions
from lfsfs.server import batch, content, health, locking, openapi, tus
from lfsfs.server.access.access import Access
from lfsfs.server.boundary import Boundary
from lfsfs.server.links import Links, LocalLinks
from lfsfs.server.metrics import Metrics
from lfsfs.server.service import Service
from lfsfs.server.tickets import Tickets, server_key
from lfsfs.server.unfinished import Unfinished
from lfsfs.store.locks import LocalLocks, Locks
from lfsfs.store.store import Store

Handler = Callable[[Service, Request], Awaitable[Response]]
_REPOSITORY = "/{repository:path}"  # with or without .git, with or without /info/lfs
ENDPOINTS: dict[str, dict[str, Handler]] = {
    "/objects/batch": {"POST": batch.batch},
    "/objects/{oid}": {"GET": content.download, "HEAD": content.download, "PUT": content.upload},
    "/verify/{oid}": {"POST": content.verify},
    "/uploads/{oid}": {
        "POST": tus.create, "HEAD": tus.offset, "PATCH": tus.append, "DELETE": tus.abandon, "OPTIONS": tus.describe,
    },
    "/locks/verify": {"POST": locking.verify},
    "/locks/{id}/unlock": {"POST": locking.unlock},
    "/locks": {"POST": locking.create, "GET": locking.listed},
}  # fmt: skip
"""The Git LFS API, each path below that of a repository."""


def create_service(
    store: Store,
    access: Access,
    options: ServerOptions,
    *,
    locks: Locks | None = None,
    links: Links | None = None,
) -> Service:
    """The service of one store. `locks`, `links` None: in the store's index; through this server."""
    tickets = Tickets(server_key(store.layout.path))
    return Service(
        store, access,
        locks or LocalLocks(store.index),
        links or LocalLinks(store, tickets, options.action_lifetime),
        tickets, options, Metrics(), trio.CapacityLimiter(options.transfers),
        Unfinished(store),
    )  # fmt: skip


def create_app(service: Service, routes: Sequence[BaseRoute] = ()) -> ASGIApp:
    """The application. `routes`: further ones, which come first, such as the pages at / and below /-/."""
    own = [
        _route(service, path, {"GET": handler})
        for path, handler in (
            ("/healthz", health.healthz),
            ("/readyz", health.readyz),
            ("/metrics", health.metrics),
            ("/openapi.json", openapi.openapi),
        )
    ]
    api = [_route(service, path, handlers, _REPOSITORY) for path, handlers in ENDPOINTS.items()]
    return Boundary(Router([*own, *routes, *api], redirect_slashes=False), service)


def _route(service: Service, path: str, handlers: dict[str, Handler], below: str = "") -> Route:
    async def endpoint(request: Request) -> Response:
        request.scope["lfsfs.endpoint"] = path
        return await handlers[request.method](service, request)

    if "GET" in handlers and "HEAD" not in handlers:  # the framework lets HEAD in wherever GET is
        handlers = handlers | {"HEAD": handlers["GET"]}
    return Route(below + path, endpoint, methods=list(handlers), name=path)
