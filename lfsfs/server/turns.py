"""Turns: how many bodies move at once."""

import trio

from lfsfs.server.errors import HttpError
from lfsfs.server.service import Service


class Turn:
    """`async with Turn(service):` is one of the transfers that may run at once. 429 if none ends for a while."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __aenter__(self) -> None:
        with trio.move_on_after(self._service.options.queue_timeout):
            return await self._service.transfers.acquire_on_behalf_of(self)
        raise HttpError(429, "too many transfers at once")

    async def __aexit__(self, *_: object) -> None:
        self._service.transfers.release_on_behalf_of(self)
