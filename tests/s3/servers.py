"""Real S3 servers, each a process of its own on the loopback, and places in them to work in."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from lfsfs.config import S3Options, S3Url

START_SECONDS = 60.0
BUCKET = "lfsfs-tests"
CEPH = Path(__file__).parents[2] / "scripts" / "ceph"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Server:
    """A server that runs, with a bucket and who may use it."""

    name: str
    endpoint: str
    access_key_id: str = "tester"
    secret_access_key: str = "tester-secret"
    bucket: str = BUCKET
    directory: Path | None = None
    """Ceph's."""

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def options(self, **changes: Any) -> S3Options:
        """For a place in the bucket that nobody else uses."""
        options = S3Options(
            S3Url(self.bucket, f"test {next(_numbers)}/{os.getpid()}"),
            endpoint=self.endpoint,
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            connect_timeout=5.0,
            read_timeout=10.0,
        )
        return replace(options, **changes)

    def another_user(self, name: str) -> "Server":
        """The same server as a user sees it who has nothing in it. Ceph only."""
        assert self.directory is not None
        keys = f"--access-key {name} --secret-key {name}-secret".split()
        user = ["user", "create", "--uid", name, "--display-name", name, *keys]
        conf = str(self.directory / "ceph.conf")
        subprocess.run(
            ["radosgw-admin", "--conf", conf, "-n", "client.rgw", *user], check=True, capture_output=True
        )
        return replace(self, access_key_id=name, secret_access_key=f"{name}-secret")

    def allow(self, user: str, *actions: str) -> None:
        """Lets another user do that with the bucket and all that is in it, and nothing else."""
        bucket = f"arn:aws:s3:::{self.bucket}"
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]},
            "Action": [f"s3:{action}" for action in actions],
            "Resource": [bucket, f"{bucket}/*"],
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        with self.client() as client:
            client.put_bucket_policy(Bucket=self.bucket, Policy=json.dumps(policy))

    @contextmanager
    def client(self) -> Iterator[Any]:
        """boto3 itself, to look at what is there, and to prepare what the tier shall find."""
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(max_pool_connections=32),
        )
        try:
            yield client
        finally:
            client.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def moto(log: Path) -> Iterator[Server]:
    """moto's server: up in a second or two; checks no signatures."""
    server = Server("moto", f"http://127.0.0.1:{free_port()}")
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server.port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until_up(server, process)
        make_bucket(server)
        yield server
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def ceph(directory: Path, port: int | None = None, **environment: str) -> Iterator[Server]:
    """Ceph's S3 gateway over a monitor and an OSD: up in a few seconds; checks signatures."""
    server = Server("rgw", f"http://127.0.0.1:{port or free_port()}", directory=directory)
    subprocess.run([CEPH, "start", directory, str(server.port)], check=True, env=os.environ | environment)
    try:
        wait_until_up(server)
        make_bucket(server)
        yield server
    finally:
        subprocess.run([CEPH, "stop", directory], check=True)


def wait_until_up(server: Server, process: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(server.endpoint, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            return  # it answers
        except OSError as error:
            ended = process is not None and process.poll() is not None
            assert not ended, f"{server.name} ended by itself"
            assert time.monotonic() < deadline, f"{server.name} does not answer: {error}"
        time.sleep(0.1)


def make_bucket(server: Server, bucket: str = BUCKET) -> None:
    with server.client() as client:
        client.create_bucket(Bucket=bucket)
