"""S3Tier keeps the promises of every tier, and of every remote one, on each server and in each layout."""

from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from tiers.remote_conformance import RemoteConformance

from lfsfs.tiers.s3 import S3Tier, open_s3

from .servers import Server


class OnMoto(RemoteConformance):
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    async def tier(self, moto_server: Server) -> AsyncIterator[S3Tier]:
        async with open_s3(moto_server.options(**self.options)) as tier:
            yield tier


class OnCeph(RemoteConformance):
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    async def tier(self, rgw_server: Server) -> AsyncIterator[S3Tier]:
        async with open_s3(rgw_server.options(**self.options)) as tier:
            yield tier


@pytest.mark.slow
class TestMoto(OnMoto):
    pass


class TestCeph(OnCeph):
    pass


@pytest.mark.slow
class TestCephFlat(OnCeph):
    options: ClassVar[dict[str, Any]] = {"layout": "flat"}


@pytest.mark.slow
class TestCephAaBbRest(OnCeph):
    options: ClassVar[dict[str, Any]] = {"layout": "aa/bb/rest"}
