"""Tiers: where object bytes live."""

from lfsfs.tiers.faulty import FaultyTier
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.memory import MemoryTier
from lfsfs.tiers.tier import Tier, Wrapper

__all__ = ["FaultyTier", "LocalTier", "MemoryTier", "Tier", "Wrapper"]
