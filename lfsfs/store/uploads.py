"""Uploads: works the journal off. Several objects at once, for ever, with growing pauses where it fails.

An object leaves the journal when the remote tier has answered for it; a kill at any moment repeats at most that.
"""

import logging
import math
from collections.abc import Awaitable, Callable

import trio

from lfsfs.errors import LfsfsError, LocalDamage, NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.store import catalog, deletion, digests, journal, withdrawn
from lfsfs.store.bursts import Bursts
from lfsfs.store.circuit import Circuit
from lfsfs.store.index import Index, Tx
from lfsfs.store.journal import Pending
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.remote import RemoteTier

log = logging.getLogger("lfsfs.remote")
PAGE = 256
LEAST_IN_PARTS = 5 << 20  # bytes: no smaller object is ever uploaded in parts
FIRST_PAUSE_SECONDS = 1.0  # after an upload that failed for a reason of its own
LONGEST_PAUSE_SECONDS = 60.0
PAUSED_PER_SECOND = 10_000
POLL_SECONDS = 0.25  # how soon what another process has committed is seen
Uploaded = Callable[[Pending], Awaitable[None]]


class Uploads:
    """The uploader of one store. `uploaded` is awaited for each object that the remote tier has taken, `join` before it
    gets the first one: others have to know of this machine.
    """

    def __init__(
        self, index: Index, tier: RemoteTier, circuit: Circuit, local: LocalTier, uploaded: Uploaded,
        join: Callable[[], Awaitable[None]], bursts: Bursts, *, parallel: int,
    ) -> None:  # fmt: skip
        self.active: dict[Oid, int] = {}  # what is being uploaded now, and its size
        self.cleared = trio.Event()  # what a predecessor had begun and not ended is gone
        self.failures: dict[Oid, str] = {}  # what failed last time for a reason of its own
        self._pauses: dict[Oid, tuple[float, float]] = {}  # until when, and how long the next pause will be
        self._index = index
        self._tier = tier
        self._circuit = circuit
        self._local = local
        self._uploaded = uploaded
        self._join = join
        self._slots = trio.Semaphore(parallel)
        self._bursts = bursts

    async def run(self) -> None:
        """Uploads whatever is in the journal, and whatever comes into it, until it is cancelled."""
        await self._clear_abandoned()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            while True:
                transaction = self._index.last_transaction()
                started = await self._sweep(nursery)
                if not started:
                    if not self.active:
                        self._bursts.done()
                    await self._changed(transaction)

    async def _listen(self) -> None:
        """Ends all pauses when somebody asks for it."""
        asked = self._index.view(journal.retries_asked)
        while True:
            transaction = self._index.last_transaction()
            now = self._index.view(journal.retries_asked)
            if now != asked:
                asked = now
                self.retry_now()
            while self._index.last_transaction() == transaction:  # noqa: ASYNC110 - other processes write it
                await trio.sleep(POLL_SECONDS)

    def retry_now(self) -> None:
        """Ends all pauses."""
        self._pauses = {oid: (0.0, pause) for oid, (_, pause) in self._pauses.items()}
        self._circuit.retry_now()
        self._bursts.go_on()

    async def drain(self) -> None:
        """Uploads what is in the journal now; returns when it is empty."""
        self._bursts.go_on()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.run)
            while self._index.view(journal.backlog).objects:  # noqa: ASYNC110 - other processes write it too
                await trio.sleep(POLL_SECONDS / 10)
            nursery.cancel_scope.cancel()

    async def _sweep(self, nursery: trio.Nursery) -> int:
        """Starts an upload for all that wait and are not paused; how many."""
        started, after = 0, None
        while page := self._index.view(lambda tx, after=after: journal.page(tx, after, PAGE)):  # type: ignore[misc]
            after = page[-1].oid
            for pending in page:
                if pending.oid in self.active or self._is_paused(pending.oid):
                    continue
                await self._bursts.pass_by()
                await self._slots.acquire()
                self.active[pending.oid] = pending.size
                nursery.start_soon(self._one, pending)
                started += 1
        self._forget_settled()
        return started

    def _forget_settled(self) -> None:
        """What was put off and is not waiting any more: deleted, or uploaded by another process."""

        def settled(tx: Tx) -> list[Oid]:
            return [oid for oid in self._pauses if oid not in self.active and journal.get(tx, oid) is None]

        for oid in self._index.view(settled):
            del self._pauses[oid]
            self.failures.pop(oid, None)

    async def _changed(self, transaction: int) -> None:
        """Returns when the index has moved on, or a pause has ended."""
        while self._index.last_transaction() == transaction:
            # A sweep is linear in what is paused: with much of that it comes less often.
            await trio.sleep(
                min(POLL_SECONDS / 5 + len(self._pauses) / PAUSED_PER_SECOND, LONGEST_PAUSE_SECONDS)
            )
            if any(until <= trio.current_time() for until, _ in self._pauses.values()):
                return

    def _is_paused(self, oid: Oid) -> bool:
        return self._pauses.get(oid, (0.0, 0.0))[0] > trio.current_time()

    async def _one(self, pending: Pending) -> None:
        try:
            try:
                await self._circuit.call(self._join, math.inf)
                present, gone = self._index.view(
                    lambda tx: (journal.get(tx, pending.oid), withdrawn.is_withdrawn(tx, pending.oid))
                )
                if present is not None and gone:
                    raise Unavailable(
                        "another machine is deleting it from S3 just now: it is uploaded after that"
                    )
                if present is not None:
                    await self._circuit.call(lambda: self.upload(present), math.inf)
            finally:
                self._slots.release()  # what follows may wait for whoever has the object open
            if present is not None:
                await self._uploaded(present)
            self._pauses.pop(pending.oid, None)
            self.failures.pop(pending.oid, None)
        except Exception as failed:  # whatever it is, the other uploads go on
            if not isinstance(failed, LfsfsError | OSError):
                log.exception("upload of %s: unexpected failure", pending.oid)
            self._pause(pending.oid, failed)
        finally:
            del self.active[pending.oid]

    def _pause(self, oid: Oid, failed: Exception) -> None:
        _, pause = self._pauses.get(oid, (0.0, FIRST_PAUSE_SECONDS))
        self._pauses[oid] = (trio.current_time() + pause, min(pause * 2, LONGEST_PAUSE_SECONDS))
        if self.failures.get(oid) != str(failed):
            log.error("upload of %s failed, and is tried again: %s", oid, failed)
        self.failures[oid] = str(failed)

    async def upload(self, pending: Pending) -> None:
        """Note first: an object that can be seen can be verified. It stays in the journal."""
        oid = pending.oid
        blocks = self._index.view(lambda tx: catalog.digests(tx, oid))
        try:
            if pending.replace:
                await trio.to_thread.run_sync(digests.verify, self._local, oid, pending.size, blocks)
            if digests.needs_note(pending.size):
                await self._tier.put_note(digests.note_key(oid), digests.encode(oid, pending.size, blocks))
            await self._send(pending, blocks)
        except (LocalDamage, FileNotFoundError) as damaged:
            await self._look_there(pending, damaged)

    async def _send(self, pending: Pending, blocks: bytes) -> None:
        """Looks at the bytes while they are sent: they become an object only where they are the right ones."""
        oid = pending.oid
        looked = trio.Event()
        damage: list[Exception] = []

        async def look() -> None:
            try:
                await trio.to_thread.run_sync(digests.verify, self._local, oid, pending.size, blocks)
            except (LocalDamage, OSError) as found:
                damage.append(found)
            looked.set()

        async def check() -> None:
            await looked.wait()
            if damage:
                raise damage[0]

        failure: LfsfsError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            try:
                with self._local.source(oid, over=pending.replace) as source:
                    await self._tier.put_source(oid, source, check)
            except LfsfsError as failed:  # taken out of the nursery, which would wrap it in a group
                failure = failed
                nursery.cancel_scope.cancel()
        if (
            failure is not None and not self._local.path(oid).exists()
        ):  # the tier may have found that out before we had begun to look
            damage.append(FileNotFoundError(self._local.path(oid)))
        for found in (*damage, failure):
            if found is not None:
                raise found

    async def _look_there(self, pending: Pending, damaged: Exception) -> None:
        """The local copy is damaged or gone. As good as uploaded if the remote tier has it, which heals what is here."""
        oid = pending.oid
        try:
            found = None if pending.replace else await self._tier.size(oid)
        except NotFound:
            found = None
        if found != pending.size:
            await self._index.update(lambda tx: deletion.mark(tx, oid, "corrupt"))
            what = (
                damaged if isinstance(damaged, LocalDamage) else f"object {oid} is gone from the local disk"
            )
            raise LocalDamage(
                f"{what}, and it is nowhere else: write the same file again, or `lfsfs rm` it"
            ) from damaged
        log.warning("object %s: the local copy is damaged or gone, S3 has it", oid)

    async def _clear_abandoned(self) -> None:
        """What a killed predecessor had begun to upload in parts is begun anew: its parts go."""
        direct = self._index.view(journal.direct)
        waiting: set[Oid] = set(direct)
        after = None
        while page := self._index.view(lambda tx, after=after: journal.page(tx, after, PAGE)):  # type: ignore[misc]
            after = page[-1].oid
            waiting.update(pending.oid for pending in page if pending.size > LEAST_IN_PARTS)
        try:
            if waiting:
                await self._circuit.call(lambda: self._tier.abort_uploads(0.0, waiting), math.inf)
            for oid in direct:
                self._index.defer(lambda tx, oid=oid: journal.end_direct(tx, oid))  # type: ignore[misc]
        except LfsfsError as refused:
            log.warning("abandoned uploads were not looked for: %s", refused)
        finally:
            self.cleared.set()
