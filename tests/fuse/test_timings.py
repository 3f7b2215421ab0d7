"""What is told of how long requests took."""

import os
import re
from pathlib import Path

import pytest
import trio

from lfsfs.fuse.protocol import Opcode
from lfsfs.fuse.timings import SAMPLED, Timings

from .scratch import Scratch, mounted

pytestmark = [pytest.mark.mount, pytest.mark.timeout(60)]
LINE = re.compile(
    r'^lfsfs_operation_seconds_(\w+)\{operation="(\w+)"(?:,le="([^"]+)")?\} (\S+)$', re.MULTILINE
)


def test_a_time_is_counted_in_every_bucket_that_it_fits_into() -> None:
    timings = Timings()
    timings.add(Opcode.READ, 40_000)
    timings.add(Opcode.READ, 3_000_000)
    lines = LINE.findall(timings.rendered())
    buckets = {float(bound): int(count) for kind, _, bound, count in lines if kind == "bucket"}
    assert [count for bound, count in sorted(buckets.items()) if bound < 40e-6] == [0]
    assert {count for bound, count in buckets.items() if 70e-6 > bound > 40e-6} == {1}
    assert buckets[float("inf")] == 2
    assert {kind: number for kind, _, bound, number in lines if not bound} == {"sum": "0.00304", "count": "2"}


async def test_one_in_eleven_requests_is_timed_whatever_it_is(tmp_path: Path) -> None:
    def use(path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(1100):
                file.write(b"x")
                os.fsync(file.fileno())

    async with mounted(tmp_path / "m", Scratch()) as at:
        await trio.to_thread.run_sync(use, at.path / "file", abandon_on_cancel=True)
        rendered = at.session.timings.rendered()
    counts = {
        operation: int(number) for kind, operation, _, number in LINE.findall(rendered) if kind == "count"
    }
    for operation in ("write", "fsync"):
        assert abs(counts[operation] - 1100 / SAMPLED) < 20
