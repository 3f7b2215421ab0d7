"""Elsewhere: objects that other machines on the remote tier make of their vectors.

Such an object is in no bucket. But the other machine has recorded that it refers to it, and says which packs it has:
those are read once, as a whole, and from then on every object that their vectors make is known here too. The packs
stay the other machine's; that objects here are made of them is recorded, so that it does not delete them.
"""

import logging
from dataclasses import dataclass

import trio

from lfsfs.errors import Corrupt, LfsfsError, Unavailable
from lfsfs.oid import Oid
from lfsfs.store import packs
from lfsfs.store.index import Tx
from lfsfs.store.records import Machine
from lfsfs.store.remote import Remote
from lfsfs.store.store import Store

log = logging.getLogger("lfsfs.embeddings")
KEPT_SECONDS = 30.0  # how long it is taken for true what other machines have recorded


@dataclass(slots=True)
class _Heard:
    """What the others said, and until when that is good enough."""

    until: float
    machines: list[Machine]
    shards: dict[tuple[str, int], frozenset[Oid]]


class Elsewhere:
    """The vectors of other machines, seen from one open store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._heard = _Heard(0.0, [], {})
        self._listening = trio.Lock()

    async def find_packs(self, oid: Oid) -> int:
        """Enters the packs of the machines that refer to the object, those that were not known; how many. Only where the
        bucket has not got the object.
        """
        remote = self._store.remote
        if remote is None or self._store.index.read_only or remote.circuit.is_open:
            return 0
        async with self._listening:
            try:
                return await self._find_packs(remote, oid)
            except Unavailable:
                return 0
            except (Corrupt, LfsfsError) as wrong:
                log.warning("what other machines say of their vectors is not used: %s", wrong)
                return 0

    async def _find_packs(self, remote: Remote, oid: Oid) -> int:
        if self._heard.until < trio.current_time():
            machines = await remote.records.others()
            self._heard = _Heard(trio.current_time() + KEPT_SECONDS, machines, {})
        entered = 0
        for machine in self._heard.machines:
            new = self._store.index.view(lambda tx, machine=machine: _unknown(tx, machine))  # type: ignore[misc]
            if new and oid in await self._shard(remote, machine, oid.to_bytes()[0]):
                entered += await self._enter(new)
        return entered

    async def _shard(self, remote: Remote, machine: Machine, first: int) -> frozenset[Oid]:
        key = (machine.id, first)
        if key not in self._heard.shards:
            self._heard.shards[key] = await remote.records.referred_to(machine, first)
        return self._heard.shards[key]

    async def _enter(self, oids: list[Oid]) -> int:
        """Those that are in the bucket already."""
        entered = 0
        for oid in oids:
            row = await self._store.find_row(oid)
            if row is not None:
                await self._store.index.update(
                    lambda tx, oid=oid, row=row: packs.add(tx, oid, row.size, "foreign-unread")  # type: ignore[misc]
                )
                entered += 1
        return entered


def _unknown(tx: Tx, machine: Machine) -> list[Oid]:
    return [oid for oid in machine.packs if packs.find(tx, oid) is None]
