"""lfsfs doctor: what it finds on servers that differ, what it says where something is wrong, and that it cleans up."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .proxy import Proxy
from .servers import Server, free_port

LFSFS = Path(sys.executable).with_name("lfsfs")


def doctor(
    server: Server,
    *arguments: str,
    endpoint: str | None = None,
    bucket: str | None = None,
    under: tuple[str, ...] = (),
    **environment: str,
) -> "subprocess.CompletedProcess[str]":
    """The command as a person runs it, with the credentials in the environment."""
    keys = {
        "AWS_ACCESS_KEY_ID": server.access_key_id,
        "AWS_SECRET_ACCESS_KEY": server.secret_access_key,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    url = f"s3://{bucket or server.bucket}/the doctor/visits"
    command = [*under, LFSFS, "doctor", url, "--s3-endpoint", endpoint or server.endpoint, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | keys | environment
    )


def verdicts(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    return {finding["name"]: finding["verdict"] for finding in report["findings"]}


def left_behind(server: Server) -> list[Any]:
    with server.client() as client:
        place = {"Bucket": server.bucket, "Prefix": "the doctor"}
        return [
            *client.list_objects_v2(**place).get("Contents", []),
            *client.list_multipart_uploads(**place).get("Uploads", []),
        ]


# What it finds. S3.md's table, as far as lfsfs depends on it.

ALL = {
    "clock",
    "writes",
    "ranges",
    "listing",
    "multipart upload",
    "abandoned uploads",
    "If-None-Match of a put",
    "… with one winner",
    "If-None-Match of a complete",
    "SHA-256",
    "Content-MD5",
    "damage is noticed",
    "boto3's own checksums",
    "metadata",
    "delete of many",
}


def test_ceph_lacks_conditional_completes_and_sha256(rgw_server: Server) -> None:
    found = verdicts(doctor(rgw_server, "--json"))
    assert set(found) == ALL
    assert {name for name in found if found[name] != "yes"} == {"If-None-Match of a complete", "SHA-256"}
    assert left_behind(rgw_server) == []


@pytest.mark.slow
def test_ceph_behind_tls_does_not_take_the_checksums_that_boto3_adds(
    rgw_server: Server,
    tls_proxy: Proxy,
    certificate: Path,
) -> None:
    done = doctor(rgw_server, "--json", endpoint=tls_proxy.endpoint, AWS_CA_BUNDLE=str(certificate))
    found = verdicts(done)
    lacking = {"If-None-Match of a complete", "SHA-256", "boto3's own checksums"}
    assert {name for name in found if found[name] != "yes"} == lacking
    options = json.loads(done.stdout)["boto"]
    assert options["request_checksum_calculation"] == "when_required"
    assert options["guard against damage"] == "Content-MD5"
    assert left_behind(rgw_server) == []


@pytest.mark.slow
def test_moto_notices_no_damage(moto_server: Server) -> None:
    """Its conditional puts hold nothing locked: which of a crowd win depends on its threads; either is true of it."""
    found = verdicts(doctor(moto_server, "--json"))
    lacking = {name for name in found if found[name] != "yes"} - {"… with one winner"}
    assert lacking == {"SHA-256", "Content-MD5", "damage is noticed"}
    assert left_behind(moto_server) == []


def test_the_table_says_what_is_amiss_and_what_it_means(rgw_server: Server) -> None:
    done = doctor(rgw_server)
    assert done.returncode == 0
    assert re.search(r"^  ok +… with one winner +12 at once, 3 times: winners 1, 1, 1$", done.stdout, re.M)
    assert re.search(r"^  no +SHA-256 +ignored\n +harmless as long as", done.stdout, re.M)
    assert "lfsfs can keep its objects there: lfsfs mount STORE MNT --s3 s3://" in done.stdout


@pytest.mark.slow
def test_credentials_and_address_may_stand_in_the_configuration(
    rgw_server: Server,
    tmp_path: Path,
) -> None:
    file = tmp_path / "lfsfs.toml"
    file.write_text(
        f'[s3]\nurl = "s3://{rgw_server.bucket}/the doctor"\nendpoint = "{rgw_server.endpoint}"\n'
        f'access_key_id = "{rgw_server.access_key_id}"\nsecret_access_key = "{rgw_server.secret_access_key}"\n'
    )
    command = [LFSFS, "doctor", "--config", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rgw_server.secret_access_key not in done.stdout + done.stderr


def test_without_an_address_it_asks_for_one() -> None:
    arguments = ["doctor", "--s3-endpoint", "http://127.0.0.1:1"]
    done = subprocess.run([LFSFS, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no address: give --s3 s3://BUCKET/PREFIX" in done.stderr


# A server that differs: what the proxy does to Ceph.


@pytest.mark.slow
def test_a_server_that_ignores_if_none_match_has_no_single_winner(moto_server: Server) -> None:
    with Proxy(moto_server.port) as proxy:
        proxy.fault(times=math.inf, method="PUT", drop_field="if-none-match")
        done = doctor(moto_server, "--json", endpoint=proxy.endpoint)
    found = verdicts(done)
    assert found["If-None-Match of a put"] == "no"
    assert found["… with one winner"] == "no"
    assert "unconditional" in json.loads(done.stdout)["boto"]["commits"]


@pytest.mark.slow
def test_a_server_that_knows_no_ranges_cannot_be_used(moto_server: Server) -> None:
    with Proxy(moto_server.port) as proxy:
        proxy.fault(times=math.inf, method="GET", drop_field="range")
        done = doctor(moto_server, endpoint=proxy.endpoint)
    assert done.returncode == 1
    assert re.search(r"FAILS +ranges", done.stdout)
    assert "it cannot use this server" in done.stdout
    assert "lfsfs cannot keep its objects there" in done.stdout
    assert left_behind(moto_server) == []


def test_a_bucket_that_may_only_be_read(rgw_server: Server) -> None:
    reader = rgw_server.another_user("only-reads")
    rgw_server.allow("only-reads", "ListBucket", "GetObject")
    done = doctor(reader)
    assert done.returncode == 1
    assert re.search(r"FAILS +writes +403 AccessDenied\n +the bucket is read-only for these", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("minutes", ["-20", "+20"])
def test_a_machine_whose_clock_is_wrong(rgw_server: Server, minutes: str) -> None:
    done = doctor(rgw_server, under=("faketime", f"{minutes} minutes"))
    assert done.returncode == 1
    assert re.search(
        r"RequestTimeTooSkewed.*: the clock of this machine .*: set it \(timedatectl", done.stdout
    )


def test_clocks_that_are_apart(rgw_server: Server, proxy: Proxy) -> None:
    proxy.fault(times=math.inf, replace_date="Thu, 01 Jan 2026 00:00:00 GMT")
    done = doctor(rgw_server, endpoint=proxy.endpoint)
    assert re.search(
        r"no +clock +answers in \d+ ms; clocks \d{5,} s apart\n +set this machine's", done.stdout
    )


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "check AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "does not know this access key id"),
    ],
)
def test_wrong_credentials(rgw_server: Server, environment: dict[str, str], said: str) -> None:
    done = doctor(rgw_server, **environment)
    assert done.returncode == 1
    assert re.search(r"FAILS +reachable\n", done.stdout)
    assert said in done.stdout


def test_a_missing_bucket(rgw_server: Server) -> None:
    done = doctor(rgw_server, bucket="no-such-bucket")
    assert done.returncode == 1
    assert "there is no such bucket: make it" in done.stdout


def test_a_closed_port(rgw_server: Server) -> None:
    done = doctor(rgw_server, endpoint=f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "nobody answers" in done.stdout
