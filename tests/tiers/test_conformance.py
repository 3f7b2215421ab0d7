"""Every tier and every decorator keeps the promises of conformance.py."""

from pathlib import Path

import pytest

from lfsfs.tiers import FaultyTier, LocalTier, MemoryTier, Tier, Wrapper

from .conformance import MIB, TierConformance


class TestLocal(TierConformance):
    make = LocalTier


class TestLocalNotDurable(TierConformance):
    make = staticmethod(lambda path: LocalTier(path, durable=False))


class TestLocalOnASmallDisk(TierConformance):
    """Sources lie on another file system: every put is a copy."""

    @pytest.fixture
    def tier(self, small_disk: Path) -> Tier:
        return LocalTier(small_disk)


class TestLocalWithItsTemporaryFilesElsewhere(TierConformance):
    """`temp` is on the sources' file system, the objects on another."""

    @pytest.fixture
    def tier(self, tmp_path: Path, other_file_system: Path) -> Tier:
        return LocalTier(other_file_system, temp=tmp_path / "temp")


class TestMemory(TierConformance):
    make = staticmethod(lambda path: MemoryTier(16 * MIB))


class TestMemoryThatEvicts(TierConformance):
    make = staticmethod(lambda path: MemoryTier(16 * MIB, "evict"))


class TestWrapper(TierConformance):
    make = staticmethod(lambda path: Wrapper(LocalTier(path, durable=False)))


class TestFaultyWithoutFaults(TierConformance):
    make = staticmethod(lambda path: FaultyTier(LocalTier(path, durable=False)))
