"""What decorates a remote tier keeps the promises of every remote tier: all decorators at once, as an encrypted and
compressed bucket has them that was plain before.
"""

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from tiers.remote_conformance import RemoteConformance

from lfsfs.tiers.bucket import SEALED
from lfsfs.tiers.compression import CompressedRemote
from lfsfs.tiers.encryption.names import HashedNames
from lfsfs.tiers.encryption.remote import EncryptedRemote
from lfsfs.tiers.encryption.ring import Ring, new_ring
from lfsfs.tiers.mixed import Mixed, Outside
from lfsfs.tiers.s3 import open_s3

from .servers import Server


@pytest.mark.slow
class TestEncoded(RemoteConformance):
    @pytest.fixture
    async def tier(self, moto_server: Server, tmp_path: Path) -> AsyncIterator[Mixed]:
        async def reload() -> Ring:
            return ring

        def new_path() -> Path:
            return tmp_path / f"new-{next(numbers)}"

        ring, numbers = new_ring(), count()
        async with open_s3(moto_server.options()) as leaf:
            sealed = EncryptedRemote(leaf.below(SEALED), ring, HashedNames(ring.oldest.key), reload)
            plain = Outside(CompressedRemote(leaf, None), SEALED)
            yield Mixed(CompressedRemote(sealed, new_path), plain)
        assert not list(tmp_path.glob("new-*")), "no temporary file is left"
