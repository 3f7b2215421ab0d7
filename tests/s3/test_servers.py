"""What a toy would pass too is not enough: Ceph, and each server with the encryption that it has."""

import http.client
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from botocore.exceptions import ClientError
from tiers.conformance import MIB, Sources, put_many, scanned, whole

from lfsfs.config import S3Url
from lfsfs.errors import LfsfsError
from lfsfs.oid import Oid
from lfsfs.tiers.s3 import S3Tier, open_s3
from lfsfs.tiers.s3.upload import MOST_PARTS, part_size

from .servers import CEPH, Server, ceph

TIB = 1 << 40
GIB = 1 << 30


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources")


@pytest.fixture
async def tier(rgw_server: Server) -> AsyncIterator[S3Tier]:
    async with open_s3(rgw_server.options()) as tier:
        yield tier


@pytest.fixture
def boto(rgw_server: Server) -> Iterator[Any]:
    with rgw_server.client() as client:
        yield client


# Large objects


@pytest.mark.parametrize("size", [1, 16 * MIB, 10 * GIB, 157 * GIB, TIB, 5 * TIB])
def test_parts_of_every_size_of_object_fit(size: int) -> None:
    for least in (5 * MIB, 16 * MIB, GIB):
        length = part_size(size, least)
        assert length >= least
        assert -(-size // length) <= MOST_PARTS
        assert length <= 5 * GIB


async def test_a_large_object_goes_up_in_parts_and_comes_back(
    tier: S3Tier, sources: Sources, boto: Any, rgw_server: Server
) -> None:
    content = os.urandom(MIB) * 100 + b"the rest"
    oid = await sources.put(tier, content)
    found = boto.head_object(Bucket=rgw_server.bucket, Key=tier.keys.key(oid))
    assert found["ETag"].strip('"').endswith("-7")
    assert Oid.of(await whole(tier, oid)) == oid
    for edge in range(16 * MIB, len(content), 16 * MIB):
        assert await tier.read(oid, edge - 3, 7) == content[edge - 3 : edge + 4]


@pytest.mark.slow
async def test_what_is_there_already_is_not_sent_again(
    tier: S3Tier, sources: Sources, boto: Any, rgw_server: Server
) -> None:
    for content in (b"small", bytes(20 * MIB)):
        oid = await sources.put(tier, content)
        before = boto.head_object(Bucket=rgw_server.bucket, Key=tier.keys.key(oid))["LastModified"]
        await trio.sleep(1.1)  # times are told in seconds
        await sources.put(tier, content)
        after = boto.head_object(Bucket=rgw_server.bucket, Key=tier.keys.key(oid))["LastModified"]
        assert before == after


@pytest.mark.slow
async def test_two_machines_that_put_the_same_at_once_have_both_put_it(
    rgw_server: Server, sources: Sources, boto: Any
) -> None:
    options = rgw_server.options(part_size=5 * MIB)
    async with open_s3(options) as one, open_s3(options) as other:
        for content in (os.urandom(10), os.urandom(MIB), os.urandom(12 * MIB)):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    for tier in (one, other):
                        nursery.start_soon(sources.put, tier, content)
            assert await whole(one, Oid.of(content)) == content
        prefix = one.keys.root
    assert boto.list_multipart_uploads(Bucket=rgw_server.bucket, Prefix=prefix).get("Uploads", []) == []


# Many objects


@pytest.mark.slow
async def test_many_small_objects(tier: S3Tier, sources: Sources) -> None:
    oids = await put_many(tier, sources, 1500)
    assert await scanned(tier, 400) == oids
    read = []

    async def check(oid: Oid) -> None:
        read.append(Oid.of(await whole(tier, oid)))

    async with trio.open_nursery() as nursery:
        for oid in oids[:300]:
            nursery.start_soon(check, oid)
    assert sorted(read) == oids[:300]


def put_unsigned(server: Server, bucket: str, keys: list[str]) -> None:
    """Empty objects, as fast as it goes: boto3 would take five times as long to sign."""

    def put(keys: list[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for key in keys:
            connection.request("PUT", f"/{bucket}/{quote(key)}", body=b"")
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, [keys[first::8] for first in range(8)]))


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "count"), [("objects/aa/bb/oid", 20_000), ("flat", 3_000)])
async def test_a_listing_of_many_keys_comes_in_pages_in_order(
    rgw_server: Server, boto: Any, layout: Any, count: int
) -> None:
    bucket = f"public-{layout[:4]}"
    boto.create_bucket(Bucket=bucket, ACL="public-read-write")
    options = rgw_server.options(url=S3Url(bucket, "many objects"), layout=layout)
    async with open_s3(options) as tier:
        oids = sorted(Oid.of(b"%d" % number) for number in range(count))
        keys = [tier.keys.key(oid) for oid in oids]
        keys += [tier.keys.note(f"digests/{number:04}") for number in range(2000)]
        await trio.to_thread.run_sync(put_unsigned, rgw_server, bucket, keys)
        assert await scanned(tier, 1000) == oids
        assert await scanned(tier, 3333) == oids
        assert await tier.scan(None, 10**6) == oids
        assert await tier.scan(oids[2_344], 2) == oids[2_345:2_347]
        assert len(await tier.notes("digests/", None, 10**6)) == 2000


# Encryption and storage classes


@pytest.fixture(params=["small", "parts"])
def content(request: pytest.FixtureRequest) -> bytes:
    return b"small" if request.param == "small" else os.urandom(12 * MIB)


async def seen(server: Server, sources: Sources, content: bytes, **options: Any) -> dict[str, Any]:
    """Puts, reads, and returns what the server says of the object, and of a note."""
    customer = {}
    if "customer_key" in options:
        customer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": options["customer_key"].read_bytes()}
    async with open_s3(server.options(part_size=5 * MIB, **options)) as tier:
        oid = await sources.put(tier, content)
        assert await whole(tier, oid) == content
        assert await tier.read(oid, 1, 3) == content[1:4]
        await tier.put_note("a", b"note")
        assert await tier.note("a") == b"note"
        await sources.put(tier, content)
        with server.client() as client:
            key, note = tier.keys.key(oid), tier.keys.note("a")
            told: list[dict[str, Any]] = [
                client.head_object(Bucket=server.bucket, Key=one, **customer) for one in (key, note)
            ]
            if customer:
                with pytest.raises(ClientError):
                    client.head_object(Bucket=server.bucket, Key=key)
        interesting = ("ServerSideEncryption", "SSEKMSKeyId", "SSECustomerAlgorithm", "StorageClass")
        answers = [{name: answer[name] for name in interesting if name in answer} for answer in told]
        assert answers[0] == answers[1]
        return answers[0]


@pytest.mark.slow
async def test_sse_kms(rgw_server: Server, sources: Sources, content: bytes) -> None:
    told = await seen(rgw_server, sources, content, sse="kms", kms_key="testkey-1")
    assert told == {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "testkey-1"}


async def test_sse_kms_with_a_key_that_is_not_there(rgw_server: Server, sources: Sources) -> None:
    async with open_s3(rgw_server.options(sse="kms", kms_key="no-such-key")) as tier:
        with pytest.raises(LfsfsError, match="cannot store"):
            await sources.put(tier, b"x")


async def test_sse_c(rgw_server: Server, sources: Sources, content: bytes, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    told = await seen(rgw_server, sources, content, sse="c", customer_key=key)
    assert told == {"SSECustomerAlgorithm": "AES256"}


@pytest.mark.slow
async def test_sse_s3(moto_server: Server, sources: Sources, content: bytes) -> None:
    assert await seen(moto_server, sources, content, sse="s3") == {"ServerSideEncryption": "AES256"}


@pytest.mark.slow
async def test_a_storage_class(moto_server: Server, sources: Sources, content: bytes) -> None:
    told = await seen(moto_server, sources, content, storage_class="STANDARD_IA")
    assert told["StorageClass"] == "STANDARD_IA"


# The cluster itself


@pytest.mark.slow
async def test_a_cluster_on_a_disk_survives_a_restart(tmp_path: Path, sources: Sources) -> None:
    directory = tmp_path / "ceph"
    with ceph(directory, CEPH_STORE="bluestore") as server:
        options = server.options()
        async with open_s3(options) as tier:
            oid = await sources.put(tier, b"still there")
            await trio.run_process([CEPH, "stop", directory])
            await trio.run_process([CEPH, "start", directory, str(server.port)])
            assert await whole(tier, oid) == b"still there"
