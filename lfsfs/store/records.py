"""Records: what this machine refers to, written beside the objects, so that no other machine takes them away.

They also bring a machine back whose disk was lost: its repository roots, references and names. Each machine writes its
own records only. A shard is written again a few seconds after it changed.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from lfsfs.crew import crew
from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, journal, names, packs, references, rendered, residents, shards, unrecorded
from lfsfs.store.circuit import Circuit
from lfsfs.store.index import Index, Tx
from lfsfs.store.layout import check_any_name
from lfsfs.tiers.remote import NOTE_BYTES, RemoteTier

log = logging.getLogger("lfsfs.remote")
INTERVAL_SECONDS = 5.0  # between two looks for what has changed
SHARE = 10  # writing records takes at most one part in so many of the time
HEARTBEAT_SECONDS = 600.0  # how often a machine says that it lives
PARALLEL = 8
PAGE = 1_000
FORMAT = 1
MACHINE_BYTES = 16 << 20  # what a machine says of itself is no longer
RECOVERED = "recovered-{}"
"""The repository root that a reference comes back to where it is not known any more which one had it: by its old id."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that uses the remote tier. `seen`: nanoseconds since 1970. `repositories`: names by id.

    `packs`: of its own vectors, where objects are made of them.
    """

    id: str
    host: str
    store: str
    seen: int
    repositories: dict[int, str]
    packs: tuple[Oid, ...] = ()


class Records:
    """The records of one machine, and its view of the others'. Used from one trio thread."""

    def __init__(
        self, machine: str, store: Path, index: Index, circuit: Circuit,
        tier: Callable[[], Awaitable[RemoteTier]], deadline: float,
    ) -> None:  # fmt: skip
        self._machine = machine
        self._store = store
        self._index = index
        self._circuit = circuit
        self._tier = tier
        self._deadline = deadline
        self._said = 0.0
        self.failure = ""
        """Why the last attempt to record, or to read what was recorded, failed; empty where it did not."""
        self.notice = ""
        """What was found damaged of the records, and written anew."""

    # Our own.

    async def run(self) -> None:
        """Keeps the records as the index is, until it is cancelled."""
        while True:
            begun = trio.current_time()
            pause = INTERVAL_SECONDS
            try:
                await self.publish()
                self.failure = ""
                pause = max(pause, SHARE * (trio.current_time() - begun))
            except LfsfsError as failed:
                self.failure = f"what this machine refers to was not recorded: {failed}"
                log.log(
                    logging.DEBUG if self._circuit.is_open else logging.WARNING,
                    "what this machine refers to was not recorded, and is tried again: %s", failed,
                )  # fmt: skip
            await self._pause(pause)  # what failed has waited long enough for its answers

    async def _pause(self, seconds: float) -> None:
        """So long, or until somebody asks for a retry."""
        transaction = self._index.last_transaction()
        asked = self._index.view(journal.retries_asked)
        with trio.move_on_after(seconds):
            while self._index.view(journal.retries_asked) == asked:
                transaction = await self._index.changes.after(transaction)

    async def introduce(self) -> None:
        """Says that this machine is there."""
        await self._write(f"machines/{self._machine}.json", self._described())

    def is_published(self) -> bool:
        return not self._index.view(unrecorded.shards)

    async def publish(self) -> None:
        """Writes what has changed, and from time to time that this machine lives. Unavailable, Denied…"""
        await self._come_back()
        changed = self._index.view(unrecorded.shards)
        if trio.current_time() - self._said > HEARTBEAT_SECONDS or not self._said:
            await self.introduce()
            self._said = trio.current_time()
        failures: list[LfsfsError] = []
        limiter = trio.CapacityLimiter(PARALLEL)

        async def one(shard: bytes, when: bytes) -> None:
            async with limiter:
                try:
                    await self._publish(shard, when)
                except LfsfsError as failed:
                    failures.append(failed)

        async with trio.open_nursery() as nursery:
            for shard, when in changed:
                nursery.start_soon(one, shard, when)
        if failures:
            raise failures[0]

    async def _come_back(self) -> None:
        """A machine that was forgotten (`lfsfs vacuum --forget-machine`) records everything anew."""
        if self._said or not self._index.view(unrecorded.has_joined) or await self.exist():
            return
        await self._index.update(
            lambda tx: unrecorded.mark_everything(tx, catalog.counter(tx, b"last_inode"))
        )

    async def _publish(self, shard: bytes, when: bytes) -> None:
        kind, number = unrecorded.kind(shard)
        if kind == "references":
            content = self._index.view(lambda tx: shards.references(tx, number))
            await self._write(_reference_key(self._machine, number), content)
        elif kind == "names":
            content = self._index.view(lambda tx: shards.inodes(tx, number))
            await self._write(f"{_names_prefix(self._machine)}{number:08x}", content)
        else:
            await self._write(f"machines/{self._machine}.json", self._described())
        await self._index.update(lambda tx: unrecorded.settle(tx, shard, when))

    def _described(self) -> bytes:
        roots, own = self._index.view(lambda tx: (references.repositories(tx), _own_packs(tx)))
        return json.dumps(
            {
                "format": FORMAT,
                "id": self._machine,
                "host": socket.gethostname(),
                "store": os.fspath(self._store),
                "seen": time.time_ns(),
                "repositories": {str(root.id): root.name for root in roots},
                "packs": own,
            },
            indent=1,
        ).encode()

    async def _write(self, key: str, content: bytes) -> None:
        tier = await self._tier()
        await self._circuit.call(lambda: tier.put_note(key, content), self._deadline)

    # Everybody's.

    async def machines(self) -> list[Machine]:
        """All machines that have written records."""
        tier = await self._tier()
        return await self._circuit.call(lambda: machines(tier), self._deadline)

    async def others(self) -> list[Machine]:
        """All but this one."""
        return [machine for machine in await self.machines() if machine.id != self._machine]

    async def referred_to(self, machine: Machine, first: int) -> frozenset[Oid]:
        """What a machine refers to, of the objects whose oids begin with this byte."""
        try:
            shard = await self._read(_reference_key(machine.id, first))
        except NotFound:
            return frozenset()
        return frozenset(oid for oid, _ in shards.read_references(shard))

    async def referring(self, oid: Oid) -> list[Machine]:
        """The other machines that refer to the object, as far as they have recorded it. Corrupt where a record is."""
        found = []
        for machine in await self.machines():
            if machine.id == self._machine:
                continue
            try:
                shard = await self._read(_reference_key(machine.id, oid.to_bytes()[0]))
            except NotFound:
                continue  # it has referred to nothing of the kind yet
            if any(present == oid for present, _ in shards.read_references(shard)):
                found.append(machine)
        return found

    async def _read(self, key: str, limit: int = NOTE_BYTES) -> bytes:
        tier = await self._tier()
        return await self._circuit.call(lambda: tier.note(key, limit), self._deadline)

    # A machine that comes back.

    async def exist(self) -> bool:
        """Whether this machine has recorded anything."""
        try:
            await self._read(f"machines/{self._machine}.json")
        except NotFound:
            return False
        except Corrupt:
            return True
        return True

    async def restore(self) -> None:
        """Brings back the repository roots, references and names that this machine had recorded.

        A record that is damaged holds up none of the others: it is written anew, from what came back otherwise.
        """
        damaged: list[str] = []
        machine = await self._own(damaged)
        await self._index.update(lambda tx: _restore_roots(tx, machine))
        await self._restore_references(machine, damaged)
        await self._restore_names(damaged)
        if damaged:
            self.notice = f"records of this machine were damaged, and are written anew: {', '.join(damaged)}"
            log.error("%s", self.notice)

    async def _restore_references(self, machine: Machine | None, damaged: list[str]) -> None:
        """Several shards at once: there may be 256 of them."""
        async with crew(PARALLEL) as workers:
            for first in range(256):
                await workers.start(partial(self._restore_shard, machine, first, damaged))

    async def _restore_shard(self, machine: Machine | None, first: int, damaged: list[str]) -> None:
        key = _reference_key(self._machine, first)
        try:
            entries = shards.read_references(await self._read(key))
        except NotFound:
            return
        except Corrupt:
            damaged.append(key)
            await self._index.update(lambda tx: unrecorded.mark_oid(tx, bytes([first])))
            return
        await self._index.update(lambda tx: _restore_references(tx, machine, entries))

    async def _own(self, damaged: list[str]) -> Machine | None:
        """What this machine had said of itself; None where that is damaged."""
        key = f"machines/{self._machine}.json"
        try:
            return _machine(await self._read(key, MACHINE_BYTES))
        except Corrupt:
            damaged.append(key)
            await self._index.update(unrecorded.mark_machine)
            return None

    async def _restore_names(self, damaged: list[str]) -> None:
        tier = await self._tier()
        prefix, after = _names_prefix(self._machine), None
        while page := await self._circuit.call(
            lambda after=after: tier.notes(prefix, after, PAGE),  # type: ignore[misc]
            self._deadline,
        ):
            after = page[-1]
            for key in page:
                try:
                    found = list(shards.read_inodes(await self._read(key)))
                except Corrupt:
                    damaged.append(key)
                    await self._index.update(lambda tx, key=key: _mark_names(tx, key[len(prefix) :]))  # type: ignore[misc]
                    continue
                await self._index.update(lambda tx, found=found: _restore_inodes(tx, found))  # type: ignore[misc]


async def machines(tier: RemoteTier) -> list[Machine]:
    """All machines that have written records in this tier."""
    found: list[Machine] = []
    after: str | None = None
    while page := await tier.notes("machines/", after, PAGE):
        after = page[-1]
        found += [_machine(await tier.note(key, MACHINE_BYTES)) for key in page]
    return found


def _reference_key(machine: str, first: int) -> str:
    return f"records/{machine}/references/{first:02x}"


def _machine(note: bytes) -> Machine:
    """Corrupt unless it is one, whatever somebody has put there."""
    try:
        said = json.loads(note)
        repositories = {
            int(number): check_any_name(str(name)) for number, name in said["repositories"].items()
        }
        own = tuple(Oid(str(oid)) for oid in said.get("packs", ()))
        return Machine(
            str(said["id"]), str(said["host"]), str(said["store"]), int(said["seen"]), repositories, own
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as wrong:
        raise Corrupt("what a machine says of itself is damaged in the remote tier") from wrong


def _own_packs(tx: Tx) -> list[Oid]:
    """Where objects are made of vectors; else nobody need know."""
    if next(rendered.scan(tx), None) is None:
        return []
    return [pack.oid for pack in packs.every(tx, "live")]


def _restore_roots(tx: Tx, machine: Machine | None) -> None:
    for _, name in sorted(machine.repositories.items()) if machine is not None else ():
        references.add_repository(tx, name)


def _restore_references(tx: Tx, machine: Machine | None, entries: list[tuple[Oid, int]]) -> None:
    """Only to objects that are there: what was never uploaded is lost with its disk."""
    known = {} if machine is None else machine.repositories
    ids = {number: references.find_repository(tx, name) for number, name in known.items()}
    for oid, holder in entries:
        row = rendered.find(tx, oid)
        if row is None:
            continue
        if holder == shards.PIN_HOLDER:
            residents.pin(tx, [oid])
        elif holder == shards.PACK_HOLDER:
            if packs.find(tx, oid) is None:
                packs.add(tx, oid, row.size, "unread")
        elif holder == shards.FOREIGN_PACK_HOLDER:
            present = packs.find(tx, oid)
            if present is None or present.state == "unread":  # found on the disk, and taken for our own
                packs.add(tx, oid, row.size, "foreign-unread")
        elif holder != shards.NAME_HOLDER:
            if machine is None and holder not in ids:
                ids[holder] = references.add_repository(tx, RECOVERED.format(holder))
            root = ids.get(holder)
            if root is not None:
                references.add(tx, root.id, oid, bounded=False)  # what it had, it has


def _names_prefix(machine: str) -> str:
    return f"records/{machine}/names/"


def _mark_names(tx: Tx, number: str) -> None:
    """The shard of names is to be written anew, unless that is no number of one."""
    try:
        unrecorded.mark_inode(tx, int(number, 16) * unrecorded.INODES_PER_SHARD)
    except ValueError:
        log.warning("a record of names has the name %r, which is none of ours", number)


def _restore_inodes(tx: Tx, found: list[tuple[names.Inode, list[tuple[int, bytes]]]]) -> None:
    for inode, links in found:
        if inode.kind == "file" and inode.size and rendered.find(tx, inode.oid) is None:
            log.warning("incoming: inode %d was never uploaded: its names are lost", inode.number)
            continue
        names.restore(tx, inode, links)
