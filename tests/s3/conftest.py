"""Servers that all tests of a session share, and a tier in each."""

import json
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .machines import Place
from .proxy import Proxy
from .servers import Server, ceph, moto
from .stores import bucket, machine

__all__ = ["bucket", "machine"]  # fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs Ceph is not in the quick subset."""
    for item in items:
        if "rgw_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


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


@pytest.fixture
def place(rgw_server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Place:
    """For whole machines, which have their credentials from the environment."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw_server.secret_access_key)
    return Place(rgw_server, proxy.endpoint, rgw_server.options().url.prefix)


@pytest.fixture(scope="session")
def reader(rgw_server: Server) -> Server:
    """The same bucket as a user sees it who may read it, and nothing else."""
    reader = rgw_server.another_user("reader")
    actions = ["s3:GetObject", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = [f"arn:aws:s3:::{rgw_server.bucket}", f"arn:aws:s3:::{rgw_server.bucket}/*"]
    principal = {"AWS": ["arn:aws:iam:::user/reader"]}
    statement = {"Effect": "Allow", "Principal": principal, "Action": actions, "Resource": resources}
    with rgw_server.client() as client:
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        client.put_bucket_policy(Bucket=rgw_server.bucket, Policy=policy)
    return reader


LOG_TAIL = 6000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the daemons had to say."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and isinstance(folder, Path):
        for log in sorted(folder.glob("**/store/daemon.log")):
            report.sections.append((str(log), log.read_text(errors="replace")[-LOG_TAIL:]))
    return report
