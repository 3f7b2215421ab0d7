"""Every option of [s3] with a mount, on a server that has what it asks for; and what only some servers say."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gitlfs.mounted import lfsfs

from .machines import KIB, MIB, Machine, Place
from .proxy import Proxy
from .servers import Server
from .test_mounts_on_s3 import refusal

Options = Callable[[Path], str]
OPTIONS: dict[str, tuple[str, Options]] = {
    "layout flat": ("rgw", lambda folder: 'layout = "flat"'),
    "layout aa-bb-rest": ("rgw", lambda folder: 'layout = "aa/bb/rest"'),
    "path and region": ("rgw", lambda folder: 'addressing = "path"\nregion = "eu-central-1"'),
    "CA bundle": ("tls", lambda folder: f'ca_bundle = "{folder}/ca.pem"'),
    "SSE-C behind TLS": (
        "tls",
        lambda folder: f'ca_bundle = "{folder}/ca.pem"\nsse = "c"\ncustomer_key = "{folder}/key"',
    ),
    "SSE-KMS": ("rgw", lambda folder: 'sse = "kms"\nkms_key = "testkey-1"'),
    "SSE-S3 and storage class": ("moto", lambda folder: 'sse = "s3"\nstorage_class = "STANDARD_IA"'),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OPTIONS))
def test_objects_go_to_the_bucket_and_an_empty_machine_gets_them_back(
    tmp_path: Path, place: Place, tls_proxy: Proxy, certificate: Path, moto_server: Server, name: str
) -> None:
    where, options = OPTIONS[name]
    endpoints = {"rgw": place.endpoint, "tls": tls_proxy.endpoint, "moto": moto_server.endpoint}
    servers = {"moto": replace(place.server, bucket=moto_server.bucket)}
    place = replace(place, endpoint=endpoints[where], server=servers.get(where, place.server))
    shutil.copy(certificate, tmp_path / "ca.pem")
    (tmp_path / "key").write_bytes(os.urandom(32))
    contents = {size: os.urandom(size) for size in (10, 300 * KIB, 11 * MIB)}
    with Machine(tmp_path / "a", place, s3=options(tmp_path)) as a:
        for size, content in contents.items():
            a.drop(f"d/{size}", content)
        a.sync()
        file = shutil.copy(a.store / "lfsfs.toml", tmp_path / "machine.toml")
        a.stop()
        shutil.rmtree(a.store)
        remote = ("--s3", place.url, "--s3-endpoint", place.endpoint)
        lfsfs("index", "rebuild", "--store", a.store, *remote, "--config", file, seconds=200)
        shutil.copy(file, a.store / "lfsfs.toml")
        a.start()
        for size, content in contents.items():
            assert (a.path / "incoming/d" / str(size)).read_bytes() == content


@pytest.mark.slow
def test_a_rebuild_keeps_the_options_of_the_mount(tmp_path: Path, place: Place) -> None:
    with Machine(tmp_path / "a", place, "--cache-size", "123MiB", s3='layout = "flat"') as a:
        oid = a.drop("file", b"content")
        a.sync()
        a.stop()
        (a.store / "lfsfs.toml").unlink()
        lfsfs("index", "rebuild", "--store", a.store, "--s3", place.url)
        assert a.remote()["cache_limit"] == 123 * MIB
        a.options = ()
        a.start()
        assert a.read(oid) == b"content"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ExpiredToken", "get new ones, and set AWS_SESSION_TOKEN with them"),
        ("RequestTimeTooSkewed", "timedatectl"),
        ("AuthorizationHeaderMalformed", "set AWS_REGION, or region in"),
    ],
)
def test_what_only_other_servers_say_is_said_at_the_mount(
    tmp_path: Path, place: Place, proxy: Proxy, code: str, said: str
) -> None:
    proxy.fault(times=100, status=400 if code != "RequestTimeTooSkewed" else 403, code=code)
    assert said in refusal(tmp_path, place)


@pytest.mark.slow
def test_a_mount_that_names_only_the_size_of_the_cache_keeps_the_bucket(tmp_path: Path, place: Place) -> None:
    with Machine(tmp_path / "a", place) as a:
        a.drop("f", b"content")
        a.sync()
        a.stop()
        (a.store / "lfsfs.toml").unlink()
        lfsfs("mount", a.store, a.path, "--cache-size", "123MiB")
        assert json.loads((a.path / ".lfsfs/status").read_text())["remote"]["cache_limit"] == 123 * MIB
        assert (a.path / "incoming/f").read_bytes() == b"content"
