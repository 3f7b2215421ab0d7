"""The remote tier that the models have keeps the promises of every remote tier."""

import pytest

from .memory_remote import MemoryRemote, Place
from .remote_conformance import RemoteConformance


class TestMemoryRemote(RemoteConformance):
    @pytest.fixture
    async def tier(self) -> MemoryRemote:
        return MemoryRemote(Place())
