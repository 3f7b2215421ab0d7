"""Machines on one bucket as people have them: each a store directory, a mount and a daemon of its own."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitlfs.bench import file_in, oid_of, oids_in
from gitlfs.mounted import Mount, is_running, lfsfs, within

from .servers import Server

KIB, MIB = 1 << 10, 1 << 20
SYNC_SECONDS = 120
SAMPLE_SECONDS = 0.002
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


@dataclass(frozen=True)
class Place:
    """A bucket and a prefix that nobody else uses; `endpoint` is where the machines reach it."""

    server: Server
    endpoint: str
    prefix: str

    @property
    def url(self) -> str:
        return f"s3://{self.server.bucket}/{self.prefix}"

    def _key(self, oid: str) -> str:
        return f"{self.prefix}/objects/{oid[:2]}/{oid[2:4]}/{oid}"

    def oids(self) -> set[str]:
        with self.server.client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.server.bucket, Prefix=f"{self.prefix}/objects/"
            )
            return {item["Key"].rpartition("/")[2] for page in pages for item in page.get("Contents", [])}

    def get(self, oid: str) -> bytes:
        with self.server.client() as client:
            return bytes(client.get_object(Bucket=self.server.bucket, Key=self._key(oid))["Body"].read())

    def put(self, oid: str, content: bytes) -> None:
        with self.server.client() as client:
            client.put_object(Bucket=self.server.bucket, Key=self._key(oid), Body=content)

    def flip(self, oid: str, at: int) -> None:
        """One bit at that offset."""
        content = bytearray(self.get(oid))
        content[at] ^= 1
        self.put(oid, bytes(content))

    def damaged(self) -> set[str]:
        """The objects that are there and do not have the SHA-256 of their name."""
        with self.server.client() as client:
            return {oid for oid in self.oids() if self._sha256(client, oid) != oid}

    def _sha256(self, client: Any, oid: str) -> str:
        digest = hashlib.sha256()
        body = client.get_object(Bucket=self.server.bucket, Key=self._key(oid))["Body"]
        for piece in body.iter_chunks(MIB):
            digest.update(piece)
        return digest.hexdigest()

    def uploads_under_way(self) -> list[str]:
        """The keys of multipart uploads that were begun and not ended."""
        with self.server.client() as client:
            pages = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.server.bucket, Prefix=f"{self.prefix}/"
            )
            return [item["Key"] for page in pages for item in page.get("Uploads", [])]


class Machine(Mount):
    """`with Machine(folder, place, "--mode", …) as machine`: mounted with S3 behind, taken down at the end.

    `cache` and `s3` are lines for these sections of STORE/lfsfs.toml.
    """

    def __init__(
        self,
        folder: Path,
        place: Place,
        *options: str,
        cache: str = "",
        s3: str = "",
        disk: Path | None = None,
    ) -> None:
        super().__init__(folder, "--s3", place.url, "--s3-endpoint", place.endpoint, *options)
        if disk is not None:
            self.store = disk / "store"
        self.store.mkdir(exist_ok=True)
        text = f'[cache]\n{cache}\n[s3]\npart_size = "5MiB"\nread_timeout = "2s"\n{s3}\n'
        (self.store / "lfsfs.toml").write_text(text)

    @property
    def objects(self) -> Path:
        """The shared root's."""
        return self.path / "objects"

    def object(self, oid: str) -> Path:
        return file_in(self.objects, oid)

    def drop(self, name: str, content: bytes) -> str:
        """Writes a file of incoming/; its oid."""
        file = self.path / "incoming" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return oid_of(content)

    def read(self, oid: str) -> bytes:
        return self.object(oid).read_bytes()

    def sync(self, seconds: float = SYNC_SECONDS) -> None:
        """Returns when S3 has everything."""
        timeout = f"{seconds:.0f}"
        lfsfs("sync", "--wait", "--timeout", timeout, "--store", self.store, seconds=seconds + 30)

    def remote(self) -> dict[str, Any]:
        """What `lfsfs status` says of the remote tier."""
        found: dict[str, Any] = json.loads(lfsfs("status", "--json", "--store", self.store))["remote"]
        return found

    def local(self) -> set[str]:
        """The oids whose bytes are on the local disk."""
        return oids_in(self.store / "objects")

    def kill(self) -> None:
        """kill -9, and what a person does then before the next mount."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        assert within(15, lambda: not is_running(pid))
        subprocess.run([*AS_ROOT, "umount", "-l", self.path], check=True, timeout=60)


def failure(call: Any, *arguments: Any) -> str:
    """The name of the errno that it fails with; empty if it does not."""
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


@contextmanager
def disk_of_its_own(folder: Path) -> Iterator[Path]:
    """A file system in memory, so that its statvfs(2) tells to the byte, at one moment, what lies in it."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size=8g,mode=0777,uid={os.getuid()}", "lfsfs-tests", folder]
    subprocess.run([*AS_ROOT, *mount], check=True, timeout=60)
    try:
        yield folder
    finally:
        subprocess.run([*AS_ROOT, "umount", "-l", folder], check=True, timeout=60)


class Sampler(threading.Thread):
    """Looks at what a file system holds every few milliseconds, from `with` to its end."""

    def __init__(self, disk: Path) -> None:
        super().__init__(daemon=True)
        self.disk = disk
        self.peak = 0
        self.looks = 0
        self._ended = threading.Event()

    def __enter__(self) -> "Sampler":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            found = os.statvfs(self.disk)
            self.peak = max(self.peak, (found.f_blocks - found.f_bfree) * found.f_frsize)
            self.looks += 1


def until(seconds: float, true: Any, what: str) -> None:
    """Fails unless it becomes true in so many seconds."""
    started = time.monotonic()
    assert within(seconds, true), f"{what}: not within {time.monotonic() - started:.0f} s"
