"""Servers that all tests of a session share, and a tier in each."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .proxy import Proxy
from .servers import Server, ceph, moto


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def rgw_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture
def proxy(rgw_server: Server) -> Iterator[Proxy]:
    """Between us and Ceph."""
    with Proxy(rgw_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For TLS on 127.0.0.1: a private key and a certificate that nobody signed but itself, in one file."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    options = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=lfsfs-tests -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(
        ["openssl", *options.split(), "-keyout", file, "-out", file], check=True, capture_output=True
    )
    return file


@pytest.fixture
def tls_proxy(rgw_server: Server, certificate: Path) -> Iterator[Proxy]:
    """Speaks TLS to us and plain HTTP to Ceph."""
    with Proxy(rgw_server.port, certificate) as proxy:
        yield proxy
