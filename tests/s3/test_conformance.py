"""S3Tier keeps the promises of every tier, and of every remote one, on each server and in each layout."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from lfsfs.tiers.s3 import S3Tier, open_s3

from tiers.conformance import TierConformance
from .servers import Server


class TestMoto(TierConformance):
    options: dict[str, Any] = {}

    @pytest.fixture
    async def tier(self, moto_server: Server) -> AsyncIterator[S3Tier]:
        async with open_s3(moto_server.options(**self.options)) as tier:
            yield tier


class TestMotoFlat(TestMoto):
    options = {"layout": "flat"}


class TestMotoAaBbRest(TestMoto):
    options = {"layout": "aa/bb/rest"}
