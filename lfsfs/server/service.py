"""Service: what every request handler works with, and the gate at which each request says who it is."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio
from starlette.requests import Request

from lfsfs.config import ServerOptions
from lfsfs.errors import InvalidName, NotFound
from lfsfs.oid import Oid
from lfsfs.server.access.access import Access, Action, Identity, is_loopback
from lfsfs.server.errors import HttpError, unidentified
from lfsfs.server.links import Links
from lfsfs.server.metrics import Metrics
from lfsfs.server.peers import address_of
from lfsfs.server.tickets import Ticket, Tickets
from lfsfs.server.unfinished import Unfinished
from lfsfs.store.layout import check_server_name
from lfsfs.store.locks import Locks
from lfsfs.store.store import Store

_INCLUDED: dict[Action, frozenset[Action]] = {
    "read": frozenset(("read",)),
    "write": frozenset(("read", "write")),
    "admin": frozenset(("read", "write", "admin")),
}
_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


@dataclass(frozen=True)
class Service:
    """One server on one store. Its seams: Access says who may, Locks keeps the locks, Links makes the actions."""

    store: Store
    access: Access
    locks: Locks
    links: Links
    tickets: Tickets
    options: ServerOptions
    metrics: Metrics
    transfers: trio.CapacityLimiter
    """Bodies of objects that move at once."""
    unfinished: Unfinished
    """tus uploads that wait for more."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the door, and of which repository. `ticket`: what they showed, if not credentials."""

    identity: Identity
    repository: str
    ticket: Ticket | None = None


async def admit(service: Service, request: Request, action: Action, oid: Oid | None = None) -> Caller:
    """Lets the request in to do this to the repository of its path, or raises.

    401: nobody said who they are, or not rightly. 404: they may not even read, so for them there is no such
    repository. 403: they may read, not this. `oid`: what a ticket for one object must name.
    """
    repository = repository_of(request)
    check_host(service, request)
    ticket = service.tickets.read(request.headers.get("authorization", ""))
    if ticket is not None:
        _check_ticket(ticket, repository, action, oid)
        caller = Caller(Identity(ticket.user), repository, ticket)
    else:
        identity = await service.access.identify(request.headers, address_of(request))
        await _check(service.access, identity, repository, action)
        caller = Caller(identity, repository)
    request.scope["lfsfs.user"] = caller.identity.name
    return caller


async def _check(access: Access, identity: Identity, repository: str, action: Action) -> None:
    if await access.allowed(identity, repository, action):
        return
    if not identity.known:
        raise unidentified()
    if action == "read" or not await access.allowed(identity, repository, "read"):
        raise NotFound(f"no repository {repository[1:]}")
    raise HttpError(403, f"{identity.name} may not {action} in {repository[1:]}")


def _check_ticket(ticket: Ticket, repository: str, action: Action, oid: Oid | None) -> None:
    if ticket.repository != repository or (ticket.oid and ticket.oid != oid):
        raise HttpError(403, "the ticket is for something else")
    if action not in _INCLUDED[ticket.action]:
        raise HttpError(403, f"the ticket is to {ticket.action} only")


def repository_of(request: Request) -> str:
    """The name of the repository that the path of the request is about. NotFound for what no repository can be."""
    text = str(request.path_params["repository"]).removesuffix("/info/lfs").removesuffix(".git")
    try:
        return check_server_name(f"/{text}")
    except InvalidName as error:
        raise NotFound("no such repository") from error


def url_of(service: Service, request: Request) -> str:
    """The URL of the repository's API, as this client reaches it, without a slash at the end."""
    return f"{base_url(service, request)}{repository_of(request)}.git/info/lfs"


def check_host(service: Service, request: Request) -> None:
    """403 where a server without users is called by a name that is not this machine's.

    A page in a browser may have had its own name pointed at the loopback; the browser then believes that we are its
    server. A name that was configured is good, and on a unix socket the proxy decides.
    """
    host = request.headers.get("host", "")
    if service.access.has_users or request.scope.get("server") is None:
        return
    if service.options.url is not None and host == urlsplit(service.options.url).netloc:
        return
    if not is_loopback(host if ":" in host.rpartition("]")[2] else f"{host}:"):
        raise HttpError(
            403, f"{host!r} is no name of this server: it has no users, so it listens to itself only"
        )


def base_url(service: Service, request: Request) -> str:
    """The public URL of the server: the configured one, or as this client called it."""
    if service.options.url is not None:
        return service.options.url
    host = request.headers.get("host", "")
    if _HOST.fullmatch(host) is None:
        raise HttpError(400, "the Host header is no host")
    return f"{request.scope['scheme']}://{host}"
