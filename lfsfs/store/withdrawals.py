"""Withdrawals: how a machine deletes objects from the remote tier that others may be about to use.

1. The machine announces in a note which objects it withdraws, and waits.
2. Every other machine reads the note, decides which of them it needs, and has the others be absent, in one
   transaction: from then on a lookup does not find them, and what is committed of them anew waits to be uploaded. It
   answers in a note of its own which ones it needs.
3. When all machines that the remote tier knows have answered, the first one deletes what nobody needs, and takes its
   note away. Who had agreed sees that, and everything is as ever.

No clock decides anything, and no machine has to be quick. One that does not answer holds up the deletion, and nothing
else; one that is gone for good is to be forgotten. A machine that is new says that it is there before it reads the
notes, and reads them before it looks for any object. Why this is safe is said in docs/SEMANTICS.md, section 13.
"""

import fcntl
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from lfsfs.errors import Corrupt, LfsfsError, NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.store import shards, unrecorded, withdrawn
from lfsfs.store.circuit import Circuit
from lfsfs.store.index import Index
from lfsfs.store.records import Machine, Records
from lfsfs.tiers.remote import RemoteTier

log = logging.getLogger("lfsfs.remote")
LOOK_SECONDS = 60.0  # between two looks for what others withdraw
POLL_SECONDS = 0.1
PAGE = 1_000
MOST = 100_000  # objects in one withdrawal
LOCK = "withdrawals.lock"
"""Below STORE: held by the one process that answers."""
T = TypeVar("T")
_NOTES = "withdrawals/"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What a machine withdraws; `number` tells it from its others."""

    number: int
    oids: tuple[Oid, ...]


class Withdrawals:
    """The withdrawals of one machine, and its answers to the others'. Used from one trio thread."""

    drop: Callable[[str, Sequence[Oid]], Awaitable[list[Oid]]]
    """Has this machine treat as absent what it does not need of what another one withdraws; what it needs."""

    def __init__(
        self, machine: str, store: Path, index: Index, circuit: Circuit,
        tier: Callable[[], Awaitable[RemoteTier]], records: Records, deadline: float,
    ) -> None:  # fmt: skip
        self._machine = machine
        self._store = store
        self._index = index
        self._circuit = circuit
        self._tier = tier
        self._records = records
        self._deadline = deadline
        self._answered: dict[str, int] = {}

    # Others' withdrawals.

    async def run(self) -> None:
        """Answers, until it is cancelled."""
        while True:
            try:
                await self.join()
                await self.follow()
            except LfsfsError as failed:
                log.log(
                    logging.DEBUG if self._circuit.is_open else logging.WARNING,
                    "what other machines withdraw was not looked for: %s", failed,
                )  # fmt: skip
            await trio.sleep(LOOK_SECONDS)

    async def join(self) -> None:
        """Before the first look for an object: this machine is known, and knows what is withdrawn."""
        if self._index.view(unrecorded.has_joined):
            return
        if not await self._records.exist():
            await self._records.introduce()
            await self._index.update(unrecorded.mark_reconciled)  # there is nothing to be brought back
        await self.follow()
        await self._index.update(unrecorded.mark_joined)

    async def follow(self, *, decides: bool = True) -> None:
        """Looks what others withdraw, and answers what is new. One process of this machine at a time does so.

        Where there is a daemon, no other process `decides`: it alone has references that are not in the index yet, and
        they are there before its next transaction.
        """
        with (self._store / LOCK).open("ab") as lock:
            await trio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_EX)
            await self._follow(decides)

    async def _follow(self, decides: bool) -> None:
        tier = await self._tier()
        page = await self._call(lambda: tier.notes(_NOTES, None, PAGE))
        machines = {key.removeprefix(_NOTES) for key in page} - {self._machine}
        agreed = self._index.view(withdrawn.agreed)
        for machine in agreed.keys() - machines:
            await self._index.update(lambda tx, machine=machine: withdrawn.forget(tx, machine))  # type: ignore[misc]
        for machine in sorted(machines):
            try:
                announced = await self._announced(machine)
            except Corrupt:
                log.error("what machine %s withdraws is damaged: it has to announce it anew", machine)
                continue
            if decides and announced is not None and agreed.get(machine) != announced.number:
                await self._decide(machine, announced)
            if announced is not None:
                await self._answer(machine, announced)

    async def _decide(self, machine: str, announced: Withdrawal) -> None:
        """What is decided is never changed: the other machine may have read it, and act on it."""
        said = await self._read(_answer_key(self._machine, machine))
        if said is not None and said.number == announced.number:  # our index was lost since
            given: frozenset[Oid] | None = frozenset(said.oids)
        elif not self._index.view(unrecorded.is_reconciled):
            return  # it is not known here yet what is needed
        else:
            given = None
        await self._index.update(lambda tx: withdrawn.forget(tx, machine))
        for first in range(0, len(announced.oids), PAGE):
            page = announced.oids[first : first + PAGE]
            await self.drop(machine, page if given is None else [oid for oid in page if oid not in given])
        await self._index.update(lambda tx: withdrawn.agree(tx, machine, announced.number))

    async def _answer(self, machine: str, announced: Withdrawal) -> None:
        """Says what was decided; once in each process, as the last one may have been killed before it came to that."""
        decided = self._index.view(withdrawn.agreed).get(machine)
        if decided != announced.number or self._answered.get(machine) == announced.number:
            return
        absent = self._index.view(lambda tx: withdrawn.of(tx, machine))
        tier = await self._tier()
        answer = shards.withdrawal(announced.number, [oid for oid in announced.oids if oid not in absent])
        await self._call(lambda: tier.put_note(_answer_key(self._machine, machine), answer))
        self._answered[machine] = announced.number

    async def over(self, oid: Oid) -> None:
        """Returns when the object may be put into the remote tier. Unavailable after the deadline."""
        await self.join()
        with trio.move_on_after(self._deadline):
            while self._index.view(lambda tx: withdrawn.is_withdrawn(tx, oid)):
                await self.follow(decides=False)
                await trio.sleep(POLL_SECONDS)
            return
        raise Unavailable(f"another machine is deleting {oid} from S3 just now")

    # Our own.

    async def announce(self, oids: Sequence[Oid]) -> Withdrawal | None:
        """The withdrawal that is under way, which a killed process may have begun; else a new one. None: of nothing."""
        try:
            present = await self._announced(self._machine)
        except Corrupt:
            present = None
        if present is not None or not oids:
            return present
        made = Withdrawal(time.time_ns(), tuple(sorted(oids)[:MOST]))
        tier = await self._tier()
        note = shards.withdrawal(made.number, made.oids)
        await self._call(lambda: tier.put_note(_NOTES + self._machine, note))
        return made

    async def answers(self, own: Withdrawal) -> tuple[set[Oid], list[Machine]]:
        """What the other machines need of it, and those that have not answered yet."""
        needed: set[Oid] = set()
        silent = []
        for machine in await self._records.others():
            answer = await self._read(_answer_key(machine.id, self._machine))
            if answer is None or answer.number != own.number:
                silent.append(machine)
            else:
                needed.update(answer.oids)
        return needed, silent

    async def end(self) -> None:
        """What was withdrawn is deleted: others may put it there again."""
        tier = await self._tier()
        await self._call(lambda: tier.delete_note(_NOTES + self._machine))

    async def forget_machine(self, machine: str) -> int:
        """Removes all that a machine has recorded, which will not come back; how many notes. NotFound."""
        if all(one.id != machine for one in await self._records.others()):
            raise NotFound(f"no other machine {machine} is known: `lfsfs gc` names them")
        tier = await self._tier()
        removed, after = 0, None
        while page := await self._call(lambda after=after: tier.notes(f"records/{machine}/", after, PAGE)):  # type: ignore[misc]
            after = page[-1]
            for key in page:
                await self._call(lambda key=key: tier.delete_note(key))  # type: ignore[misc]
                removed += 1
        for key in (f"{_NOTES}{machine}", f"machines/{machine}.json"):
            await self._call(lambda key=key: tier.delete_note(key))  # type: ignore[misc]
        return removed

    async def _announced(self, machine: str) -> Withdrawal | None:
        return await self._read(_NOTES + machine)

    async def _read(self, key: str) -> Withdrawal | None:
        tier = await self._tier()
        try:
            note = await self._call(lambda: tier.note(key))
        except NotFound:
            return None
        number, oids = shards.read_withdrawal(note)
        return Withdrawal(number, tuple(oids))

    async def _call(self, request: Callable[[], Awaitable[T]]) -> T:
        return await self._circuit.call(request, self._deadline)


def _answer_key(machine: str, asking: str) -> str:
    return f"records/{machine}/withdrawals/{asking}"
