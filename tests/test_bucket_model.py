"""Two machines over one bucket, and plain sets: whatever both do, and whatever befalls them, each has what it refers to.

Steps are commits, lookups, unlinks, gc, undelete, vacuum and uploads on either machine, at once too; caches that are
too small; a bucket that is away, fails, or loses its answers; copies that rot; a machine that is killed, or loses its
index or its disk. The bucket is one of this process (tests/tiers/memory_remote.py): a step takes milliseconds, so there
are thousands in the test command, and `scripts/torture model [MINUTES]` goes on for hours.
"""

import itertools
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from recording import Reliability
from store_thread import StoreThread
from tiers.memory_remote import MemoryRemote, Place

from lfsfs import Oid, Store, open_store
from lfsfs.config import CacheOptions, S3Options, S3Url
from lfsfs.errors import NotFound, Unavailable
from lfsfs.store import circuit, fetches, journal
from lfsfs.store.gc import OtherMachines, collect
from lfsfs.store.roots import RootUnreadable
from lfsfs.store.vacuum import vacuum
from lfsfs.tiers.remote import RemoteTier

pytestmark = pytest.mark.slow

T = TypeVar("T")
KIB = 1 << 10
CACHE = CacheOptions(size=100 * KIB, pending_size=64 << 20, deadline=0.05)
AWAY_SECONDS = 0.1
EXAMPLES, STEPS = 30, 100
KILLS = 4  # an example: each takes longer than all its other steps
MINUTES = 60
OPEN_SECONDS = 120
MACHINE = st.sampled_from(["a", "b"])
CONTENT = st.integers(0, 7)
CONTENTS = [
    random.Random(number).randbytes(size)
    for number, size in enumerate((1, 700, 5 * KIB, 20 * KIB, 30 * KIB, 40 * KIB, 70 * KIB, 90 * KIB))
]
OIDS = [Oid.of(content) for content in CONTENTS]
steps = 0
collected = Counter[str]()


def folder() -> Path:
    """In memory where there is such a place: nothing here is about what a disk keeps."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="lfsfs-model-", dir=memory if os.access(memory, os.W_OK) else None))


class Machine(StoreThread):
    """One of the machines on the bucket."""

    def __init__(self, path: Path, place: Place) -> None:
        self.path = path
        self._place = place
        self.references: set[Oid] = set()
        super().__init__(self._opened)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Store]:
        remote = (S3Options(S3Url("bucket")), CACHE)
        async with open_store(self.path, create=True, durability="fast", remote=remote) as store:
            assert store.remote is not None
            store.remote._open_tier = self._connect
            await store.add_repository("r")
            yield store

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[RemoteTier]:
        yield MemoryRemote(self._place)

    def kill(self, copy: Path) -> None:
        """Goes on with what is on the disk in the midst of everything, as after kill -9; nothing is closed before."""
        self.run(self.store.index.update, lambda _: self._copy(copy))
        self.close()
        shutil.rmtree(self.path)
        self.path = copy
        self.open()

    def _copy(self, target: Path) -> None:
        """While nobody commits."""
        shutil.copytree(self.path, target, ignore_dangling_symlinks=True)

    @property
    def repository(self) -> int:
        return self.store.repository("r").id

    @property
    def waiting(self) -> set[str]:
        """What is not in the bucket yet."""
        return {pending.oid for pending in self.store.index.view(lambda tx: journal.page(tx, None, 100))}


class BucketModel(RuleBasedStateMachine):
    """The dictionary is which machine refers to what. What a machine refers to it reads, or is told to wait for."""

    @initialize()
    def begin(self) -> None:
        self.folder = folder()
        self.place = Place()
        self.machines = {name: Machine(self.folder / name, self.place) for name in ("a", "b")}
        self.faulty = False  # something may be Unavailable
        self.kills = 0
        self.copies = itertools.count()
        for machine in self.machines.values():
            self._upload(machine)

    def teardown(self) -> None:
        if hasattr(self, "machines"):
            for machine in self.machines.values():
                machine.close()
            shutil.rmtree(self.folder)

    def tried(self, machine: Machine, call: Callable[..., Awaitable[T]], *arguments: Any) -> T | None:
        """What the call returns; None where the bucket was in its way, as it may be. Where it is not, on a busy machine,
        it may be called again.
        """
        end = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                return machine.run(call, *arguments)
            except Unavailable:
                if self.faulty:
                    return None
                assert time.monotonic() < end, "nothing is in its way"
            except RootUnreadable:
                return None  # a run of gc may always say so, and deletes nothing

    # What people do.

    @rule(name=MACHINE, number=CONTENT)
    def put(self, name: str, number: int) -> None:
        self._put(self.machines[name], number)

    def _put(self, machine: Machine, number: int) -> None:
        if self.tried(machine, lambda: machine.store.put(CONTENTS[number], repository="r")) is not None:
            machine.references.add(OIDS[number])

    @rule(name=MACHINE, choice=CONTENT)
    def put_what_nobody_refers_to(self, name: str, choice: int) -> None:
        referred = set().union(*(machine.references for machine in self.machines.values()))
        free = [content for oid, content in zip(OIDS, CONTENTS, strict=True) if oid not in referred]
        if free:
            machine = self.machines[name]
            machine.run(lambda: machine.store.put(free[choice % len(free)]))

    @rule(name=MACHINE, number=CONTENT)
    def look_up(self, name: str, number: int) -> None:
        """As the mount does it for git-lfs: what is said to be there is referred to."""
        machine, oid = self.machines[name], OIDS[number]

        async def look() -> bool:
            row = await machine.store.find_row(oid)
            if row is None or row.state != "whole":
                return False
            machine.store.references.add_soon(machine.repository, oid)
            await machine.store.index.flush()
            return machine.store.references.has(machine.repository, oid)

        if found := self.tried(machine, look):
            machine.references.add(oid)
        assert found is not False or oid not in machine.references

    @rule(name=MACHINE, choice=CONTENT)
    def unlink(self, name: str, choice: int) -> None:
        machine = self.machines[name]
        if machine.references:
            oid = sorted(machine.references)[choice % len(machine.references)]
            machine.store.references.drop_soon(machine.repository, oid)
            machine.run(machine.store.index.flush)
            machine.references.discard(oid)

    @rule(name=MACHINE, number=CONTENT)
    def read(self, name: str, number: int) -> None:
        self._read(self.machines[name], number)

    def _read(self, machine: Machine, number: int) -> None:
        oid = OIDS[number]

        async def content() -> bytes:
            return b"".join([piece async for piece in machine.store.download(oid)])

        try:
            assert self.tried(machine, content) in (None, CONTENTS[number]), "not the object's bytes"
        except NotFound:
            assert oid not in machine.references, "what is referred to is lost"

    @rule(name=MACHINE)
    def upload(self, name: str) -> None:
        self._upload(self.machines[name])

    def _upload(self, machine: Machine) -> None:
        assert machine.store.remote is not None
        with_deadline = machine.store.remote.drain
        self.tried(machine, self._within(with_deadline))

    def _within(self, call: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """An upload waits for the bucket for ever, and for the end of a withdrawal: here only where there is neither."""

        async def bounded() -> None:
            withdrawn = any(key.startswith("withdrawals/") for key in self.place.notes)
            with trio.move_on_after(AWAY_SECONDS if self.faulty or withdrawn else OPEN_SECONDS) as limit:
                await call()
            if limit.cancelled_caught and not withdrawn:
                raise Unavailable("it did not end")

        return bounded

    # Deletion.

    @rule(name=MACHINE)
    def gc(self, name: str) -> None:
        self._gc(self.machines[name])

    def _gc(self, machine: Machine) -> None:
        store = machine.store
        assert store.remote is not None
        roots = [OtherMachines(store.remote.records)]
        done = self.tried(machine, lambda: collect(store, roots, grace=0, act=True))
        collected["runs"] += done is not None
        collected["objects"] += 0 if done is None else done.deleted.objects

    @rule(name=MACHINE)
    def empty_the_trash(self, name: str) -> None:
        """On one machine, to the end: the other one is there to answer."""
        machine = self.machines[name]
        for _ in range(3):
            done = self.tried(machine, lambda: vacuum(machine.store, [], keep=0))
            if done is None or not done.waiting:
                break
            for other in self.machines.values():
                assert other.store.remote is not None
                self.tried(other, other.store.remote.withdrawals.follow)

    @rule(name=MACHINE)
    def begin_to_empty_the_trash(self, name: str) -> None:
        machine = self.machines[name]
        self.tried(machine, lambda: vacuum(machine.store, [], keep=0))

    @rule(name=MACHINE)
    def answer(self, name: str) -> None:
        machine = self.machines[name]
        assert machine.store.remote is not None
        self.tried(machine, machine.store.remote.withdrawals.follow)

    @rule(name=MACHINE, choice=st.integers(0, 7))
    def undelete(self, name: str, choice: int) -> None:
        machine = self.machines[name]
        found = [row.oid for row in machine.store.trash.since(0)]
        if found:
            self.tried(machine, machine.store.trash.restore, found[choice % len(found)])

    # At once.

    @rule(number=CONTENT, other=CONTENT, name=MACHINE)
    def both_at_once(self, number: int, other: int, name: str) -> None:
        """Both commit and read while one collects and the other one uploads."""
        one, two = self.machines[name], self.machines["b" if name == "a" else "a"]
        works: list[Callable[[], None]] = [
            lambda: self._put(one, number),
            lambda: self._gc(one),
            lambda: self._put(two, other),
            lambda: self._upload(two),
        ]
        with ThreadPoolExecutor(len(works)) as threads:
            for future in [threads.submit(work) for work in works]:
                future.result()

    # What befalls them.

    @precondition(lambda self: not self.faulty)
    @rule(failing=st.integers(0, 6))
    def the_bucket_fails(self, failing: int) -> None:
        """So many requests; or it is away."""
        self.place.up, self.place.failing = failing > 0, failing
        self.faulty = True

    @precondition(lambda self: self.faulty)
    @rule()
    def all_is_well_again(self) -> None:
        self.place.up, self.place.failing = True, 0
        for machine in self.machines.values():
            assert machine.store.remote is not None
            machine.run(machine.store.remote.circuit.call, machine.store.remote._probe, float(OPEN_SECONDS))
        self.faulty = False

    @rule(name=MACHINE, number=CONTENT)
    def a_copy_rots(self, name: str, number: int) -> None:
        """A copy of what the bucket has."""
        machine, oid = self.machines[name], OIDS[number]
        file = machine.path / "objects" / oid.path()
        if not self.faulty and oid in self.place.objects and oid not in machine.waiting and file.exists():
            file.chmod(0o600)
            file.write_bytes(CONTENTS[number][:-1] + bytes([CONTENTS[number][-1] ^ 1]))

    @precondition(lambda self: self.kills < KILLS)
    @rule(name=MACHINE)
    def kill(self, name: str) -> None:
        self.kills += 1
        machine = self.machines[name]
        machine.kill(self.folder / f"{name}-{next(self.copies)}")

    @precondition(lambda self: self.kills < KILLS)
    @rule(name=MACHINE)
    def open_again(self, name: str) -> None:
        self.kills += 1
        self.machines[name].close()
        self.machines[name].open()

    # What holds.

    @invariant()
    def each_refers_to_what_it_did(self) -> None:
        global steps
        steps += 1
        for machine in getattr(self, "machines", {}).values():
            assert set(machine.store.references.oids(machine.repository, "")) == machine.references

    @rule()
    def all_is_there(self) -> None:
        if self.faulty:
            self.all_is_well_again()
        for machine in self.machines.values():
            for number, oid in enumerate(OIDS):
                if oid in machine.references:
                    self._read(machine, number)


@pytest.mark.timeout(100_000)
def test_whatever_two_machines_do_what_they_refer_to_is_there(
    monkeypatch: pytest.MonkeyPatch, full_size: bool, reliability: Reliability
) -> None:
    monkeypatch.setattr(fetches, "ABSENCE_SECONDS", 0.0)
    monkeypatch.setattr(circuit, "FIRST_PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(circuit, "LONGEST_PAUSE_SECONDS", 0.01)
    end = time.monotonic() + 60 * float(os.environ.get("LFSFS_MINUTES", MINUTES)) * full_size
    begun, rounds = time.monotonic(), 0
    while not rounds or time.monotonic() < end:
        rounds += 1
        run_state_machine_as_test(
            BucketModel,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate,),
            ),
        )
    assert collected["objects"] > 10, "gc is to take something now and then"
    reliability(
        "Two machines over one bucket against sets: commits, gc, trash, eviction, rot, a bucket that fails, kill -9",
        f"{steps} steps in {(time.monotonic() - begun) / 60:.0f} minutes, gc took {collected['objects']} objects",
        "nothing lost at any step",
    )
