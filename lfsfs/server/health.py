"""/healthz: the process answers. /readyz: it can serve. /metrics: what Prometheus reads, with credentials of its own."""

import trio
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from lfsfs.errors import LfsfsError
from lfsfs.integrity import gauges
from lfsfs.server.access.access import WHOLE_STORE
from lfsfs.server.errors import HttpError, unidentified
from lfsfs.server.peers import address_of
from lfsfs.server.service import Service, check_host

READY_SECONDS = 5.0


async def healthz(service: Service, request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def readyz(service: Service, request: Request) -> Response:
    """503 unless the index takes a transaction in time."""
    try:
        with trio.fail_after(READY_SECONDS):
            if service.store.index.read_only:
                await service.store.usage()
            else:
                await service.store.index.flush()
    except (LfsfsError, trio.TooSlowError) as error:
        raise HttpError(503, f"not ready: {error}") from error
    return PlainTextResponse("ready\n")


async def metrics(service: Service, request: Request) -> Response:
    """For whoever may connect where there are no users; else for who may administer the store as a whole.

    The address of a client says nothing: a proxy on this machine has that of the loopback.
    """
    check_host(service, request)
    identity = await service.access.identify(request.headers, address_of(request))
    if not await service.access.allowed(identity, WHOLE_STORE, "admin"):
        if not identity.known:
            raise unidentified()
        raise HttpError(403, f"{identity.name} may not see the metrics: it takes admin on {WHOLE_STORE[1:]}")
    request.scope["lfsfs.user"] = identity.name
    of_store = gauges.rendered(await gauges.gauges(service.store)).encode()
    return Response(of_store + service.metrics.rendered(), media_type=CONTENT_TYPE_LATEST)
