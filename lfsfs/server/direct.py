"""DirectLinks: actions that send clients to S3 itself, wherever that can be done; through this server where not."""

import logging
import time
from collections.abc import Sequence
from functools import partial

import trio

from lfsfs.errors import LfsfsError
from lfsfs.oid import Oid
from lfsfs.server.links import Actions, LocalLinks, Place, held, link
from lfsfs.server.tickets import Ticket
from lfsfs.store import journal, rendered
from lfsfs.store.index import Tx
from lfsfs.store.parcels import Parcels
from lfsfs.store.remote import Remote
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.shared import Shared
from lfsfs.store.store import Store
from lfsfs.tiers.remote import Direct

log = logging.getLogger("lfsfs.server")
LARGEST_PUT = 5 << 30
"""Bytes: S3 takes no more in one request, and copies no more."""
LONGEST_SECONDS = 7 * 24 * 3600
"""No presigned URL may be good for longer."""
SWEEP_SECONDS = 3600.0
"""Between two looks for what was uploaded and never verified."""


class DirectLinks:
    """What S3 has is read from there; with `uploads`, what is pushed goes there, as a parcel until it is verified.

    Through the server goes what S3 does not have yet, what is larger than one PUT, and everything while S3 is away or
    where what lies in it is not the objects' own bytes.
    """

    def __init__(
        self, store: Store, remote: Remote, local: LocalLinks, lifetime: float, *, uploads: bool
    ) -> None:
        self._store = store
        self._remote = remote
        self._local = local
        self._lifetime = min(int(lifetime), LONGEST_SECONDS)
        self._uploads = uploads
        self._parcels = Parcels(store, remote)
        self._settling: Shared[None] = Shared()
        self._told = False

    async def downloads(self, place: Place, objects: Sequence[tuple[Oid, int]]) -> list[Actions]:
        direct = await self._direct()
        if direct is None:
            return await self._local.downloads(place, objects)
        there = self._uploaded([oid for oid, _ in objects])
        here = iter(await self._local.downloads(place, [one for one in objects if one[0] not in there]))
        return [await self._signed(direct, oid) if oid in there else next(here) for oid, _ in objects]

    async def upload(self, place: Place, oid: Oid, size: int) -> Actions:
        direct = await self._direct() if self._uploads else None
        if direct is None or place.transfer != "basic" or not 0 < size <= LARGEST_PUT:
            return await self._local.upload(place, oid, size)
        expires = self._expires()
        parcel = self._parcels.new(expires)
        signed = await direct.url_to_write(parcel, oid, size, self._lifetime)
        ticket = Ticket("write", place.repository, place.identity.name, expires, oid, size, parcel)
        return {
            "upload": link(signed.url, signed.headers, expires),
            "verify": self._local.verify(place, ticket),
        }

    async def settle(self, repository: str, oid: Oid, size: int, parcel: str) -> None:
        row = held(self._store, repository, oid)
        if parcel and (row is None or row.state != "whole"):
            await self._settling.do(parcel, partial(self._parcels.take, parcel, oid, size, repository))
        await self._local.settle(repository, oid, size)

    async def run(self) -> None:
        """Sweeps, for ever."""
        while True:
            try:
                swept = await self._parcels.sweep(time.time())
                if swept:
                    log.info("swept %d uploads that were never verified", swept)
            except LfsfsError as failed:
                log.warning("cannot look for uploads that were never verified: %s", failed)
            await trio.sleep(SWEEP_SECONDS)

    async def _signed(self, direct: Direct, oid: Oid) -> Actions:
        signed = await direct.url_to_read(oid, self._lifetime)
        return {"download": link(signed.url, signed.headers, self._expires())}

    async def _direct(self) -> Direct | None:
        """None: through the server."""
        if self._remote.circuit.is_open:
            return None
        direct = (await self._remote.tier()).direct
        if direct is None and not self._told:
            self._told = True
            log.warning(
                "what lies in %s is not the objects' own bytes: everything goes through the server",
                self._remote.url,
            )
        return direct

    def _uploaded(self, oids: Sequence[Oid]) -> set[Oid]:
        """Those that S3 has. Of what the index does not know yet, S3 was found to have it."""

        def is_uploaded(tx: Tx, oid: Oid) -> bool:
            row = rendered.find(tx, oid)
            if isinstance(row, RenderedStat) or (row is not None and row.state != "whole"):
                return False
            return journal.get(tx, oid) is None

        return self._store.index.view(lambda tx: {oid for oid in oids if is_uploaded(tx, oid)})

    def _expires(self) -> int:
        return int(time.time()) + self._lifetime
