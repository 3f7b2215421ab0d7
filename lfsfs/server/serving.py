"""serving: a store's server from its options, for the daemon: who may connect is checked before anybody can."""

import contextlib
import getpass
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

import trio

from lfsfs.config import ServerOptions
from lfsfs.errors import InvalidConfig
from lfsfs.server.access.access import ANONYMOUS, Access, is_loopback
from lfsfs.server.app import create_app, create_service
from lfsfs.server.direct import DirectLinks
from lfsfs.server.links import Links, LocalLinks
from lfsfs.server.listening import Listening
from lfsfs.server.lock_place import create_locks
from lfsfs.server.page.page import Page
from lfsfs.server.service import Service
from lfsfs.server.tickets import Tickets, server_key
from lfsfs.store.store import Store

log = logging.getLogger("lfsfs.server")


class Serving:
    """A server that listens, and answers from `begin` on. `urls`: where."""

    def __init__(self, listening: Listening) -> None:
        self.urls = listening.urls
        self._listening = listening
        self.sockets = listening.sockets
        self._begun = trio.Event()
        self._metrics: Callable[[], str] = str
        self._ending = trio.Event()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()

    def begin(self, metrics: Callable[[], str] = str) -> None:
        """Whoever has connected meanwhile is answered. `metrics`: of what else the daemon serves."""
        self._metrics = metrics
        self._begun.set()

    def keep_sockets(self) -> None:
        """Another daemon goes on listening."""
        self._listening.keep()

    def end(self) -> None:
        """No new requests; those that are being answered go on, for shutdown_timeout at most."""
        self._ending.set()

    def stop(self) -> None:
        """At once: what is being answered breaks off."""
        self._scope.cancel()

    async def ended(self) -> None:
        """Returns when the last answer is out."""
        await self._ended.wait()

    async def run(self, service: Service) -> None:
        try:
            with self._scope:
                await self._begun.wait()
                service.metrics.beside = self._metrics
                page = Page(service)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(page.run)
                    nursery.start_soon(service.links.run)
                    app = create_app(service, page.routes())
                    await self._listening.serve(app, service.metrics, self._ending)
                    nursery.cancel_scope.cancel()
        finally:
            service.unfinished.close()
            self._ended.set()


@contextlib.asynccontextmanager
async def serving(
    store: Store, options: ServerOptions, access: Access, inherited: Mapping[str, int] = {}
) -> AsyncIterator[Serving]:
    """A server while the context is open. InvalidConfig where it may not listen, or not there.

    `inherited`: sockets of another daemon, by their addresses.
    """
    check_listeners(options, access)
    options = _limited(options, store)
    listening = Listening(options, inherited)
    try:
        service = create_service(
            store,
            access,
            options,
            locks=create_locks(store, options.locks),
            links=create_links(store, options),
        )
        logging.getLogger("lfsfs.access").disabled = not options.access_log
        async with trio.open_nursery() as nursery:
            server = Serving(listening)
            nursery.start_soon(server.run, service)
            for url in listening.urls:
                log.info("the Git LFS API is at %s", url)
            yield server
            server.begin()
            server.end()
    finally:
        listening.close()


def _limited(options: ServerOptions, store: Store) -> ServerOptions:
    """With the largest object that both the server and its store take."""
    most = None if store.limits is None else store.limits.options.object_size
    given = [size for size in (options.object_size, most) if size is not None]
    return replace(options, object_size=min(given, default=None))


def create_links(store: Store, options: ServerOptions) -> Links:
    """How bytes move. InvalidConfig for S3 that there is not."""
    tickets = Tickets(server_key(store.layout.path))
    local = LocalLinks(store, tickets, options.action_lifetime)
    if options.direct == "off":
        return local
    if store.remote is None:
        raise InvalidConfig(f'direct = "{options.direct}" in [server] needs a store with S3')
    return DirectLinks(store, store.remote, local, options.action_lifetime, uploads=options.direct == "on")


def nobody(store: Store, options: ServerOptions) -> str:
    """Who somebody without credentials is, where there are no users. In the bucket, machines are to be told apart."""
    if options.owner is not None:
        return options.owner
    if store.remote is None or options.locks == "store":
        return ANONYMOUS
    return f"{getpass.getuser()}@{socket.gethostname()}"


def check_listeners(options: ServerOptions, access: Access) -> None:
    """InvalidConfig where a server without users would listen to other machines."""
    for address in options.listen:
        if not access.has_users and not is_loopback(address):
            raise InvalidConfig(
                f"{address} can be reached from other machines, and no users are configured: listen on 127.0.0.1,"
                " or configure permissions (docs/ACCESS.md)"
            )
