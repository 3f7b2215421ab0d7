"""/healthz: the process answers. /readyz: it can serve. /metrics: what Prometheus reads."""

import trio
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from lfsfs.errors import LfsfsError
from lfsfs.server.errors import HttpError
from lfsfs.server.service import Service

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
    return Response(service.metrics.rendered(), media_type=CONTENT_TYPE_LATEST)
