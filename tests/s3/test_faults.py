"""What the S3 tier does when the network fails: Ceph behind a proxy that fails on purpose."""

import math
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tiers.conformance import MIB, Sources, whole

from lfsfs.errors import HashMismatch, LfsfsError, LocalDamage, NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.tiers.s3 import S3Tier, open_s3

from .proxy import Proxy
from .servers import Server

SMALL = b"a small object"
LARGE = os.urandom(20 * MIB + 17)
SLACK = 1.5  # seconds that a busy machine may take on top


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources")


@pytest.fixture
async def tier(rgw_server: Server, proxy: Proxy) -> AsyncIterator[S3Tier]:
    """Through the proxy; parts of 5 MiB; gives a silent server one second."""
    options = rgw_server.options(endpoint=proxy.endpoint, part_size=5 * MIB, read_timeout=1.0)
    async with open_s3(options) as tier:
        yield tier


def in_bucket(server: Server, tier: S3Tier) -> list[str]:
    """Keys below the tier's prefix, as the server itself tells them."""
    with server.client() as client:
        answer = client.list_objects_v2(Bucket=server.bucket, Prefix=tier.keys.root)
        return [item["Key"] for item in answer.get("Contents", [])]


def uploads_left(server: Server, tier: S3Tier) -> list[Any]:
    with server.client() as client:
        answer = client.list_multipart_uploads(Bucket=server.bucket, Prefix=tier.keys.root)
        return list(answer.get("Uploads", []))


# Bodies that are cut


@pytest.mark.parametrize("how", ["cut_reply_after", "reset_reply_after", "stall_reply_after"])
async def test_a_body_that_is_cut_is_resumed_from_there(
    tier: S3Tier, proxy: Proxy, sources: Sources, how: str
) -> None:
    oid = await sources.put(tier, LARGE)
    before = proxy.counters()["bytes down"]
    for _ in range(4):
        proxy.fault(method="GET", path=oid, **{how: 3 * MIB})
    assert await tier.read(oid, 0, len(LARGE)) == LARGE
    assert proxy.counters()["GET"] == 5
    assert proxy.counters()["bytes down"] - before <= 1.05 * len(LARGE)


@pytest.mark.slow
async def test_a_body_that_is_cut_again_and_again_without_a_byte_is_given_up(
    tier: S3Tier, proxy: Proxy, sources: Sources
) -> None:
    oid = await sources.put(tier, LARGE)
    proxy.fault(method="GET", times=1, cut_reply_after=MIB)
    proxy.fault(method="GET", times=math.inf, cut_reply_after=0)
    pieces: list[bytes] = []
    with pytest.raises(Unavailable, match=oid):
        await tier.fetch(oid, 0, len(LARGE), pieces.append)
    assert b"".join(pieces) == LARGE[:MIB]
    assert proxy.counters()["GET"] <= 5
    proxy.clear()
    assert await tier.read(oid, MIB, len(LARGE)) == LARGE[MIB:]


async def test_bytes_that_came_before_a_stall_are_handed_on_before_it_ends(
    tier: S3Tier, proxy: Proxy, sources: Sources
) -> None:
    oid = await sources.put(tier, LARGE)
    proxy.fault(method="GET", stall_reply_after=1234)
    pieces: list[bytes] = []
    with trio.move_on_after(0.7):
        await tier.fetch(oid, 0, len(LARGE), pieces.append)
    assert b"".join(pieces) == LARGE[:1234]


@pytest.mark.slow
async def test_a_server_that_ignores_ranges_is_told_apart_from_one_that_answers_them(
    moto_server: Server, sources: Sources
) -> None:
    with Proxy(moto_server.port) as proxy:
        async with open_s3(moto_server.options(endpoint=proxy.endpoint)) as tier:
            oid = await sources.put(tier, LARGE)
            proxy.fault(method="GET", times=2, drop_field="range")
            assert await tier.read(oid, 0, 10) == LARGE[:10]
            with pytest.raises(LfsfsError, match="other bytes than the range"):
                await tier.read(oid, 5, 10)
            assert await tier.read(oid, 5, 10) == LARGE[5:15]


# Listings that are cut


@pytest.mark.parametrize("after", [0, 1, 150, 1000])
@pytest.mark.parametrize("name", ["rgw_server", "moto_server"])
async def test_a_listing_that_is_cut_is_never_a_short_one(
    request: pytest.FixtureRequest, name: str, sources: Sources, after: int
) -> None:
    """boto3 takes a listing that is cut before its first byte for an empty one: there would be no objects."""
    server: Server = request.getfixturevalue(name)
    with Proxy(server.port) as proxy:
        async with open_s3(server.options(endpoint=proxy.endpoint, read_timeout=1.0)) as tier:
            oids = sorted([await sources.put(tier, b"%d" % number) for number in range(20)])
            for how in ("cut_reply_after", "reset_reply_after"):
                proxy.fault(method="GET", **{how: after})
                try:
                    assert await tier.scan(None, 1000) == oids
                except Unavailable:
                    pass
            proxy.clear()
            assert await tier.scan(None, 1000) == oids


@pytest.mark.parametrize("call", ["scan", "survey", "notes", "abort_uploads", "check"])
async def test_a_listing_that_is_always_cut_is_unavailable(tier: S3Tier, proxy: Proxy, call: str) -> None:
    arguments = {"notes": ("", None, 10), "abort_uploads": (0.0,), "check": ()}.get(call, (None, 10))
    proxy.fault(method="GET", times=math.inf, cut_reply_after=0)
    with pytest.raises(Unavailable):
        await getattr(tier, call)(*arguments)


@pytest.mark.parametrize("body", ["", "<html/>", "<html>please log in<br></html>", "welcome"])
async def test_an_answer_that_is_not_s3_is_not_an_empty_one(
    tier: S3Tier, proxy: Proxy, sources: Sources, body: str
) -> None:
    """A proxy that wants a login, for instance, answers everything with 200."""
    proxy.fault(times=math.inf, status=200, body=body)
    for call in (
        lambda: tier.scan(None, 1),
        lambda: tier.notes("", None, 1),
        lambda: tier.abort_uploads(0),
        lambda: sources.put(tier, SMALL),
        lambda: sources.put(tier, LARGE),
        lambda: tier.put_note("a", b"x"),
        lambda: tier.put_note("a", b"x", only_new=True),
    ):
        with pytest.raises(LfsfsError):
            await call()
    with pytest.raises(LfsfsError):
        await tier.read(Oid.of(LARGE), 5, 10)


async def test_a_listing_is_one_request_for_each_page(tier: S3Tier, proxy: Proxy, sources: Sources) -> None:
    oids = sorted([await sources.put(tier, b"%d" % number) for number in range(20)])
    for limit, requests in ((1000, 1), (20, 1), (7, 1)):
        before = proxy.counters()["GET"]
        assert await tier.scan(None, limit) == oids[:limit]
        assert proxy.counters()["GET"] - before == requests


# Answers that are lost


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["one request", "parts"])
async def test_a_commit_whose_answer_is_lost_has_happened(
    tier: S3Tier, proxy: Proxy, sources: Sources, rgw_server: Server, content: bytes
) -> None:
    oid = Oid.of(content)
    method, path = ("PUT", oid) if content is SMALL else ("POST", "uploadId")
    proxy.fault(method=method, path=path, drop_reply=True)
    await sources.put(tier, content)
    assert await whole(tier, oid) == content
    assert uploads_left(rgw_server, tier) == []


async def test_a_new_note_whose_answer_is_lost_is_ours_and_the_next_is_not(
    tier: S3Tier, proxy: Proxy
) -> None:
    proxy.fault(method="PUT", drop_reply=True)
    assert await tier.put_note("lock", b"mine", only_new=True)
    assert proxy.counters()["PUT"] == 2
    proxy.fault(method="PUT", drop_reply=True)
    assert not await tier.put_note("lock", b"mine", only_new=True), "the same bytes, and not ours"


async def test_a_lost_part_is_sent_again(
    tier: S3Tier, proxy: Proxy, sources: Sources, rgw_server: Server
) -> None:
    proxy.fault(method="PUT", path="partNumber=2", reset_request_after=MIB)
    proxy.fault(method="PUT", path="partNumber=4", drop_reply=True)
    assert await whole(tier, await sources.put(tier, LARGE)) == LARGE
    assert uploads_left(rgw_server, tier) == []


async def test_a_part_that_never_arrives_fails_the_put_and_leaves_nothing(
    tier: S3Tier, proxy: Proxy, sources: Sources, rgw_server: Server
) -> None:
    proxy.fault(method="PUT", path="partNumber=3", times=math.inf, reset_request_after=MIB)
    with pytest.raises(Unavailable, match=Oid.of(LARGE)):
        await sources.put(tier, LARGE)
    assert in_bucket(rgw_server, tier) == []
    assert uploads_left(rgw_server, tier) == []


@pytest.mark.slow
async def test_an_upload_that_cannot_even_be_aborted_is_found_later(
    tier: S3Tier, proxy: Proxy, sources: Sources, rgw_server: Server
) -> None:
    proxy.fault(method="PUT", path="partNumber=3", status=403, code="AccessDenied")
    proxy.fault(method="DELETE", times=math.inf, status=503, code="SlowDown")
    with pytest.raises(LfsfsError, match="AccessDenied"):
        await sources.put(tier, LARGE)
    proxy.clear()
    assert len(uploads_left(rgw_server, tier)) == 1
    assert await tier.abort_uploads(3600) == 0, "it may still be under way"
    assert await tier.abort_uploads(0) == 1
    assert uploads_left(rgw_server, tier) == []


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "parts"])
async def test_what_fails_its_check_while_it_is_sent_never_appears(
    tier: S3Tier, tmp_path: Path, rgw_server: Server, content: bytes
) -> None:
    (tmp_path / "source").write_bytes(content)

    async def check() -> None:
        await trio.sleep(0.2)
        raise LocalDamage("another file than it was")

    with pytest.raises(LocalDamage):
        await tier.put_checked(Oid.of(content), tmp_path / "source", check)
    assert in_bucket(rgw_server, tier) == []
    assert uploads_left(rgw_server, tier) == []


async def test_uploads_of_another_prefix_are_left_alone(
    tier: S3Tier, proxy: Proxy, rgw_server: Server
) -> None:
    with rgw_server.client() as client:
        other = client.create_multipart_upload(Bucket=rgw_server.bucket, Key="somebody/else's")
        for number in range(3):
            client.create_multipart_upload(Bucket=rgw_server.bucket, Key=f"{tier.keys.root}objects/{number}")
        assert await tier.abort_uploads(0) == 3
        assert uploads_left(rgw_server, tier) == []
        client.abort_multipart_upload(
            Bucket=rgw_server.bucket, Key="somebody/else's", UploadId=other["UploadId"]
        )


# Servers that are busy, silent or gone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code"), [(503, "SlowDown"), (503, ""), (500, "InternalError"), (502, ""), (504, "")]
)
async def test_a_server_that_is_busy_for_a_while_is_asked_again(
    tier: S3Tier, proxy: Proxy, sources: Sources, status: int, code: str
) -> None:
    for method in ("PUT", "GET", "HEAD", "DELETE"):
        proxy.fault(method=method, times=2, status=status, code=code)
    oid = await sources.put(tier, SMALL)
    assert await whole(tier, oid) == SMALL
    assert await tier.scan(None, 5) == [oid]
    await tier.delete(oid)
    with pytest.raises(NotFound):
        await tier.size(oid)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (503, "SlowDown", "overloaded"),
        (429, "TooManyRequests", "overloaded"),
        (500, "InternalError", "error of its own"),
        (503, "", "error of its own"),
    ],
)
async def test_a_server_that_stays_busy_is_unavailable(
    tier: S3Tier, proxy: Proxy, sources: Sources, rgw_server: Server, status: int, code: str, said: str
) -> None:
    proxy.fault(times=math.inf, status=status, code=code)
    with pytest.raises(Unavailable, match=said):
        await sources.put(tier, SMALL)
    with pytest.raises(Unavailable):
        await tier.scan(None, 1)
    with pytest.raises(Unavailable, match=said):
        await tier.note("machines/one")
    assert in_bucket(rgw_server, tier) == []


@pytest.mark.slow
async def test_nobody_there_is_unavailable_and_it_works_again_when_somebody_is(
    tier: S3Tier, proxy: Proxy, sources: Sources
) -> None:
    oid = await sources.put(tier, SMALL)
    proxy.down()
    for call in (
        tier.check(),
        tier.size(oid),
        tier.read(oid, 0, 1),
        sources.put(tier, b"x"),
        tier.delete(oid),
    ):
        with pytest.raises(Unavailable, match="is the server up"):
            await call
    proxy.up()
    assert await whole(tier, oid) == SMALL
    await sources.put(tier, b"x")


@pytest.mark.slow
async def test_a_server_that_goes_away_in_the_middle_of_a_body_is_unavailable(
    tier: S3Tier, proxy: Proxy, sources: Sources
) -> None:
    oid = await sources.put(tier, LARGE)
    proxy.fault(method="GET", stall_reply_after=MIB)
    got: list[bytes] = []

    def sink(piece: bytes) -> None:
        got.append(piece)
        if sum(map(len, got)) == MIB:
            proxy.down()

    with pytest.raises(Unavailable):
        await tier.fetch(oid, 0, len(LARGE), sink)
    proxy.up()
    assert b"".join(got) == LARGE[:MIB]


@pytest.mark.slow
async def test_a_silent_server_is_unavailable_by_the_deadline_that_its_timeouts_add_up_to(
    tier: S3Tier, proxy: Proxy
) -> None:
    proxy.fault(times=math.inf, delay=30.0)
    began = trio.current_time()
    with pytest.raises(Unavailable, match="in time"):
        await tier.check()
    assert trio.current_time() - began < 4 * 1.0 + (1 + 2 + 4) + SLACK


@pytest.mark.slow
@pytest.mark.parametrize("call", ["size", "read", "scan", "note", "notes", "check"])
async def test_a_cancelled_question_is_over_at_once(tier: S3Tier, proxy: Proxy, call: str) -> None:
    proxy.fault(times=math.inf, delay=30.0)
    oid = Oid.of(SMALL)
    arguments: dict[str, tuple[Any, ...]] = {
        "size": (oid,),
        "read": (oid, 0, 1),
        "scan": (None, 1),
        "note": ("a",),
        "notes": ("a", None, 1),
        "check": (),
    }
    began = trio.current_time()
    with trio.move_on_after(0.2) as scope:
        await getattr(tier, call)(*arguments[call])
    assert scope.cancelled_caught
    assert trio.current_time() - began < 0.2 + 0.5


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["one request", "parts"])
async def test_a_cancelled_put_is_over_after_the_running_operation_and_has_left_nothing(
    tier: S3Tier, proxy: Proxy, sources: Sources, rgw_server: Server, content: bytes
) -> None:
    proxy.fault(method="PUT", times=math.inf, delay=30.0)
    began = trio.current_time()
    with trio.move_on_after(0.2) as scope:
        await sources.put(tier, content)
    assert scope.cancelled_caught
    assert trio.current_time() - began < 0.2 + 1.0 + 1.0 + SLACK  # its read timeout, and a pause
    assert in_bucket(rgw_server, tier) == []
    assert uploads_left(rgw_server, tier) == []


@pytest.mark.slow
async def test_latency_does_not_add_up_in_a_large_upload(
    tier: S3Tier, proxy: Proxy, sources: Sources
) -> None:
    """Five parts: with 200 ms for each request, one after the other would take 1.6 s and more."""
    proxy.pace(latency=0.2)
    began = trio.current_time()
    await sources.put(tier, LARGE)
    assert proxy.counters()["requests"] == 8  # HEAD, create, 5 parts, complete
    assert trio.current_time() - began < 8 * 0.2 + SLACK


async def test_fetches_of_a_silent_server_that_were_cancelled_hold_up_nobody(
    rgw_server: Server, proxy: Proxy, sources: Sources
) -> None:
    options = rgw_server.options(endpoint=proxy.endpoint, connections=2, read_timeout=60.0)
    async with open_s3(options) as tier:
        oid = await sources.put(tier, LARGE)
        proxy.fault(method="GET", times=2, stall_reply_after=MIB)
        with trio.move_on_after(1.0):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(tier.read, oid, 0, len(LARGE))
        with trio.fail_after(5.0):
            assert await tier.read(oid, 0, len(LARGE)) == LARGE


@pytest.mark.slow
async def test_a_source_that_shrinks_while_it_is_stored_fails_the_put(
    tier: S3Tier, proxy: Proxy, sources: Sources, rgw_server: Server
) -> None:
    source = sources.file(LARGE)
    proxy.fault(method="PUT", path="partNumber=1", delay=0.5)
    proxy.fault(method="PUT", times=3, delay=1.0)

    async def shrink() -> None:
        while proxy.counters()["POST"] < 1:
            await trio.sleep(0.01)
        os.truncate(source, 12 * MIB)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shrink)
        with pytest.raises(LfsfsError, match="changed while it was stored") as caught:
            await tier.put(Oid.of(LARGE), source)
    assert not isinstance(caught.value, Unavailable)
    assert in_bucket(rgw_server, tier) == []
    assert uploads_left(rgw_server, tier) == []


# Bytes that are damaged


async def test_bytes_damaged_on_their_way_are_refused_by_the_server(
    tier: S3Tier, proxy: Proxy, sources: Sources, rgw_server: Server
) -> None:
    """Over http the signature covers them."""
    for content, path in ((SMALL, Oid.of(SMALL)), (LARGE, "partNumber=3")):
        proxy.fault(method="PUT", path=path, flip_request_byte=7)
        with pytest.raises(HashMismatch, match="damaged on their way"):
            await sources.put(tier, content)
    assert in_bucket(rgw_server, tier) == []
    assert uploads_left(rgw_server, tier) == []


async def test_bytes_damaged_behind_tls_are_refused_by_the_server_too(
    rgw_server: Server, tls_proxy: Proxy, certificate: Path, sources: Sources
) -> None:
    """There the signature does not cover them, and Content-MD5 does."""
    options = rgw_server.options(endpoint=tls_proxy.endpoint, ca_bundle=certificate, part_size=5 * MIB)
    async with open_s3(options) as tier:
        for content, path in ((SMALL, Oid.of(SMALL)), (LARGE, "partNumber=3")):
            tls_proxy.fault(method="PUT", path=path, flip_request_byte=7)
            with pytest.raises(HashMismatch, match="damaged on their way"):
                await sources.put(tier, content)
        assert in_bucket(rgw_server, tier) == []
        for content in (SMALL, LARGE):
            assert await whole(tier, await sources.put(tier, content)) == content
