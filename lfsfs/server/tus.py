"""tus uploads (https://tus.io/protocols/resumable-upload 1.0.0): an upload that goes on after a cut connection.

An upload lies in the store's staging, under its repository, its uploader and its oid, for as long as this server
runs; what nobody goes on with is dropped after a day.
"""

from starlette.requests import Request
from starlette.responses import Response

from lfsfs.server.service import Service


async def create(service: Service, request: Request) -> Response:
    raise NotImplementedError


async def offset(service: Service, request: Request) -> Response:
    raise NotImplementedError


async def append(service: Service, request: Request) -> Response:
    raise NotImplementedError


async def abandon(service: Service, request: Request) -> Response:
    raise NotImplementedError


async def describe(service: Service, request: Request) -> Response:
    raise NotImplementedError
