"""Screening: the scanner at the gate. Every commit passes here, between its seal and the first byte in a tier.

The law: what was found infected becomes no object while that verdict counts, whoever brings it. What has no verdict yet
is scanned first (`before`), or comes in and is scanned at once by the daemon (`after`; and where the scanner does not
answer and the configuration says so): then it has a row in `unscanned` until it has a verdict.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from lfsfs.config_policy import ScanOptions
from lfsfs.errors import Infected, Unavailable
from lfsfs.oid import Oid
from lfsfs.scan import Scanner, Subject
from lfsfs.store import verdicts
from lfsfs.store.index import Index, Tx
from lfsfs.store.verdicts import Verdict

log = logging.getLogger("lfsfs.scan")
BYTES_PER_SECOND = 10 << 20
"""A scanner gets a second more for so many bytes."""
Note = Callable[[Tx], None]
"""What the commit is to write into the index, in its own transaction."""


class Screening:
    """The scanner of one store."""

    def __init__(self, index: Index, options: ScanOptions, scanner: Scanner) -> None:
        self.options = options
        self.scanner = scanner
        self._index = index
        self._turns = trio.CapacityLimiter(options.parallel)

    async def admit(self, subject: Subject) -> Note:
        """Whether it may become an object; what to note with it. Infected; Unavailable where nobody says."""
        return await self.admit_fetched(subject.oid, subject.size, _AsItIs(subject))

    async def admit_fetched(self, oid: Oid, size: int, subject: AbstractAsyncContextManager[Subject]) -> Note:
        """The same of what is not on the disk yet: `subject` is entered, and brings it, where it must be."""
        known = self._known(oid)
        if known is not None:
            if known.state == "infected":
                raise _infected(oid, known.finding)
            return _nothing
        if size == 0 or (self.options.size is not None and size > self.options.size):
            return _nothing
        if self.options.when == "after":
            return lambda tx: verdicts.scan_later(tx, oid)
        try:
            async with subject as found:
                finding = await self.scan(found)
        except Unavailable as silent:
            if self.options.unreachable == "refuse":
                raise Unavailable(f"{oid} is not taken while it cannot be scanned: {silent}") from silent
            log.warning("object %s comes in, and is scanned later: %s", oid, silent)
            return lambda tx: verdicts.scan_later(tx, oid)
        if finding is not None:
            await self._index.update(lambda tx: verdicts.put(tx, oid, "infected", finding))
            log.warning("object %s is infected: %s: refused", oid, finding)
            raise _infected(oid, finding)
        return lambda tx: verdicts.put(tx, oid, "clean")

    def refused(self, oids: Sequence[Oid]) -> dict[Oid, Infected]:
        """Those of them that are known to be infected, and why."""
        found = self._index.view(lambda tx: [verdicts.get(tx, oid) for oid in oids])
        counting = [one for one in found if one is not None and one.counts(self.options.verdict_age)]
        return {one.oid: _infected(one.oid, one.finding) for one in counting if one.state == "infected"}

    async def scan(self, subject: Subject) -> str | None:
        """What the scanner finds in it; None: nothing. Unavailable, also where it takes too long."""
        seconds = self.options.timeout + subject.size / BYTES_PER_SECOND
        async with self._turns:
            with trio.move_on_after(seconds):
                return await self.scanner.scan(subject)
        raise Unavailable(f"{self.scanner.name} did not answer in {seconds:.0f} s")

    def _known(self, oid: Oid) -> Verdict | None:
        """What was said of it, if that counts still."""
        found = self._index.view(lambda tx: verdicts.get(tx, oid))
        return found if found is not None and found.counts(self.options.verdict_age) else None


class _AsItIs(AbstractAsyncContextManager[Subject]):
    """A subject that is there already."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    async def __aenter__(self) -> Subject:
        return self._subject

    async def __aexit__(self, *_: object) -> None:
        return


def _infected(oid: Oid, finding: str) -> Infected:
    return Infected(f"object {oid} is infected: {finding}")


def _nothing(tx: Tx) -> None:
    """There is nothing to note: the verdict is there, or nobody wants one."""
