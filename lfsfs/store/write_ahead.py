"""Small objects that are not known to be on disk yet: their bytes lie in the index, in the transaction of the commit.

A small file costs three waits for the disk: its bytes, its name, its directory's. Here many cost one: the file is
written and named at once, as always, but its bytes are made durable by the transaction that makes it an object; what
the file system has not written when the power goes is written again at the next start. A little later everything is
on disk, and the copy goes.

The file is there from the first moment, so nothing ever reads the copy but that start, and the loss of the index
loses nothing that is on disk. Layout of keys and values: docs/FORMAT.md.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import trio

from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, journal, residents
from lfsfs.store.bursts import Bursts
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Index, Tx
from lfsfs.store.staged_file import Sealed
from lfsfs.store.staging import Staging
from lfsfs.tiers.local import LocalTier

log = logging.getLogger("lfsfs.store")
TABLE = "write_ahead"
LIMIT_BYTES = 32 << 20  # a commit that finds more of it here waits for the disk itself
PAUSE_SECONDS = 1.0
LAST_SECONDS = 5.0  # of a daemon that ends
PAGE = 4096
_BYTES = b"write_ahead_bytes"
_NUMBER = b"write_ahead_number"
_BOOT_BYTES = 36  # a UUID in text
_HEAD_BYTES = _BOOT_BYTES + 8  # and a number that grows with each entry
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def _boot() -> bytes:
    """Tells this run of the machine from every other: what was written in this one, its page cache has."""
    try:
        return _BOOT_ID.read_bytes().strip()[:_BOOT_BYTES].ljust(_BOOT_BYTES)
    except OSError:
        return b"?" * _BOOT_BYTES


def drop(tx: Tx, oid: Oid) -> None:
    """The file is on disk, or is to go. Absent is success."""
    value = tx.get(TABLE, oid.to_bytes())
    if value is not None:
        tx.delete(TABLE, oid.to_bytes())
        catalog.add(tx, _BYTES, _HEAD_BYTES - len(value))


def content_size(value: bytes) -> int:
    """How many bytes an entry keeps of its object, in the form that they have on the local disk."""
    return len(value) - _HEAD_BYTES


def is_empty(tx: Tx) -> bool:
    return tx.seek(TABLE, b"") is None


class WriteAhead:
    """The small objects of one store. `is_open`: whether commits may leave their bytes here.

    `tier` puts their files where they belong, and waits for no disk.
    """

    def __init__(self, index: Index, tier: LocalTier, staging: Staging, *, bounded: bool) -> None:
        self.is_open = False
        self.tier = tier.quick(staging.directory)
        self._boot = _boot()
        self._index = index
        self._tier = tier
        self._staging = staging
        self._bounded = bounded  # whether a file may be evicted from the local disk

    def takes(self, tx: Tx, sealed: Sealed) -> bool:
        """Whether a commit of this may leave its bytes here."""
        if not self.is_open or sealed.content is None:
            return False
        return not self._index.durable or catalog.counter(tx, _BYTES) < LIMIT_BYTES

    def put(self, tx: Tx, sealed: Sealed) -> None:
        """Keeps the bytes, where they are to be made durable. Repeating is harmless."""
        assert sealed.content is not None
        if not self._index.durable:
            return
        drop(tx, sealed.oid)
        number = catalog.u64(catalog.add(tx, _NUMBER, 1))
        content = self._tier.encoded(sealed.oid, sealed.content)
        tx.put(TABLE, sealed.oid.to_bytes(), self._boot + number + content)
        catalog.add(tx, _BYTES, len(content))

    async def run(self, bursts: Bursts) -> None:
        """Brings to disk what is here, for ever; one process of a store does so. Lets `bursts` pass while there is room:
        the disk has one queue, and each commit waits in it.

        At the end nothing is left, unless the file system has so much else to write that it takes too long: then the
        next one who runs this does it.
        """
        self.is_open = True
        try:
            while True:
                transaction = self._index.last_transaction()
                if self._index.view(is_empty):
                    await self._index.changes.after(transaction)
                await trio.sleep(PAUSE_SECONDS)
                if self._index.view(lambda tx: catalog.counter(tx, _BYTES)) < LIMIT_BYTES // 2:
                    await bursts.pass_by()
                if not self._index.view(is_empty):
                    await self._settle_or_say_so()
        finally:
            self.is_open = False
            with trio.move_on_after(LAST_SECONDS, shield=True):
                await self._settle_or_say_so()

    async def _settle_or_say_so(self) -> None:
        try:
            await self.settle()
        except (LfsfsError, OSError) as failed:
            log.error("small objects are not on disk yet, and are kept in the index: %s", failed)

    async def settle(self) -> None:
        """Returns when what was here before is on disk, and here no more."""
        last = self._index.view(lambda tx: catalog.counter(tx, _NUMBER))
        await trio.to_thread.run_sync(self._tier.sync, abandon_on_cancel=True)
        after = None
        while oids := self._index.view(lambda tx, after=after: _page(tx, after)):  # type: ignore[misc]
            after = oids[-1]
            await self._index.update(lambda tx, oids=oids: _drop_up_to(tx, oids, last))  # type: ignore[misc]

    async def replay(self) -> int:
        """After the power went: writes what is not on disk; how many objects that were.

        Nothing to do where the machine has run on since they were written.
        """
        lost, after = 0, None
        while oids := self._index.view(lambda tx, after=after: _page(tx, after)):  # type: ignore[misc]
            after = oids[-1]
            for oid in oids:
                found = self._index.view(self._stranded(oid))
                if found is not None:
                    lost += await trio.to_thread.run_sync(self._restore, *found)
        if lost:
            log.warning("%d small objects had not reached the disk, and were written again", lost)
        return lost

    def _stranded(self, oid: Oid) -> Callable[[Tx], tuple[ObjectStat, bytes] | None]:
        """Finds row and bytes of an object whose file should be here, if another run of the machine wrote it."""

        def look(tx: Tx) -> tuple[ObjectStat, bytes] | None:
            value, row = tx.get(TABLE, oid.to_bytes()), catalog.get(tx, oid)
            if value is None or row is None or row.state == "deleting" or value[:_BOOT_BYTES] == self._boot:
                return None
            stays = not self._bounded or journal.get(tx, oid) or residents.get(tx, oid)
            return (row, value[_HEAD_BYTES:]) if stays else None

        return look

    def _restore(self, row: ObjectStat, kept: bytes) -> bool:
        """Whether the file had to be written. Blocks."""
        try:
            content = self._tier.decoded(row.oid, kept)
        except Corrupt as damaged:
            log.error("%s", damaged)
            return False
        if Oid.of(content) != row.oid:
            log.error("object %s: what the index kept of it is damaged: not written", row.oid)
            return False
        try:
            with self._tier.open(row.oid) as file:
                if file.size == len(content) and file.read_at(0, file.size) == content:
                    return False
        except (NotFound, Corrupt):
            pass
        self._tier.path(row.oid).unlink(missing_ok=True)
        self._tier.place_bytes(row.oid, content, row.mode, self._staging.new_path())
        return True


def _drop_up_to(tx: Tx, oids: list[Oid], last: int) -> None:
    """Drops them, but for what was written after the entry of that number."""
    for oid in oids:
        value = tx.get(TABLE, oid.to_bytes())
        if value is not None and int.from_bytes(value[_BOOT_BYTES:_HEAD_BYTES], "big") <= last:
            drop(tx, oid)


def _page(tx: Tx, after: Oid | None) -> list[Oid]:
    start = b"" if after is None else after.to_bytes() + b"\0"
    found: list[Oid] = []
    for key, _ in tx.scan(TABLE, start=start):
        found.append(Oid.from_bytes(key))
        if len(found) == PAGE:
            break
    return found
