"""Any sequence of calls leaves every tier with the objects that a dict would have."""

import shutil
import tempfile
from pathlib import Path

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lfsfs.errors import NotFound
from lfsfs.oid import Oid
from lfsfs.tiers import FaultyTier, LocalTier, MemoryTier, Tier, Wrapper
from lfsfs.tiers.encryption import EncryptedTier, Keys, Ring, RingKey

CONTENTS = [b"", b"x", b"0123456789", b"object 1", b"object 2", b"object 3", bytes(5000)]
KNOWN = st.sampled_from(CONTENTS)
KEYS = Keys(Ring([RingKey(bytes(range(16)), bytes(range(32)), 1)]))
PLACES = st.integers(0, 6000)


class TierModel(RuleBasedStateMachine):
    """Checks one tier against a dict."""

    def make(self, directory: Path) -> Tier:
        raise NotImplementedError

    @initialize()
    def open(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="lfsfs-model-"))
        (self.directory / "tier").mkdir()
        self.tier = self.make(self.directory / "tier")
        self.model: dict[Oid, bytes] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    @rule(content=KNOWN)
    def put(self, content: bytes) -> None:
        source = self.directory / "source"
        source.write_bytes(content)
        trio.run(self.tier.put, Oid.of(content), source)
        source.unlink()
        self.model[Oid.of(content)] = content

    @rule(content=KNOWN)
    def delete(self, content: bytes) -> None:
        trio.run(self.tier.delete, Oid.of(content))
        self.model.pop(Oid.of(content), None)

    @rule(content=KNOWN, offset=PLACES, size=PLACES)
    def read(self, content: bytes, offset: int, size: int) -> None:
        expected = self.model.get(Oid.of(content))
        try:
            found = trio.run(self.tier.read, Oid.of(content), offset, size)
        except NotFound:
            found = None
        assert found == (None if expected is None else expected[offset : offset + size])

    @rule(content=KNOWN)
    def size(self, content: bytes) -> None:
        expected = self.model.get(Oid.of(content))
        try:
            found = trio.run(self.tier.size, Oid.of(content))
        except NotFound:
            found = None
        assert found == (None if expected is None else len(expected))

    @rule(after=st.none() | KNOWN.map(Oid.of), limit=st.integers(1, 9))
    def scan(self, after: Oid | None, limit: int) -> None:
        expected = sorted(oid for oid in self.model if after is None or oid > after)[:limit]
        assert trio.run(self.tier.scan, after, limit) == expected


class LocalModel(TierModel):
    """With a disk that loses parts of files, and a process that is started anew, now and then."""

    def make(self, directory: Path) -> LocalTier:
        return LocalTier(directory, durable=False)

    @precondition(lambda self: any(self.model.values()))
    @rule(choice=st.integers(0, 100), size=st.integers(0, 6000))
    def damage_and_heal(self, choice: int, size: int) -> None:
        oids = sorted(oid for oid, content in self.model.items() if len(content) != size)
        if oids:
            oid = oids[choice % len(oids)]
            damaged = self.tier.path(oid)  # type: ignore[attr-defined]
            damaged.write_bytes(bytes(size))
            self.put(self.model[oid])

    @rule()
    def start_anew(self) -> None:
        self.tier = self.make(self.directory / "tier")

    @invariant()
    def nothing_is_left_over(self) -> None:
        files = [path.name for path in self.directory.rglob("*") if path.is_file()]
        assert sorted(files) == sorted(self.model)


class EncryptedModel(LocalModel):
    def make(self, directory: Path) -> LocalTier:
        return EncryptedTier(directory, KEYS, durable=False)


class MemoryModel(TierModel):
    def make(self, directory: Path) -> MemoryTier:
        return MemoryTier(sum(map(len, CONTENTS)))

    @invariant()
    def what_is_used_is_what_is_held(self) -> None:
        assert self.tier.used == sum(map(len, self.model.values()))  # type: ignore[attr-defined]


class DecoratorsModel(TierModel):
    def make(self, directory: Path) -> Tier:
        return FaultyTier(Wrapper(MemoryTier(sum(map(len, CONTENTS)))))


# A step is some calls, a run many steps: a part of the usual number of examples is enough.
LocalModel.TestCase.settings = EncryptedModel.TestCase.settings = MemoryModel.TestCase.settings = (
    DecoratorsModel.TestCase.settings
) = settings(max_examples=settings().max_examples * 2 // 5, stateful_step_count=25)
TestLocalModel = LocalModel.TestCase
TestEncryptedModel = EncryptedModel.TestCase
TestMemoryModel = MemoryModel.TestCase
TestDecoratorsModel = DecoratorsModel.TestCase
