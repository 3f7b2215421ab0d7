"""Checking one object: in all the places that should have it. What is damaged in one heals from another.

What is damaged everywhere is marked corrupt: it is listed, never served, and the next commit of the same oid replaces
it. A mark is set only on the row that was looked at: whoever commits or deletes the object meanwhile is right.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import trio

from lfsfs.errors import Corrupt, Denied, LfsfsError, LocalDamage, NotFound, Unavailable
from lfsfs.integrity.local_file import Found, examine
from lfsfs.integrity.pace import Pace
from lfsfs.integrity.report import Verdict
from lfsfs.oid import Oid
from lfsfs.store import catalog, deletion, journal, rendered, residents
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.fetches import SLOWEST_BYTES_PER_SECOND
from lfsfs.store.hashing import Digest
from lfsfs.store.index import Tx
from lfsfs.store.remote import Remote
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.store import Store
from lfsfs.tiers.local import LocalTier

log = logging.getLogger("lfsfs.integrity")
ATTEMPTS = 5  # of an object that others change while it is looked at
UNKNOWN, AWAY = -1, -2
"""In the place of a size: the remote tier has not been asked; it has, and did not answer: it is not asked again for each
object, which would take the deadline each time.
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the index says of an object. `here`: whether the local disk should have it; `waits`: for its upload."""

    row: ObjectStat
    blocks: bytes
    here: bool
    waits: bool

    def is_same(self, other: "Standing | None") -> bool:
        """But for when it was read last."""
        if other is None:
            return False
        mine, theirs = replace(self.row, accessed=0), replace(other.row, accessed=0)
        return replace(self, row=mine) == replace(other, row=theirs)


class Changed(Exception):
    """Somebody committed, deleted, uploaded or evicted the object meanwhile: it is looked at anew."""


class Checker:
    """Checks objects of one store, any number at once.

    `quick`: files are compared with their block digests. `remote_bytes`: what lies in the remote tier is read, all of
    it; else it is only asked whether it is there. `direct_upload`: no daemon uploads what is to be sent again.
    """

    def __init__(
        self, store: Store, pace: Pace, limiter: trio.CapacityLimiter, *, quick: bool, remote_bytes: bool,
        direct_upload: bool,
    ) -> None:  # fmt: skip
        self._store = store
        self._index = store.index
        self._pace = pace
        self._limiter = limiter
        self._quick = quick
        self._remote_bytes = remote_bytes
        self._direct_upload = direct_upload

    async def check(self, oid: Oid, remote_size: int | None = UNKNOWN) -> Verdict:
        """`remote_size`: what a listing has said; None: the listing had it not."""
        for _ in range(ATTEMPTS):
            row = self._index.view(lambda tx: rendered.find(tx, oid))
            if row is None or row.state == "deleting":
                return Verdict(oid, "gone")
            if isinstance(row, RenderedStat):
                return await self._check_rendered(oid)
            standing = self._standing(oid)
            try:
                if standing is not None:
                    return await self._check(standing, remote_size)
            except Changed:
                remote_size = AWAY if remote_size == AWAY else UNKNOWN
        return Verdict(oid, "gone")

    async def _check_rendered(self, oid: Oid) -> Verdict:
        if await self._store.embeddings.is_npz_whole(oid):
            return Verdict(oid, "whole")
        return Verdict(oid, "corrupt", "the vector that it is made of is damaged or gone")

    def _standing(self, oid: Oid) -> Standing | None:
        return self._index.view(lambda tx: self._look(tx, oid))

    def _look(self, tx: Tx, oid: Oid) -> Standing | None:
        row = catalog.get(tx, oid)
        if row is None or row.state == "deleting":
            return None
        waits = journal.get(tx, oid) is not None
        here = self._store.remote is None or waits or residents.get(tx, oid) is not None
        return Standing(row, catalog.digests(tx, oid), here, waits)

    async def _check(self, standing: Standing, remote_size: int | None) -> Verdict:
        if not standing.here:
            return await self._check_far(standing, remote_size)
        found = await self._examine(standing)
        if found.state != "whole":
            return await self._mend_here(standing, found)
        verdict = await self._settle_row(standing, found)
        if self._store.remote is not None and not standing.waits:
            row = replace(standing.row, size=found.size)
            return await self._check_both(self._store.remote, row, remote_size, verdict)
        return verdict

    async def _examine(self, standing: Standing) -> Found:
        row, tier = standing.row, self._store.tier
        if not isinstance(tier, LocalTier):
            whole = await self._store.check(row.oid)
            return Found(
                "whole" if whole else "damaged", row.size, standing.blocks, "" if whole else "damaged"
            )
        quick = self._quick and row.state == "whole"
        return await trio.to_thread.run_sync(
            lambda: examine(tier, row.oid, row.size, standing.blocks, self._pace, quick=quick),
            limiter=self._limiter,
        )

    async def _settle_row(self, standing: Standing, found: Found) -> Verdict:
        """The bytes are right: so is the row from now on."""
        row = standing.row
        right = replace(row, state="whole", size=found.size)
        if right == row and found.blocks == standing.blocks:
            return Verdict(row.oid, "whole")
        why = "it had been found corrupt" if row.state == "corrupt" else "the index was wrong about it"
        await self._write(standing, lambda tx: catalog.put(tx, right, found.blocks))
        log.warning("object %s is whole: %s", row.oid, why)
        return Verdict(row.oid, "healed", why)

    # What is not right on the local disk.

    async def _mend_here(self, standing: Standing, found: Found) -> Verdict:
        """The local copy is damaged or gone: it comes from the remote tier, where that has it whole."""
        oid = standing.row.oid
        kind: Literal["missing", "corrupt"] = "missing" if found.state == "missing" else "corrupt"
        remote = self._store.remote
        if remote is None:
            return await self._quarantine(standing, kind, found.why)
        try:
            far = await self._read_far(remote, standing.row)
        except (Unavailable, Denied) as away:
            log.error(
                "object %s: on the local disk %s; the remote tier cannot be asked: %s", oid, found.why, away
            )
            return Verdict(oid, "unreachable", f"{found.why}, and the remote tier cannot be asked: {away}")
        if far.state != "whole":
            why = f"on the local disk {found.why}; in the remote tier {far.why}"
            return await self._quarantine(standing, kind if far.state == "missing" else "corrupt", why)
        if self._index.read_only:
            return Verdict(oid, "unreachable", f"{found.why}: the store is open read-only")
        row = replace(standing.row, state="whole", size=far.size)
        remote.cache.leaving.add(oid)
        try:
            await self._write(standing, lambda tx: _only_far(tx, row, far.blocks))
            if not self._index.view(lambda tx: _is_local(tx, oid)):
                await remote.cache.remove_file(oid)
        finally:
            remote.cache.leaving.discard(oid)
        await self._bring_back(remote, row)
        log.warning("object %s was healed from the remote tier: %s", oid, found.why)
        return Verdict(oid, "healed", found.why)

    async def _bring_back(self, remote: Remote, row: ObjectStat) -> None:
        try:
            await remote.fetches.prefetch(row)
        except LfsfsError as failed:
            log.info("object %s is in the remote tier only now: %s", row.oid, failed)

    async def _quarantine(self, standing: Standing, kind: Literal["missing", "corrupt"], why: str) -> Verdict:
        oid = standing.row.oid
        if standing.row.state != "corrupt":
            await self._write(standing, lambda tx: deletion.mark(tx, oid, "corrupt"))
        log.error("object %s is %s: %s. It is not served; the next upload of it heals it", oid, kind, why)
        return Verdict(oid, kind, why)

    # What lies in the remote tier.

    async def _check_far(self, standing: Standing, remote_size: int | None) -> Verdict:
        """It is in the remote tier only."""
        row, remote = standing.row, self._store.remote
        assert remote is not None
        if remote_size == AWAY:
            return Verdict(row.oid, "unreachable", "the remote tier does not answer")
        try:
            if self._remote_bytes or row.state == "corrupt":
                far = await self._read_far(remote, row)
            else:
                far = await self._look_far(remote, row, remote_size)
        except (Unavailable, Denied) as away:
            return Verdict(row.oid, "unreachable", str(away))
        if far.state == "whole":
            return await self._settle_far(standing, far)
        if not self._index.read_only:
            if far.state == "damaged":
                await self._write(standing, lambda tx: None)
                await remote.fetches.found_damaged(row.oid)
            else:
                self._log_lost(row.oid, far.why)
                await self._write(standing, lambda tx: deletion.mark(tx, row.oid, "corrupt"))
        return Verdict(row.oid, "missing" if far.state == "missing" else "corrupt", far.why)

    def _log_lost(self, oid: Oid, why: str) -> None:
        log.error("object %s is lost: %s. The next upload of it heals it", oid, why)

    async def _settle_far(self, standing: Standing, far: Found) -> Verdict:
        row = standing.row
        if row.state == "whole" and far.size == row.size:
            return Verdict(row.oid, "whole")
        assert self._store.remote is not None
        if not self._index.read_only and await self._store.remote.fetches.recheck(row, at_once=True):
            return Verdict(row.oid, "healed", "it had been found corrupt")
        return Verdict(row.oid, "corrupt", "it had been found corrupt")

    async def _check_both(
        self, remote: Remote, row: ObjectStat, remote_size: int | None, verdict: Verdict
    ) -> Verdict:
        """The local copy is whole. It is sent again where the remote tier's is not."""
        if remote_size == AWAY:
            return verdict
        try:
            if self._remote_bytes:
                far = await self._read_far(remote, row)
            elif remote_size == UNKNOWN and self._quick:
                return verdict
            else:
                far = await self._look_far(remote, row, remote_size)
        except (Unavailable, Denied) as away:
            log.info("object %s is whole here, and the remote tier was not asked: %s", row.oid, away)
            return verdict
        if far.state == "whole" or self._index.read_only:
            return verdict
        log.warning("object %s in the remote tier: %s: sending the local copy", row.oid, far.why)
        if not await remote.repairs.send(row.oid, row.size):
            return Verdict(
                row.oid, "unreachable", f"in the remote tier {far.why}, and there is no room to send it"
            )
        pending = self._index.view(lambda tx: journal.get(tx, row.oid))
        if self._direct_upload and pending is not None:
            try:
                await remote.upload(pending)
            except (Unavailable, Denied, LocalDamage) as failed:
                return Verdict(
                    row.oid, "unreachable", f"in the remote tier {far.why}; sending it failed: {failed}"
                )
        return Verdict(row.oid, "healed", f"in the remote tier {far.why}")

    async def _look_far(self, remote: Remote, row: ObjectStat, listed: int | None) -> Found:
        """Whether the remote tier has an object of this size."""
        if listed != row.size:  # what a listing says may be older than the row
            tier = await remote.tier()
            try:
                listed = await remote.circuit.call(lambda: tier.size(row.oid), remote.options.deadline)
            except NotFound:
                return Found("missing", why="it is not there")
        if listed != row.size:
            return Found("damaged", why=f"it has {listed} bytes where {row.size} are due")
        return Found("whole", row.size)

    async def _read_far(self, remote: Remote, row: ObjectStat) -> Found:
        """Reads all of it. Unavailable, Denied."""
        tier = await remote.tier()
        digest = Digest()

        def sink(piece: bytes) -> None:
            digest.update(piece)
            self._pace.count(len(piece))

        async def attempt() -> None:
            size = await tier.size(row.oid)
            if size > digest.size:
                await tier.fetch(row.oid, digest.size, size - digest.size, sink)

        deadline = remote.options.deadline + row.size / SLOWEST_BYTES_PER_SECOND
        try:
            await remote.circuit.call(attempt, deadline)
        except NotFound:
            return Found("missing", why="it is not there")
        except Corrupt as damaged:
            return Found("damaged", why=str(damaged))
        if digest.sha256() != row.oid.to_bytes():
            return Found(
                "damaged", digest.size, why=f"its {digest.size} bytes do not have the SHA-256 of its name"
            )
        return Found("whole", digest.size, digest.blocks())

    async def _write(self, standing: Standing, change: Callable[[Tx], object]) -> None:
        """Changes what the index says, if that is still what was looked at; Changed where it is not."""
        if self._index.read_only:
            return

        def write(tx: Tx) -> bool:
            if not standing.is_same(self._look(tx, standing.row.oid)):
                return False
            change(tx)
            return True

        if not await self._index.update(write):
            raise Changed


def _only_far(tx: Tx, row: ObjectStat, blocks: bytes) -> None:
    """The remote tier has it whole; the local disk has nothing of it that counts."""
    catalog.put(tx, row, blocks)
    journal.leave(tx, row.oid)
    residents.drop(tx, row.oid)


def _is_local(tx: Tx, oid: Oid) -> bool:
    return (journal.get(tx, oid) or residents.get(tx, oid)) is not None
