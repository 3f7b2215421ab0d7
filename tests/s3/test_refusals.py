"""What is wrong with an address, a key or a bucket is told in words that say what to do."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiers.conformance import Sources

from lfsfs.config import S3Options, S3Url
from lfsfs.errors import Denied, InvalidConfig, LfsfsError, NoSpace, NotFound, ReadOnly, Unavailable
from lfsfs.oid import Oid
from lfsfs.tiers.s3 import open_s3

from .proxy import Proxy
from .servers import Server, free_port


async def refused(options: S3Options, kind: type[LfsfsError]) -> str:
    """What `check` says, in an error of this kind."""
    async with open_s3(options) as tier:
        with pytest.raises(kind) as caught:
            await tier.check()
    return str(caught.value)


async def test_a_wrong_secret(rgw_server: Server) -> None:
    said = await refused(rgw_server.options(secret_access_key="wrong"), Denied)
    assert "SignatureDoesNotMatch" in said
    assert "check AWS_SECRET_ACCESS_KEY" in said


async def test_an_unknown_access_key(rgw_server: Server) -> None:
    said = await refused(rgw_server.options(access_key_id="nobody"), Denied)
    assert "does not know this access key id: set AWS_ACCESS_KEY_ID" in said


async def test_no_credentials_at_all(
    rgw_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    said = await refused(rgw_server.options(access_key_id=None, secret_access_key=None), Denied)
    assert "no credentials were found: set AWS_ACCESS_KEY_ID" in said


async def test_credentials_of_the_environment_are_used(
    rgw_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw_server.secret_access_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", rgw_server.endpoint)
    async with open_s3(S3Options(S3Url(rgw_server.bucket))) as tier:
        await tier.check()


async def test_a_bucket_that_is_not_there(rgw_server: Server, sources: Sources) -> None:
    options = rgw_server.options(url=S3Url("no-such-bucket"))
    said = await refused(options, InvalidConfig)
    assert "bucket no-such-bucket: NoSuchBucket: there is no such bucket: make it, or correct" in said
    async with open_s3(options) as tier:
        with pytest.raises(InvalidConfig, match="no such bucket"):
            await sources.put(tier, b"x")


async def test_a_bucket_of_somebody_else(rgw_server: Server) -> None:
    other = rgw_server.another_user("stranger")
    said = await refused(other.options(), Denied)
    assert "AccessDenied: these credentials may not do that: check the policy" in said


async def test_a_port_where_nobody_listens(rgw_server: Server) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    said = await refused(rgw_server.options(endpoint=endpoint), Unavailable)
    assert f"nobody answers at {endpoint}: is the server up, are endpoint and network right?" in said


async def test_https_where_the_server_speaks_http(rgw_server: Server) -> None:
    endpoint = rgw_server.endpoint.replace("http://", "https://")
    said = await refused(rgw_server.options(endpoint=endpoint), InvalidConfig)
    assert "the server does not speak it: give the endpoint as http://" in said


async def test_http_where_the_server_speaks_https(rgw_server: Server, tls_proxy: Proxy) -> None:
    endpoint = tls_proxy.endpoint.replace("https://", "http://")
    said = await refused(rgw_server.options(endpoint=endpoint), InvalidConfig)
    assert f"{endpoint} speaks TLS: give the endpoint as {tls_proxy.endpoint}" in said


async def test_a_certificate_that_nobody_trusts(
    rgw_server: Server, tls_proxy: Proxy, certificate: Path
) -> None:
    options = rgw_server.options(endpoint=tls_proxy.endpoint)
    said = await refused(options, InvalidConfig)
    assert "does not trust its certificate: give its authority as ca_bundle in [s3]" in said
    async with open_s3(replace(options, ca_bundle=certificate)) as tier:
        await tier.check()


async def test_files_that_are_not_there_or_not_keys(rgw_server: Server, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"x" * 31)
    for changes, said in [
        ({"ca_bundle": tmp_path / "absent"}, "ca_bundle in .s3.: .*absent: there is no such file"),
        ({"sse": "c", "customer_key": tmp_path / "absent"}, "customer_key in .s3.: .*absent: No such file"),
        ({"sse": "c", "customer_key": short}, "has 31 bytes: it must have 32"),
    ]:
        with pytest.raises(InvalidConfig, match=said):
            async with open_s3(rgw_server.options(**changes)):
                pass


FORGED: dict[str, tuple[int, type[LfsfsError], str]] = {
    "ExpiredToken": (400, Denied, "get new ones, and set AWS_SESSION_TOKEN"),
    "InvalidToken": (400, Denied, "unset AWS_SESSION_TOKEN"),
    "RequestTimeTooSkewed": (403, Denied, "clock of this machine and the server's differ too much: set it"),
    "AuthorizationHeaderMalformed": (400, InvalidConfig, "region is not the bucket's: set AWS_REGION"),
    "PermanentRedirect": (301, InvalidConfig, "the bucket is in another region"),
    "AllAccessDisabled": (403, Denied, "all access to the bucket is switched off"),
    "QuotaExceeded": (403, NoSpace, "quota of the bucket or the user is used up"),
    "MethodNotAllowed": (405, ReadOnly, "may be read-only"),
    "InvalidObjectState": (403, LfsfsError, "archived: restore it first"),
}


@pytest.mark.slow
@pytest.mark.parametrize("code", FORGED)
async def test_what_only_other_servers_say(rgw_server: Server, proxy: Proxy, code: str) -> None:
    status, kind, hint = FORGED[code]
    proxy.fault(times=math.inf, status=status, code=code, message="as the server says")
    said = await refused(rgw_server.options(endpoint=proxy.endpoint), kind)
    assert f"{code} (as the server says): " in said
    assert hint in said


@pytest.mark.slow
@pytest.mark.parametrize("status", [301, 302, 307])
async def test_a_server_that_sends_everybody_elsewhere(rgw_server: Server, proxy: Proxy, status: int) -> None:
    """As those do that want https. boto3 asked it for the bucket's region, without end."""
    proxy.fault(times=math.inf, status=status)
    said = await refused(rgw_server.options(endpoint=proxy.endpoint), InvalidConfig)
    assert "the server sends us elsewhere" in said


async def test_a_bucket_that_vanishes(rgw_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only a HEAD is asked, whose answer has no words."""
    monkeypatch.setattr("lfsfs.tiers.s3.tier.BUCKET_SECONDS", 0.0)
    options = rgw_server.options()
    bucket = "lfsfs-vanishes"
    with rgw_server.client() as client:
        client.create_bucket(Bucket=bucket)
        async with open_s3(replace(options, url=replace(options.url, bucket=bucket))) as tier:
            await tier.check()
            with pytest.raises(NotFound):
                await tier.size(Oid.of(b"absent"))
            client.delete_bucket(Bucket=bucket)
            with pytest.raises(InvalidConfig, match="there is no such bucket: make it"):
                await tier.size(Oid.of(b"absent"))


async def test_a_bucket_that_may_only_be_read(rgw_server: Server, sources: Sources) -> None:
    options = rgw_server.options()
    async with open_s3(options) as tier:
        oid = await sources.put(tier, b"before")
    reader = rgw_server.another_user("read-only")
    rgw_server.allow("read-only", "ListBucket", "GetObject")
    async with open_s3(reader.options(url=options.url)) as tier:
        await tier.check()
        with pytest.raises(Denied, match=f"cannot store {'[0-9a-f]' * 64}: .* may not do that"):
            await sources.put(tier, b"x")
        with pytest.raises(Denied, match="cannot write a"):
            await tier.put_note("a", b"x")
        assert await tier.read(oid, 0, 10) == b"before"
        assert await tier.scan(None, 9) == [oid]


# What a server does not have


@pytest.mark.slow
@pytest.mark.parametrize(("refusals", "asked"), [(0, (True, True)), (1, (True, False)), (2, (False, False))])
@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
async def test_what_a_server_refuses_it_is_not_asked_again(
    rgw_server: Server,
    proxy: Proxy,
    sources: Sources,
    refusals: int,
    asked: tuple[bool, bool],
    status: int,
    code: str,
) -> None:
    async with open_s3(rgw_server.options(endpoint=proxy.endpoint)) as tier:
        proxy.fault(times=refusals, method="PUT", status=status, code=code)
        await sources.put(tier, b"one")
        assert (tier.uploads.asked.only_new, tier.uploads.asked.checksum) == asked
        await sources.put(tier, b"two")
        assert proxy.counters()["PUT"] == 2 + refusals


async def test_what_a_server_refuses_in_any_form_is_told_and_nothing_is_learned(
    rgw_server: Server, proxy: Proxy, sources: Sources
) -> None:
    async with open_s3(rgw_server.options(endpoint=proxy.endpoint)) as tier:
        proxy.fault(times=3, method="PUT", status=400, code="InvalidRequest", message="no such key of KMS")
        with pytest.raises(LfsfsError, match="no such key of KMS"):
            await sources.put(tier, b"one")
        assert tier.uploads.asked.only_new
        assert tier.uploads.asked.checksum


async def test_a_new_note_needs_conditional_writes(rgw_server: Server, proxy: Proxy) -> None:
    async with open_s3(rgw_server.options(endpoint=proxy.endpoint)) as tier:
        proxy.fault(method="PUT", status=501, code="NotImplemented")
        with pytest.raises(LfsfsError, match="has no conditional writes"):
            await tier.put_note("a", b"x", only_new=True)


async def test_an_object_of_the_wrong_size_is_damaged_and_is_replaced(
    rgw_server: Server, sources: Sources
) -> None:
    async with open_s3(rgw_server.options(part_size=5 << 20)) as tier:
        for content in (b"0123456789", bytes(7 << 20)):
            oid = await sources.put(tier, content)
            with rgw_server.client() as client:
                client.put_object(Bucket=rgw_server.bucket, Key=tier.keys.key(oid), Body=content[:-1])
            await sources.put(tier, content)
            assert await tier.size(oid) == len(content)


def test_a_message_never_shows_a_secret(rgw_server: Server) -> None:
    assert rgw_server.secret_access_key not in repr(rgw_server.options())


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources")


@pytest.mark.parametrize(
    ("addressing", "endpoint", "host"),
    [
        ("auto", "https://s3.example.org", "s3.example.org/bucket"),
        ("auto", None, "bucket.s3"),
        ("path", None, "amazonaws.com/bucket"),
        ("virtual", "https://s3.example.org", "bucket.s3.example.org"),
    ],
)
async def test_where_the_bucket_stands_in_the_address(
    addressing: Any, endpoint: str | None, host: str
) -> None:
    keys = {"access_key_id": "a", "secret_access_key": "b", "region": "eu-west-1"}
    options = S3Options(S3Url("bucket"), endpoint=endpoint, addressing=addressing, **keys)
    async with open_s3(options) as tier:
        url = tier.client.boto.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key"})
    assert host in url.partition("?")[0]
