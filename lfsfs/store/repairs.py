"""Repairs: objects that are damaged in the remote tier. Who finds one reports it there; who has it whole puts it right.

A report is a note of no content, damaged/<oid>. What this machine has found is kept in its index too (docs/FORMAT.md),
until the remote tier has the object whole again or nobody wants it any more.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable

import trio

from lfsfs.errors import InvalidOid, LfsfsError, LocalDamage, NoSpace
from lfsfs.oid import Oid
from lfsfs.store import catalog, digests, journal, residents
from lfsfs.store.cache import Cache
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.circuit import Circuit
from lfsfs.store.index import Index, Tx
from lfsfs.store.space import Space
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.remote import RemoteTier

log = logging.getLogger("lfsfs.remote")
INTERVAL_SECONDS = 60.0  # between two looks for what others have found damaged
LEAST_SECONDS = 0.25  # between two looks
PAGE = 1_000
REPORTS = "damaged/"
_FOUND = b"damaged\0"
_NEW, _REPORTED = b"", b"reported"
Recheck = Callable[[ObjectStat], Awaitable[bool]]


class Repairs:
    """The reports of one machine, and what it does about everybody's. Used from one trio thread.

    `local` has what lies on the local disk; `recheck` reads one that was found damaged, and says whether it is
    whole by now.
    """

    def __init__(
        self, index: Index, circuit: Circuit, tier: Callable[[], Awaitable[RemoteTier]], cache: Cache, space: Space,
        local: LocalTier, recheck: Recheck, deadline: float,
    ) -> None:  # fmt: skip
        self._index = index
        self._circuit = circuit
        self._tier = tier
        self._cache = cache
        self._space = space
        self._local = local
        self._recheck = recheck
        self._deadline = deadline

    async def run(self) -> None:
        """Looks from time to time, and as soon as there is something to report, until it is cancelled."""
        while True:
            asked = self._index.view(journal.retries_asked)
            try:
                await self.look()
            except LfsfsError as failed:
                log.log(
                    logging.DEBUG if self._circuit.is_open else logging.WARNING,
                    "what is damaged in the remote tier was not looked after: %s", failed,
                )  # fmt: skip
                await trio.sleep(INTERVAL_SECONDS)
            await self._pause(asked)

    async def _pause(self, asked: int) -> None:
        """Returns after INTERVAL_SECONDS, or when somebody has asked once more, or has found something."""
        transaction = -1
        await trio.sleep(LEAST_SECONDS)
        with trio.move_on_after(INTERVAL_SECONDS):
            while True:
                transaction = await self._index.changes.after(transaction)
                now, known = self._index.view(lambda tx: (journal.retries_asked(tx), found(tx)))
                if now != asked or _NEW in known.values():
                    return

    async def look(self) -> None:
        """Reports what was found here; puts right what others report and this machine has whole. Unavailable, Denied…"""
        reports = await self._reports()
        for oid, state in self._index.view(found).items():
            await self._follow(oid, state, reports)
        for oid in reports:
            await self._put_right(oid)

    async def done(self, oid: Oid) -> None:
        """The remote tier has the object whole again. What fails here costs one more upload."""
        with contextlib.suppress(LfsfsError):
            tier = await self._tier()
            await self._circuit.call(lambda: tier.delete_note(_report(oid)), self._deadline)

    async def _reports(self) -> set[Oid]:
        tier = await self._tier()
        reports: set[Oid] = set()
        after: str | None = None
        while page := await self._circuit.call(
            lambda after=after: tier.notes(REPORTS, after, PAGE),  # type: ignore[misc]
            self._deadline,
        ):
            after = page[-1]
            for key in page:
                with contextlib.suppress(InvalidOid):
                    reports.add(Oid(key[len(REPORTS) :]))
        return reports

    async def _follow(self, oid: Oid, state: bytes, reports: set[Oid]) -> None:
        """What this machine has found: to be reported, to be waited for, or healed by somebody meanwhile."""
        row = self._index.view(lambda tx: catalog.get(tx, oid))
        if row is None or row.state != "corrupt":
            await self._index.update(lambda tx: settle(tx, oid))
        elif oid in reports:
            return
        elif state == _REPORTED and await self._recheck(row):
            log.info("object %s is whole again in the remote tier", oid)
            await self._index.update(lambda tx: settle(tx, oid))
        else:
            tier = await self._tier()
            await self._circuit.call(lambda: tier.put_note(_report(oid), b""), self._deadline)
            await self._index.update(lambda tx: tx.put("meta", _FOUND + oid.to_bytes(), _REPORTED))

    async def _put_right(self, oid: Oid) -> None:
        """Sends the local copy, if there is one and it is whole, in the place of what the remote tier has."""
        row, waits, blocks = self._index.view(
            lambda tx: (catalog.get(tx, oid), journal.get(tx, oid), catalog.digests(tx, oid))
        )
        if row is None or row.state != "whole" or waits is not None or not self._cache.has(oid):
            return
        try:
            await trio.to_thread.run_sync(digests.verify, self._local, oid, row.size, blocks)
        except (LocalDamage, OSError) as damaged:
            log.warning(
                "object %s is damaged in the remote tier, and not whole here either: %s", oid, damaged
            )
            return
        log.warning("object %s was reported damaged in the remote tier: sending the local copy", oid)
        await self.send(oid, row.size)

    async def send(self, oid: Oid, size: int) -> bool:
        """Has the local copy, which is whole, uploaded in the place of the remote tier's; whether there was room."""
        grant = self._space.grant()
        try:
            stored = self._local.stored_size(size)
            await self._space.reserve_pending(grant, residents.room_of(stored))
            await self._index.update(lambda tx: _send_again(tx, oid, size, stored))
        except NoSpace as full:
            log.warning("object %s is not sent again now: %s", oid, full)
            return False
        finally:
            grant.close()
        return True


def found(tx: Tx) -> dict[Oid, bytes]:
    """What this machine has found damaged, and whether it is reported."""
    return {Oid.from_bytes(key[len(_FOUND) :]): state for key, state in tx.scan("meta", prefix=_FOUND)}


def enter(tx: Tx, oid: Oid) -> None:
    """This machine has found it damaged. Repeating is harmless."""
    key = _FOUND + oid.to_bytes()
    if tx.get("meta", key) is None:
        tx.put("meta", key, _NEW)


def settle(tx: Tx, oid: Oid) -> None:
    tx.delete("meta", _FOUND + oid.to_bytes())


def _send_again(tx: Tx, oid: Oid, size: int, stored: int) -> None:
    if residents.drop(tx, oid):  # evicted meanwhile where it is none
        journal.enter(tx, oid, size, stored=stored, replace=True)


def _report(oid: Oid) -> str:
    return f"{REPORTS}{oid}"
