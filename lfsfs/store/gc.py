"""gc: what nothing refers to goes to the trash, in a later run than the one that found it out.

1. Everything that might refer to an object is asked: the index, the clones, the other machines. One that cannot be read
   ends the run, and nothing is deleted.
2. What nothing refers to is written down with the time, if it was not in an earlier run; what something refers to is
   struck from that list. The list is what makes a lookup refer to such an object at once (lfsfs.store.references).
3. What is on the list for the grace time goes to the trash, after the daemon has answered that no reference is on its
   way. The transaction that marks an object asks the index again.
4. The clones are asked again. What one of them has come to need meanwhile is restored.

A run may be killed anywhere, and begun again. Why this is safe is said in docs/SEMANTICS.md, section 13.
"""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from lfsfs import steps
from lfsfs.alone import try_alone
from lfsfs.errors import Infected, InUse, LfsfsError, NotFound, ReadOnly, Refused
from lfsfs.oid import Oid
from lfsfs.store import catalog, epochs, journal, keepers, rebuild, unrecorded, unreferenced
from lfsfs.store.index import Index, Tx
from lfsfs.store.layout import Layout
from lfsfs.store.records import PARALLEL, Machine, Records
from lfsfs.store.roots import Roots, RootUnreadable
from lfsfs.store.store import Store

log = logging.getLogger("lfsfs.gc")
LOCK = "gc.lock"
"""Below STORE: held by the one gc that runs."""
GRACE_SECONDS = 14 * 86400.0
PAGE = 2_000
BATCH = 64  # objects that go to the trash in one transaction
_SECOND_NS = 10**9


@dataclass(frozen=True, slots=True)
class Budget:
    """A run that would delete more than this deletes nothing. None: no such bound. `share`: of the objects, 0 to 1."""

    objects: int | None = None
    bytes: int | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Amount:
    """Objects, and their bytes."""

    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Collected:
    """What a run found and did.

    `unreferenced`: nothing refers to them; `ripe`: for the grace time. `deleted`: gone to the trash. `restored`: come
    back, since a clone needed them after all. `next`: when the next of the others is ripe (nanoseconds since 1970), 0
    where there is none.
    """

    store: Amount
    unreferenced: Amount
    ripe: Amount
    deleted: Amount
    restored: int
    next: int


async def collect(
    store: Store,
    roots: Sequence[Roots],
    *,
    grace: float = GRACE_SECONDS,
    act: bool,
    budget: Budget | None = None,
) -> Collected:
    """One run. `act` False: nothing is deleted, but since when nothing refers to an object is written down.

    `grace` in seconds; 0: what this run finds, it deletes. RootUnreadable; Refused beyond the budget; InUse where
    another gc runs; Unavailable where the daemon does not answer.
    """
    if store.index.read_only:
        raise ReadOnly("the store is open read-only: gc writes down what it finds")
    async with _alone(store.layout):
        check_whole(store.index, has_remote=store.remote is not None)
        await store.index.flush()
        total = Amount(*store.index.view(catalog.totals))
        steps.begin("looking", total.objects)
        candidates = await find_unreferenced(store.index)
        for root in roots:
            await root.strike(candidates)
        now = time.time_ns()
        found = await _write_down(store.index, candidates, now)
        before = now - int(grace * _SECOND_NS)
        ripe = [one for one in found if one.since <= before]
        if act:
            _check_budget(ripe, total, budget)
        deleted, restored = Amount(), 0
        if act and ripe:
            await epochs.settled(store.index, store.layout)
            steps.begin("moving to the trash", len(ripe))
            gone = await _discard(store, ripe, before)
            restored = await bring_back(store, roots, {oid for oid, _ in gone})
            deleted = Amount(len(gone), sum(size for _, size in gone))
        later = [one.since for one in found if one.since > before]
        next_ripe = min(later) + now - before if later else 0
        return Collected(total, _amount(found), _amount(ripe), deleted, restored, next_ripe)


@dataclass(frozen=True, slots=True)
class _Found:
    oid: Oid
    size: int
    since: int


def _amount(found: list[_Found]) -> Amount:
    return Amount(len(found), sum(one.size for one in found))


def check_whole(index: Index, *, has_remote: bool) -> None:
    """RootUnreadable where the index does not know all that it once knew."""
    lost, reconciled = index.view(lambda tx: (rebuild.lost_references(tx), unrecorded.is_reconciled(tx)))
    if has_remote and not reconciled:
        raise RootUnreadable(
            "what this machine had recorded in S3 has not been read yet: `lfsfs sync --wait` first; nothing was deleted"
        )
    if lost and not (has_remote and reconciled):
        raise RootUnreadable(
            "the index was made anew, and names and references were lost with the old one: nothing was deleted."
            " When the clones have looked up again what they need, and the names are there again:"
            " `lfsfs gc --trust-index`"
        )


async def find_unreferenced(index: Index) -> set[bytes]:
    """The objects that nothing in the index refers to, and that do not wait for their upload. In pages."""
    found: set[bytes] = set()
    start = b""
    while True:
        rows, last = await trio.to_thread.run_sync(
            index.view, lambda tx, start=start: _unreferenced(tx, start)
        )
        found.update(rows)
        steps.add(PAGE)
        if last is None:
            return found
        start = last + b"\0"


def _unreferenced(tx: Tx, start: bytes) -> tuple[list[bytes], bytes | None]:
    found: list[bytes] = []
    for looked, (key, value) in enumerate(tx.scan("objects", start=start), start=1):
        oid = Oid.from_bytes(key)
        if value[0] != catalog.DELETING and journal.get(tx, oid) is None and not keepers.is_kept(tx, oid):
            found.append(key)
        if looked == PAGE:
            return found, key
    return found, None


async def _write_down(index: Index, candidates: set[bytes], now: int) -> list[_Found]:
    """Since when nothing refers to each; what is not among them is struck from the list."""
    start: bytes | None = b""
    while start is not None:
        start = await index.update(partial(_strike_kept, candidates=candidates, start=start))
    found: list[_Found] = []
    ordered = sorted(candidates)
    for first in range(0, len(ordered), PAGE):
        page = ordered[first : first + PAGE]
        found += await index.update(partial(_note, page=page, now=now))
    return found


def _strike_kept(tx: Tx, candidates: set[bytes], start: bytes) -> bytes | None:
    """One page; where the next one begins."""
    page = []
    for key, _ in tx.scan("unreferenced", start=start):
        page.append(key)
        if len(page) == PAGE:
            break
    for key in page:
        if key not in candidates:
            tx.delete("unreferenced", key)
    return page[-1] + b"\0" if len(page) == PAGE else None


def _note(tx: Tx, page: list[bytes], now: int) -> list[_Found]:
    found = []
    for key in page:
        oid = Oid.from_bytes(key)
        row = catalog.get(tx, oid)
        if row is not None and row.state != "deleting" and not keepers.is_kept(tx, oid):
            found.append(_Found(oid, row.size, unreferenced.note(tx, oid, now)))
    return found


def _check_budget(ripe: list[_Found], total: Amount, budget: Budget | None) -> None:
    if budget is None:
        return
    going = _amount(ripe)
    bounds = [
        (going.objects, budget.objects),
        (going.bytes, budget.bytes),
        (going.objects, None if budget.share is None else total.objects * budget.share),
    ]
    if any(bound is not None and amount > bound for amount, bound in bounds):
        raise Refused(
            f"{going.objects} of {total.objects} objects ({going.bytes} bytes) would go, which is more than the budget:"
            " nothing was deleted. Look at `lfsfs gc` and `lfsfs why`, then give --budget"
        )


async def _discard(store: Store, ripe: list[_Found], before: int) -> list[tuple[Oid, int]]:
    """To the trash, in batches. What something has come to refer to since it was written down stays."""

    def may_go(tx: Tx, oid: Oid) -> bool:
        row, since = catalog.get(tx, oid), unreferenced.since(tx, oid)
        if row is None or row.state == "deleting" or since is None or since > before:
            return False
        return journal.get(tx, oid) is None and not keepers.is_kept(tx, oid)

    gone: list[tuple[Oid, int]] = []
    for first in range(0, len(ripe), BATCH):
        oids = [one.oid for one in ripe[first : first + BATCH]]
        gone += [(row.oid, row.size) for row in await store.deletions.discard_all(oids, "gc", may_go)]
        steps.add(len(oids))
    return gone


async def bring_back(store: Store, roots: Sequence[Roots], trashed: set[Oid]) -> int:
    """Restores what one of the roots needs of what was taken out; how many. RootUnreadable."""
    left = {oid.to_bytes() for oid in trashed}
    for root in roots:
        if left:
            await root.strike(left)
    needed = [oid for oid in trashed if oid.to_bytes() not in left]
    restored = 0
    for oid in needed:
        try:
            await store.trash.restore(oid)
            restored += 1
        except Infected as refused:
            log.warning("a clone needs what is in the trash: %s", refused)
        except NotFound:
            if store.lookup(oid) is None:
                raise
            # somebody has committed it anew meanwhile
    return restored


class OtherMachines:
    """What the other machines on the remote tier have recorded that they refer to."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def strike(self, candidates: set[bytes]) -> None:
        if not candidates:
            return
        try:
            machines = await self._records.others()
        except LfsfsError as failed:
            raise RootUnreadable(
                f"what other machines refer to cannot be read: {failed}; nothing was deleted"
            ) from failed
        steps.begin("asking other machines", len(machines), "machines")
        limiter = trio.CapacityLimiter(PARALLEL)
        failures: list[RootUnreadable] = []
        async with trio.open_nursery() as nursery:
            for machine in machines:
                for first in sorted({key[0] for key in candidates}):
                    nursery.start_soon(self._strike, machine, first, candidates, limiter, failures)
        if failures:
            raise failures[0]

    async def _strike(
        self, machine: Machine, first: int, candidates: set[bytes], limiter: trio.CapacityLimiter,
        failures: list[RootUnreadable],
    ) -> None:  # fmt: skip
        async with limiter:
            if failures:
                return
            try:
                candidates.difference_update(
                    oid.to_bytes() for oid in await self._records.referred_to(machine, first)
                )
            except LfsfsError as failed:
                failures.append(_unreadable(machine, failed))


def _unreadable(machine: Machine, failed: LfsfsError) -> RootUnreadable:
    return RootUnreadable(
        f"what the machine {machine.host}, {machine.store} ({machine.id}) refers to cannot be read: {failed};"
        " nothing was deleted. It writes a damaged record anew when it is mounted"
    )


@asynccontextmanager
async def _alone(layout: Layout) -> AsyncIterator[None]:
    with (layout.path / LOCK).open("ab") as lock:
        if not try_alone(lock):
            raise InUse("another gc of this store is running")
        yield
