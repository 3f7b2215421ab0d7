"""What decorates a remote tier keeps the promises of every remote tier."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tiers.remote_conformance import RemoteConformance

from lfsfs.tiers.bucket import SEALED, Bucket, open_bucket
from lfsfs.tiers.encryption.names import PlainNames
from lfsfs.tiers.encryption.remote import EncryptedRemote
from lfsfs.tiers.encryption.ring import Ring, new_ring
from lfsfs.tiers.mixed import Mixed
from lfsfs.tiers.s3 import open_s3

from .servers import Server


class OnMoto(RemoteConformance):
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    async def tier(self, moto_server: Server, tmp_path: Path) -> AsyncIterator[Bucket]:
        (tmp_path / "master.key").write_text("5a" * 32)
        key = f"file:{tmp_path / 'master.key'}"
        async with open_bucket(moto_server.options(encryption_key=key, **self.options)) as tier:
            yield tier


class TestEncrypted(OnMoto):
    pass


@pytest.mark.slow
class TestHashedNames(OnMoto):
    options: ClassVar[dict[str, Any]] = {"object_names": "hashed"}


@pytest.mark.slow
class TestMixed(RemoteConformance):
    @pytest.fixture
    async def tier(self, moto_server: Server) -> AsyncIterator[Mixed]:
        async def reload() -> Ring:
            return ring

        ring = new_ring()
        async with open_s3(moto_server.options()) as leaf:
            yield Mixed(EncryptedRemote(leaf.below(SEALED), ring, PlainNames(), reload), leaf)
