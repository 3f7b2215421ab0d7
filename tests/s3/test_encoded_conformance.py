"""What decorates a remote tier keeps the promises of every remote tier."""

from collections.abc import AsyncIterator
from itertools import count
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
        numbers = count()
        options = moto_server.options(encryption_key=key, **self.options)
        async with open_bucket(options, new_path=lambda: tmp_path / f"new-{next(numbers)}") as tier:
            yield tier
            assert tier.direct is None, "no URL leads others to what they cannot read"
            assert not list(tmp_path.glob("new-*"))


@pytest.mark.slow
class TestEncryptedAndCompressed(OnMoto):
    options: ClassVar[dict[str, Any]] = {"object_names": "hashed", "compression": "zstd"}


@pytest.mark.slow
class TestMixed(RemoteConformance):
    @pytest.fixture
    async def tier(self, moto_server: Server) -> AsyncIterator[Mixed]:
        async def reload() -> Ring:
            return ring

        ring = new_ring()
        async with open_s3(moto_server.options()) as leaf:
            yield Mixed(EncryptedRemote(leaf.below(SEALED), ring, PlainNames(), reload), leaf, SEALED)
