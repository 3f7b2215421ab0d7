"""Whatever the network does: an object is whole or absent, a call ends, and nothing is left in the bucket."""

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from tiers.conformance import MIB, Sources

from lfsfs.errors import LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.tiers.s3 import S3Tier, open_s3

from .proxy import Proxy
from .servers import Server

ROUNDS = 12
AT_ONCE = 4
CALL_SECONDS = 60.0  # far above what timeouts and attempts add up to here


@pytest.fixture
async def tier(rgw_server: Server, proxy: Proxy) -> AsyncIterator[S3Tier]:
    options = rgw_server.options(endpoint=proxy.endpoint, part_size=5 * MIB, read_timeout=1.0)
    async with open_s3(options) as tier:
        yield tier


def any_fault(chance: random.Random) -> dict[str, object]:
    at = chance.choice([0, 1, 1000, MIB, 3 * MIB])
    what: dict[str, object] = chance.choice(
        [
            {"cut_reply_after": at},
            {"reset_reply_after": at},
            {"stall_reply_after": at},
            {"reset_request_after": at},
            {"drop_reply": True},
            {"delay": 1.5},
            {"status": 503, "code": "SlowDown"},
            {"status": 500, "code": "InternalError"},
            {"status": 403, "code": "AccessDenied"},
            {"method": "PUT", "flip_request_byte": at},
        ]
    )
    return {"method": chance.choice(["PUT", "GET", "HEAD", "POST", "DELETE", None]), **what}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_an_object_is_whole_or_absent_whatever_the_network_does(
    tier: S3Tier, proxy: Proxy, rgw_server: Server, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    sources = Sources(tmp_path / "sources")
    refused = 0

    async def one(content: bytes) -> None:
        nonlocal refused
        oid = Oid.of(content)
        put = False
        with trio.fail_after(CALL_SECONDS):
            try:
                await sources.put(tier, content)
                put = True
            except LfsfsError:
                refused += 1
        with trio.fail_after(CALL_SECONDS):
            try:
                assert await tier.read(oid, 0, len(content) + 1) == content
            except NotFound:
                assert not put, "what was put is there"
            except LfsfsError:
                refused += 1

    for _ in range(ROUNDS):
        proxy.clear()
        for _ in range(6):
            proxy.fault(times=chance.choice([1, 1, 2, 5]), **any_fault(chance))
        sizes = [chance.choice([1, 5000, 2 * MIB, 11 * MIB]) for _ in range(AT_ONCE)]
        async with trio.open_nursery() as nursery:
            for size in sizes:
                nursery.start_soon(one, os.urandom(size))
    proxy.clear()
    assert refused > 0, "the network failed"
    for oid in await tier.scan(None, 1000):
        assert Oid.of(await tier.read(oid, 0, 20 * MIB)) == oid
    await tier.abort_uploads(0)
    with rgw_server.client() as client:
        left = client.list_multipart_uploads(Bucket=rgw_server.bucket, Prefix=tier.keys.root)
        assert left.get("Uploads", []) == []
