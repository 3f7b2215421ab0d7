"""What a mount tells of its slow operations: also of those that fail, and on what they were."""

from pathlib import Path

import pytest
import trio

from lfsfs import open_store
from lfsfs.config import MountOptions
from lfsfs.errors import Unavailable
from lfsfs.mount.nodes import Handle, Opened, Tree
from lfsfs.mount.operations import Operations
from lfsfs.mount.traffic import SLOW_SECONDS

pytestmark = pytest.mark.timeout(30)


class FarAway(Handle):
    """What a remote tier that does not answer makes of an open file."""

    @property
    def what(self) -> str:
        return "object/far"

    async def read(self, offset: int, size: int) -> bytes:
        return await self._give_up()

    async def write(self, offset: int, piece: bytes) -> int:
        return len(await self._give_up())

    async def flush(self) -> None:
        await self._give_up()

    async def fsync(self) -> None:
        await self._give_up()

    async def _give_up(self) -> bytes:
        await trio.sleep(SLOW_SECONDS * 1.1)
        raise Unavailable("the bucket does not answer")


async def test_a_slow_operation_that_fails_is_remembered(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as store:
        operations = Operations(Tree(store, MountOptions(), tmp_path))
        fh = operations._opened(Opened(FarAway())).fh
        for failing in (
            lambda: operations.read(fh, 0, 1), lambda: operations.write(fh, 0, b"x"),
            lambda: operations.flush(fh), lambda: operations.fsync(fh, False),
        ):  # fmt: skip
            with pytest.raises(Unavailable):
                await failing()
    assert [(slow.operation, slow.what) for slow in operations.traffic.slow] == [
        (operation, "object/far") for operation in ("read", "write", "close", "fsync")
    ]
