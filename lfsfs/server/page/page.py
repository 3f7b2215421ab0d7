"""Page: the routes of the pages, who may see which, and the walks through the index that go on behind them."""

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

import trio
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from lfsfs.errors import InvalidConfig, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.server.errors import headers_of, told, unidentified
from lfsfs.server.page import facts, finding, plot
from lfsfs.server.page.derived import PATIENCE_SECONDS, Derived
from lfsfs.server.page.locked import Locked
from lfsfs.server.page.mapped import SIDE, Maps, spots
from lfsfs.server.page.rendering import ASSETS, Rendering
from lfsfs.server.page.viewer import Viewer, find, look
from lfsfs.server.service import Service, base_url
from lfsfs.store import query, sharing
from lfsfs.store.growth import Series, StoreGrowth, repository_growth
from lfsfs.store.layout import is_server_name
from lfsfs.store.query import ListQuery
from lfsfs.store.references import Repository

log = logging.getLogger("lfsfs.server")
Handler = Callable[[Viewer, Request], Awaitable[Response]]
V = TypeVar("V")

SIGN_IN = "sign-in"
SHOWN_REPOSITORIES = 20
DRAWN_REPOSITORIES = 20
"""Whose growth is drawn together, for somebody who sees a part of the store."""
SHOWN_LOCKS = 8
SHOWN_ACTIVITY = 10
SHOWN_OBJECTS = 8
PAGE_OBJECTS = 25
SHOWN_SPOTS = 100
REMEMBERED = 100
"""Repositories whose growth is kept."""


class Page:
    """The pages of one server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._index = service.store.index
        self._threads = trio.CapacityLimiter(1)  # however many pages are asked for
        self._growth = Derived(self._index, StoreGrowth(self._index).count, self._threads)
        self._sharing = Derived(self._index, lambda: sharing.count(self._index), self._threads)
        self._growths: OrderedDict[int, Derived[Series]] = OrderedDict()
        self._rendering = Rendering(urlsplit(service.options.url or "").path.rstrip("/"))
        self._locked = Locked(service.locks)
        self._maps = Maps(self._index, trio.CapacityLimiter(1))
        self._walks: trio.Nursery | None = None

    async def run(self) -> None:
        """What is counted for the pages is counted in here. For ever."""
        async with trio.open_nursery() as nursery:
            self._walks = nursery
            await trio.sleep_forever()

    def routes(self) -> list[BaseRoute]:
        """They come before those of the API, in which a repository could have such a name."""
        pages: dict[str, Handler] = {
            "/": self.overview,
            "/-/search": self.search,
            "/-/repositories": self.repositories,
            "/-/locks": self.locks,
            "/-/object/{oid}": self.found,
            "/-/repository/{name:path}": self.repository,
            "/-/root/{name}": self.root,
            "/-/embeddings/{name}": self.embeddings,
        }
        assets = [Route(f"/-/{name}", self._asset(name), name=name) for name in ASSETS]
        return [*assets, *(self._route(path, handler) for path, handler in pages.items())]

    # The pages.

    async def overview(self, viewer: Viewer, request: Request) -> Response:
        if SIGN_IN in request.query_params:
            return self._signed_in(viewer)
        store = self._service.store
        shared = await self._derived(self._sharing)
        grown = await self._grown(viewer)
        served = viewer.served()
        standings = facts.standings(self._service, viewer, None if shared is None else shared.bytes)
        usage = await store.usage()
        return self._shown(
            "overview.html", viewer,
            objects=usage.objects if viewer.sees_all else sum(one.objects for one in standings),
            bytes=usage.bytes if viewer.sees_all else _sum([one.bytes for one in standings]),
            saved=None if shared is None else shared.saved(viewer.readable),
            counted=shared is not None,
            names=usage.names,
            standings=standings[:SHOWN_REPOSITORIES],
            more_repositories=max(0, len(standings) - SHOWN_REPOSITORIES),
            held=await self._locked.of(served),
            shown_locks=SHOWN_LOCKS,
            activity=facts.newest_activity(self._service, served, SHOWN_ACTIVITY),
            newest=facts.newest_objects(self._service, viewer, SHOWN_OBJECTS),
            plot=None if grown is None else plot.draw(grown, time.time()),
            growth_counted=grown is not None,
            has_growth=viewer.sees_all or len(viewer.readable) <= DRAWN_REPOSITORIES,
            disk=facts.disk(self._service) if viewer.sees_all else None,
            collections=facts.collections(self._service, viewer),
            remote=facts.remote(self._service) if viewer.sees_all else None,
            store=str(store.layout.path) if viewer.sees_all else "",
            url=base_url(self._service, request),
        )  # fmt: skip

    async def search(self, viewer: Viewer, request: Request) -> Response:
        term = finding.clean(request.query_params.get("q", ""))
        if not term:
            return self._shown("search.html", viewer, term="", found=finding.Found())
        oid = finding.as_oid(term)
        if oid is not None and self._is_visible(viewer, oid):
            return RedirectResponse(self._rendering.object_path(oid), 303)
        held = await self._locked.of(viewer.served())
        found = self._index.view(lambda tx: finding.search(tx, viewer, term, held.locks))
        return self._shown("search.html", viewer, term=term, found=found)

    async def repositories(self, viewer: Viewer, request: Request) -> Response:
        shared = await self._derived(self._sharing)
        standings = facts.standings(self._service, viewer, None if shared is None else shared.bytes)
        return self._shown("repositories.html", viewer, standings=standings)

    async def locks(self, viewer: Viewer, request: Request) -> Response:
        return self._shown("locks.html", viewer, held=await self._locked.of(viewer.served()))

    async def found(self, viewer: Viewer, request: Request) -> Response:
        oid = Oid(str(request.path_params["oid"]))
        details = self._index.view(lambda tx: finding.details(tx, viewer, oid))
        return self._shown("object.html", viewer, oid=oid, details=details, row=details.seen.row)

    async def repository(self, viewer: Viewer, request: Request) -> Response:
        name = f"/{request.path_params['name']}"
        return await self._repository(viewer, request, await find(self._service, viewer, name))

    async def root(self, viewer: Viewer, request: Request) -> Response:
        name = str(request.path_params["name"])
        return await self._repository(viewer, request, await find(self._service, viewer, name))

    async def _repository(self, viewer: Viewer, request: Request, repository: Repository) -> Response:
        cursor = request.query_params.get("after")
        wanted = ListQuery(repository=repository.name, limit=PAGE_OBJECTS, cursor=cursor)
        try:
            objects = self._index.view(lambda tx: query.list_objects(tx, wanted))
        except InvalidConfig as error:
            raise NotFound("no such page") from error
        grown = await self._derived(self._growth_of(repository))
        served = [repository] if is_server_name(repository.name) else []
        return self._shown(
            "repository.html", viewer,
            standing=facts.standings(self._service, _only(viewer, repository), None)[0],
            bytes=None if grown is None else grown.totals()[1],
            plot=None if grown is None else plot.draw(grown, time.time()),
            growth_counted=grown is not None,
            objects=objects.objects,
            is_first=cursor is None,
            next=objects.cursor,
            held=await self._locked.of(served),
            activity=facts.newest_activity(self._service, served, SHOWN_ACTIVITY),
            url=self._url(request, repository) if served else "",
        )  # fmt: skip

    async def embeddings(self, viewer: Viewer, request: Request) -> Response:
        """The map of a collection. Vectors belong to no repository: they are for those who see the whole store."""
        name = str(request.path_params["name"])
        if name not in dict(facts.collections(self._service, viewer)):
            raise NotFound(f"no collection {name}")
        collection = self._service.store.embeddings.collection(name)
        found, problem = None, ""
        try:
            if collection.count() and self._walks is not None:
                found = await self._maps.current(collection, self._walks)
        except LfsfsError as error:
            problem = told(error)
        drawn = [] if found is None else spots(found)
        chosen = next((spot for spot in drawn if spot.content_hash == request.query_params.get("at")), None)
        near = drawn if chosen is None else sorted(
            drawn, key=lambda spot: (spot.x - chosen.x) ** 2 + (spot.y - chosen.y) ** 2
        )  # fmt: skip
        return self._shown(
            "embeddings.html", viewer,
            name=name, total=collection.count(), map=found, problem=problem, spots=drawn, chosen=chosen,
            rows=near[:SHOWN_SPOTS], side=SIDE,
        )  # fmt: skip

    # What they share.

    def _signed_in(self, viewer: Viewer) -> Response:
        """Has the browser ask for credentials, and leads on. A browser sends them by itself only below the path at which
        it was asked: so this is / itself.
        """
        if viewer.has_users and not viewer.identity.known:
            raise unidentified()
        return RedirectResponse(self._rendering.home, 303)

    async def _grown(self, viewer: Viewer) -> Series | None:
        """Of the store, or of the repositories that they see, each for itself. None: not counted yet, or too many."""
        if viewer.sees_all:
            return await self._derived(self._growth)
        if len(viewer.readable) > DRAWN_REPOSITORIES:
            return None
        sum_of = Series()
        end = trio.current_time() + PATIENCE_SECONDS
        for repository in viewer.readable.values():
            one = await self._derived(self._growth_of(repository), max(0.0, end - trio.current_time()))
            if one is None:
                return None
            sum_of.objects.update(one.objects)
            sum_of.bytes.update(one.bytes)
        return sum_of

    def _shown(self, template: str, viewer: Viewer, **content: object) -> Response:
        seen = {"viewer": viewer, "now": time.time_ns(), "term": ""}
        return self._rendering.page(template, seen | content)

    def _is_visible(self, viewer: Viewer, oid: Oid) -> bool:
        try:
            self._index.view(lambda tx: finding.details(tx, viewer, oid))
        except NotFound:
            return False
        return True

    async def _derived(self, value: Derived[V], patience: float = PATIENCE_SECONDS) -> V | None:
        return None if self._walks is None else await value.current(self._walks, patience)

    def _growth_of(self, repository: Repository) -> Derived[Series]:
        found = self._growths.pop(repository.id, None)
        if found is None:
            found = Derived(self._index, lambda: repository_growth(self._index, repository.id), self._threads)
        self._growths[repository.id] = found
        if len(self._growths) > REMEMBERED:
            self._growths.popitem(last=False)
        return found

    def _url(self, request: Request, repository: Repository) -> str:
        return f"{base_url(self._service, request)}{repository.name}.git/info/lfs"

    def _asset(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            request.scope["lfsfs.endpoint"] = f"/-/{name}"
            return self._rendering.asset(name)

        return endpoint

    def _route(self, path: str, handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            request.scope["lfsfs.endpoint"] = path
            try:
                viewer = await look(self._service, request)
                await self._index.flush()  # what was done a moment ago is shown
                return await handler(viewer, request)
            except LfsfsError as error:
                return self._problem(request, error)

        return Route(path, endpoint, name=f"page {path}")

    def _problem(self, request: Request, error: LfsfsError) -> Response:
        """For people, and with the same status as the API's."""
        if error.status >= 500:
            log.error("request %s: %s", request.scope["lfsfs.request_id"], error)
        status = 404 if error.status == 422 else error.status  # what no oid or no cursor is leads nowhere
        said = {"status": status, "message": told(error), "request_id": request.scope["lfsfs.request_id"]}
        seen = {"viewer": None, "now": time.time_ns(), "term": ""}
        response = self._rendering.page("problem.html", seen | said, status)
        response.headers.update(headers_of(error))
        return response


def _sum(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _only(viewer: Viewer, repository: Repository) -> Viewer:
    """Their view, narrowed to one repository."""
    return replace(viewer, readable={repository.id: repository})
