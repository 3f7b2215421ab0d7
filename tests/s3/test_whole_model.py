"""A mount with S3 behind it, and a plain dictionary: after any steps of anybody both say the same.

Steps are what programs, git-lfs and people do (write, rename, unlink, commit, prune, `lfsfs put`, gc, undelete, vacuum),
and what happens to them: the cache is too small for what there is, S3 goes away, is slow or answers with errors, the
daemon is killed. `scripts/torture model [MINUTES]` goes on for hours.
"""

import errno
import itertools
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import forking
import pytest
from gitlfs.bench import oid_of, oids_in
from gitlfs.mounted import lfsfs
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from recording import Reliability

from .machines import KIB, Machine, Place
from .proxy import Proxy
from .servers import Server

pytestmark = [pytest.mark.mount, pytest.mark.slow]

CACHE = ("--cache-size", "2MiB", "--pending-size", "64MiB")
SETTINGS = 'deadline = "1s"\n'
EXAMPLES, STEPS = 3, 80
MINUTES = 60
COMMAND_SECONDS = 60
REFUSED = 4
AWAY = (errno.ETIMEDOUT, errno.EIO, errno.ENOENT, errno.EAGAIN)
"""What may come of asking for something that only S3 has, or may have, while it does not answer."""
RESTARTS, OUTAGES, WAITS = 2, 1, 2  # an example: each takes longer than all its other steps

NAME = st.sampled_from(["a", "b", "c", "d"])
CONTENT = st.integers(0, 7)
ROOT = st.sampled_from(["one", "two"])
_example = itertools.count()
steps = 0


class WholeModel(RuleBasedStateMachine):
    """Examples share the mount, and no name, no repository root and no object in it."""

    def __init__(self, machine: Machine, proxy: Proxy) -> None:
        super().__init__()
        self.machine, self.proxy = machine, proxy
        self.number = next(_example)
        self.folder = machine.path / "incoming" / f"{self.number}"
        self.names: dict[str, bytes] = {}
        self.references: dict[str, set[str]] = {"one": set(), "two": set()}
        self.unsettled: dict[str, set[str]] = {"one": set(), "two": set()}
        """References whose last change a kill may undo."""
        self.trashed: set[str] = set()
        self.up = True
        self.restarts = self.waits = self.outages = 0

    # The dictionary.

    def content(self, number: int) -> bytes:
        chance = random.Random(self.number * 100 + number)
        return chance.randbytes(
            (1, 700, 30 * KIB, 70 * KIB, 200 * KIB, 300 * KIB, 500 * KIB, 900 * KIB)[number]
        )

    def root(self, name: str) -> Path:
        return self.machine.path / "repos" / f"{name}{self.number}"

    def needed(self) -> dict[str, bytes]:
        """What must not be lost, by oid."""
        contents = {oid_of(self.content(number)): self.content(number) for number in range(8)}
        wanted = {oid_of(content) for content in self.names.values()} | set().union(*self.references.values())
        return {oid: contents[oid] for oid in wanted}

    @initialize()
    def begin(self) -> None:
        self.folder.mkdir()
        for name in self.references:
            self.root(name).mkdir()

    def teardown(self) -> None:
        self.recover()
        self.all_is_there()
        shutil.rmtree(self.folder)
        for name in self.references:
            shutil.rmtree(self.root(name))

    def reached(self, call: Callable[[], Any]) -> Any:
        """What it returns; None where it failed because S3 is away, which it may for so long only."""
        begun = time.monotonic()
        try:
            return call()
        except OSError as error:
            assert not self.up, f"{error} while S3 answers"
            assert error.errno in AWAY, error
            self.waits += time.monotonic() - begun > 0.5
            return None

    # Programs.

    @rule(name=NAME, number=CONTENT)
    def write(self, name: str, number: int) -> None:
        (self.folder / name).write_bytes(self.content(number))
        self.names[name] = self.content(number)
        self.trashed.discard(oid_of(self.content(number)))

    @rule(name=NAME)
    def unlink(self, name: str) -> None:
        if self.names.pop(name, None) is not None:
            (self.folder / name).unlink()
        else:
            with pytest.raises(FileNotFoundError):
                (self.folder / name).unlink()

    @rule(old=NAME, new=NAME)
    def rename(self, old: str, new: str) -> None:
        if old in self.names:
            (self.folder / old).rename(self.folder / new)
            self.names[new] = self.names.pop(old)

    @rule(name=NAME, at=st.integers(0, 300 * KIB), size=st.integers(0, 100 * KIB))
    def read(self, name: str, at: int, size: int) -> None:
        if (
            self.waits >= WAITS
        ):  # here, and in no precondition: what is drawn must not hang on what takes how long
            return

        def call() -> bytes:
            with (self.folder / name).open("rb") as file:
                return os.pread(file.fileno(), size, at)

        if name in self.names:
            found = self.reached(call)
            assert found is None or found == self.names[name][at : at + size]

    @rule(root=ROOT, number=CONTENT)
    def commit(self, root: str, number: int) -> None:
        """As git-lfs does."""
        content = self.content(number)
        temp = self.root(root) / "tmp" / "1"
        temp.write_bytes(content)
        target = self.object_of(root, oid_of(content))
        target.parent.mkdir(parents=True, exist_ok=True)
        temp.rename(target)
        self.references[root].add(oid_of(content))
        self.unsettled[root].discard(oid_of(content))
        self.trashed.discard(oid_of(content))

    def object_of(self, root: str, oid: str) -> Path:
        return self.root(root) / "objects" / oid[:2] / oid[2:4] / oid

    @rule(root=ROOT, number=CONTENT)
    def prune(self, root: str, number: int) -> None:
        oid = oid_of(self.content(number))
        if oid in self.references[root]:
            self.object_of(root, oid).unlink()
            self.references[root].discard(oid)
            self.unsettled[root].add(oid)

    @rule(root=ROOT, number=CONTENT)
    def look_up(self, root: str, number: int) -> None:
        """Finds what the store has, and refers to it from then on."""
        if self.waits >= WAITS:
            return
        oid = oid_of(self.content(number))
        found = self.reached(lambda: self.object_of(root, oid).read_bytes() if self.there(root, oid) else b"")
        if found:
            assert found == self.content(number)
        if found or self.there_quickly(root, oid):
            if oid not in self.references[root]:
                self.unsettled[root].add(oid)
            self.references[root].add(oid)
        elif self.up:
            assert oid not in self.needed()

    def there(self, root: str, oid: str) -> bool:
        try:
            self.object_of(root, oid).stat()
        except FileNotFoundError:
            return False
        return True

    def there_quickly(self, root: str, oid: str) -> bool:
        return oid in oids_in(self.root(root) / "objects")

    # People.

    def command(self, *arguments: str | Path) -> int:
        """`lfsfs ARGUMENTS`; one that needs S3 may fail while it is away, with a message."""
        status, out, err = forking.run(
            "forking:command", *map(str, arguments), "--store", self.machine.store, seconds=COMMAND_SECONDS
        )
        assert "Traceback" not in err, err
        assert status == 0 or not self.up or status == REFUSED, f"{arguments}: {out}{err}"
        return status

    @rule(number=CONTENT)
    def put(self, number: int) -> None:
        """By the public Store, in another process."""
        source = self.machine.store.parent / "source"
        source.write_bytes(self.content(number))
        if self.command("put", source) == 0:
            self.trashed.discard(oid_of(self.content(number)))

    @rule()
    def gc(self) -> None:
        if self.command("gc", "--yes", "--grace", "0", "--budget", "100%") == 0:
            listed = oids_in(self.machine.path / "objects")
            ours = {oid_of(self.content(number)) for number in range(8)}
            assert set(self.needed()) <= listed
            self.trashed |= ours - listed

    @rule(number=CONTENT)
    def undelete(self, number: int) -> None:
        oid = oid_of(self.content(number))
        if oid in self.trashed:
            status, _, _ = forking.run(
                "forking:command",
                "undelete",
                oid,
                "--store",
                str(self.machine.store),
                seconds=COMMAND_SECONDS,
            )
            if status == 0:
                self.trashed.discard(oid)

    @rule()
    def vacuum(self) -> None:
        if self.command("vacuum", "--trash-time", "0") == 0:
            self.trashed.clear()

    # What happens to them.

    @precondition(lambda self: self.up and self.outages < OUTAGES)
    @rule()
    def s3_goes_away(self) -> None:
        self.outages += 1
        self.proxy.down()
        self.up = False

    @rule(status=st.sampled_from([500, 503]), count=st.integers(1, 3))
    def s3_stumbles(self, status: int, count: int) -> None:
        """Errors that a client is to ask again after."""
        self.proxy.fault(status=status, times=count)

    @precondition(lambda self: not self.up)
    @rule()
    def recover(self) -> None:
        self.proxy.clear()
        self.proxy.up()
        self.up = True
        lfsfs("sync", "--wait", "--timeout", "60", "--store", self.machine.store, seconds=90)

    @precondition(lambda self: self.restarts < RESTARTS)
    @rule()
    def kill(self) -> None:
        self.restarts += 1
        self.machine.kill()
        self.machine.start()
        for root, expected in self.references.items():
            found = oids_in(self.root(root) / "objects")
            assert found ^ expected <= self.unsettled[root]
            self.references[root] = found
            self.unsettled[root] = set()

    @precondition(lambda self: self.restarts < RESTARTS)
    @rule()
    def remount(self) -> None:
        self.restarts += 1
        self.machine.stop()
        self.machine.start()
        self.unsettled = {root: set() for root in self.unsettled}

    # What holds.

    @invariant()
    def the_trees_are_the_dictionary(self) -> None:
        global steps
        steps += 1
        if not self.folder.is_dir():
            return  # before it has begun
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(self.folder)}
        assert sizes == {name: len(content) for name, content in self.names.items()}
        for root, expected in self.references.items():
            assert oids_in(self.root(root) / "objects") == expected

    @precondition(lambda self: self.up)
    @rule()
    def all_is_there(self) -> None:
        for oid, content in self.needed().items():
            assert self.machine.read(oid) == content
        for name, content in self.names.items():
            assert (self.folder / name).read_bytes() == content


@pytest.fixture
def place(moto_server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A bucket of moto: a new one, or the examples would find each other's failures."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.secret_access_key)
    return Place(moto_server, proxy.endpoint, moto_server.options().url.prefix)


@pytest.fixture
def proxy(moto_server: Server) -> Iterator[Proxy]:
    with Proxy(moto_server.port) as proxy:
        yield proxy


@pytest.mark.timeout(100_000)
def test_whatever_anybody_does_the_mount_is_a_dictionary(
    tmp_path: Path, place: Place, proxy: Proxy, full_size: bool, reliability: Reliability
) -> None:
    end = time.monotonic() + 60 * float(os.environ.get("LFSFS_MINUTES", MINUTES)) * full_size
    begun, rounds = time.monotonic(), 0
    with Machine(tmp_path / "m", place, *CACHE, cache=SETTINGS) as machine:
        while not rounds or time.monotonic() < end:
            rounds += 1
            with suppress(
                FlakyStrategyDefinition
            ):  # what can be done next hangs on S3 too: a round ends there
                run_state_machine_as_test(
                    lambda: WholeModel(machine, proxy),
                    settings=settings(
                        max_examples=EXAMPLES,
                        stateful_step_count=STEPS,
                        database=None,
                        suppress_health_check=list(HealthCheck),
                        phases=(Phase.generate,),  # to shrink takes minutes
                    ),
                )
    reliability(
        "A mount with S3 behind it against a dictionary: writes, git-lfs, gc, eviction, trash, S3 away, kill -9",
        f"{steps} steps in {(time.monotonic() - begun) / 60:.0f} minutes",
        "the same at every step",
    )
