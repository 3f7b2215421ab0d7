"""The group s3 of scripts/bench: a mount with Ceph behind it, beside boto3 on the same bucket and the same disk.

boto3 is what a program would use instead: its own parallel transfers with its defaults, in this process, warmed up.
The mount is a daemon of its own, as always; what it reads is in its bucket only, and never twice the same object.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from bare_fuse import bare
from bench import Row

LFSFS = Path(sys.executable).with_name("lfsfs")
CEPH = Path(__file__).with_name("ceph")
BUCKET = "bench"
KEYS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "tester-secret",
    "AWS_CONFIG_FILE": "/dev/null",
}
MIB = 1 << 20
READ_BYTES = 256 * MIB
WARM_BYTES = 2 * MIB
WRITE_BYTES = 256 * MIB
COLD_BYTES = 1 << 30
SMALL_FILES = 1_000
SMALL_BYTES = 4096
WRITERS = 16
MOUNT_SECONDS = 20.0
PEERS = {"s3fs": "s3fs", "rclone": "rclone"}


class Bench:
    """A mount on a bucket, boto3 on the same one, and a folder on the same disk."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.endpoint = endpoint
        self.s3: Any = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self.s3.create_bucket(Bucket=BUCKET)
        self.number = 0

    @contextmanager
    def mounted(self, name: str, *options: str) -> Iterator[Path]:
        """A machine of its own on the bucket; its mountpoint."""
        store, mountpoint = self.folder / name, self.folder / f"{name}.mnt"
        run(
            LFSFS,
            "mount",
            store,
            mountpoint,
            "--s3",
            f"s3://{BUCKET}/lfsfs",
            "--s3-endpoint",
            self.endpoint,
            *options,
        )
        try:
            yield mountpoint
        finally:
            run(LFSFS, "unmount", mountpoint)
            shutil.rmtree(store)

    def noise(self, size: int) -> Path:
        """A file that is like no other."""
        self.number += 1
        path = self.folder / f"noise-{self.number}"
        piece = bytearray(os.urandom(MIB))
        with path.open("wb") as file:
            for number in range(-(-size // MIB)):
                piece[:8] = number.to_bytes(8, "big")
                file.write(piece[: min(MIB, size - number * MIB)])
        return path

    def stored(self, size: int) -> str:
        """An object that lfsfs has put into the bucket, and no machine has on its disk; its oid."""
        source = self.noise(size)
        with self.mounted("putter", "--mode", "s3-only", "--durability", "fast") as mountpoint:
            shutil.copyfile(source, mountpoint / "incoming" / "file")
        with source.open("rb") as file:
            oid = hashlib.file_digest(file, "sha256").hexdigest()
        source.unlink()
        return oid

    def forget(self, source: Path) -> None:
        """Takes the object of these bytes from the bucket: Ceph is in memory, and its room is bounded."""
        with source.open("rb") as file:
            oid = hashlib.file_digest(file, "sha256").hexdigest()
        self.s3.delete_object(Bucket=BUCKET, Key=self.key(oid))

    def key(self, oid: str) -> str:
        return f"lfsfs/objects/{oid[:2]}/{oid[2:4]}/{oid}"


def run(*command: str | Path) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")


def object_in(mountpoint: Path, oid: str) -> Path:
    return mountpoint / "objects" / oid[:2] / oid[2:4] / oid


def timed(call: Any, *arguments: Any) -> float:
    begun = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begun


# Cold reads.


def cold_reads(bench: Bench) -> list[Row]:
    """All of an object, in order, to its last byte; each time on a machine that has never seen it, and is warm."""
    found: list[str] = []

    def key() -> str:
        if not found:
            found.extend((bench.stored(READ_BYTES), bench.stored(WARM_BYTES)))
        return bench.key(found[0])

    def ours(number: int) -> float:
        key()
        with bench.mounted("reader") as mountpoint:
            object_in(mountpoint, found[1]).read_bytes()
            return READ_BYTES / MIB / timed(read_all, object_in(mountpoint, found[0]))

    def boto3_does(number: int) -> float:
        target = bench.folder / "downloaded"
        bench.s3.head_object(Bucket=BUCKET, Key=key())
        seconds = timed(bench.s3.download_file, BUCKET, key(), str(target))
        target.unlink()
        return READ_BYTES / MIB / seconds

    def peer_does(mounted: Peer, number: int) -> float:
        with mounted(bench) as mountpoint:
            (mountpoint / bench.key(found[1])).read_bytes()
            return READ_BYTES / MIB / timed(read_all, mountpoint / key())

    name = "cold sequential read, 256 MiB"
    return [
        Row(name, "MiB/s", ours, boto3_does, "boto3 download_file", (">=", 0.8)),
        *(
            Row(name, "MiB/s", ours, partial(peer_does, mounted), peer)
            for peer, mounted in MOUNTED.items()
            if shutil.which(peer)
        ),
    ]


@contextmanager
def s3fs(bench: Bench) -> Iterator[Path]:
    """The bucket as s3fs shows it, with a cache that is empty."""
    with place(bench, "s3fs") as (mountpoint, cache):
        secret = bench.folder / "s3fs.passwd"
        secret.touch(0o600)
        secret.write_text(f"{KEYS['AWS_ACCESS_KEY_ID']}:{KEYS['AWS_SECRET_ACCESS_KEY']}")
        options = f"url={bench.endpoint},use_path_request_style,passwd_file={secret},use_cache={cache}"
        with served(mountpoint, "s3fs", BUCKET, mountpoint, "-f", "-o", options):
            yield mountpoint


@contextmanager
def rclone(bench: Bench) -> Iterator[Path]:
    """The bucket as rclone shows it, with a cache that is empty."""
    with place(bench, "rclone") as (mountpoint, cache):
        remote = f":s3,provider=Ceph,env_auth=true,endpoint='{bench.endpoint}':{BUCKET}"
        options = ("--vfs-cache-mode", "full", "--cache-dir", cache, "--config", "/dev/null")
        with served(mountpoint, "rclone", "mount", remote, mountpoint, *options):
            yield mountpoint


Peer = Callable[[Bench], AbstractContextManager[Path]]
MOUNTED: dict[str, Peer] = {"s3fs": s3fs, "rclone": rclone}


@contextmanager
def place(bench: Bench, name: str) -> Iterator[tuple[Path, Path]]:
    """A mountpoint and a folder for a cache, which goes with the block."""
    mountpoint, cache = bench.folder / f"{name}.mnt", bench.folder / f"{name}.cache"
    mountpoint.mkdir(exist_ok=True)
    cache.mkdir()
    try:
        yield mountpoint, cache
    finally:
        shutil.rmtree(cache)


@contextmanager
def served(mountpoint: Path, *command: str | Path) -> Iterator[None]:
    """A file system in the foreground, until the block ends."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + MOUNT_SECONDS
        while not mountpoint.is_mount():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not mount the bucket")
            time.sleep(0.05)
        yield
    finally:
        if mountpoint.is_mount():
            run("fusermount3", "-u", mountpoint)
        process.terminate()
        process.wait(MOUNT_SECONDS)


def read_all(path: Path) -> None:
    buffer = bytearray(MIB)
    size = 0
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            size += got
    if size != READ_BYTES:
        raise SystemExit(f"{path}: {size} bytes")


def first_byte(bench: Bench, *, known: bool) -> Row:
    """From open(2) to the first byte. `known`: the machine has seen it and evicted it, or else only another one has."""
    found: list[str] = []

    def ours(number: int) -> float:
        if not found:
            found.append(bench.stored(COLD_BYTES))
        with bench.mounted("first") as mountpoint:
            path = object_in(mountpoint, found[0])
            if known:
                with path.open("rb", buffering=0) as file:
                    file.seek(COLD_BYTES // 2)
                    file.read(1)
                time.sleep(0.5)
            else:
                (mountpoint / "objects" / found[0][:2] / found[0][2:4] / ("0" * 64)).exists()
                object_in(
                    mountpoint, found[0][:4] + "0" * 60
                ).exists()  # its connection is warm, as ours here is
            return 1000 * timed(lambda: path.open("rb", buffering=0).read(1))

    def theirs(number: int) -> float:
        def get() -> None:
            answer = bench.s3.get_object(Bucket=BUCKET, Key=bench.key(found[0]), Range=f"bytes=0-{MIB - 1}")
            answer["Body"].read()

        if not found:
            found.append(bench.stored(COLD_BYTES))
        get()
        return 1000 * timed(get)

    what = "seen before" if known else "of another machine"
    return Row(
        f"first byte of a cold 1 GiB object, {what}", "ms", ours, theirs, "ranged GET of 1 MiB", ("<", 3.0)
    )


# Writes.


def uploads(bench: Bench, mountpoint: Path, store: Path) -> list[Row]:
    """A file on the disk, until the bucket has it; and the second half of that alone.

    The key of an object is its SHA-256: nothing can be sent before the last byte was hashed.
    """
    sources: dict[tuple[str, int], Path] = {}

    def source(what: str, number: int) -> Path:
        if (what, number) not in sources:
            sources[what, number] = bench.noise(WRITE_BYTES)
        return sources[what, number]

    def both(number: int) -> float:
        path = source("both", number)

        def put() -> None:
            run("cp", path, mountpoint / "incoming" / f"both-{number}")
            run(LFSFS, "sync", "--wait", "--store", store)

        figure = WRITE_BYTES / MIB / timed(put)
        bench.forget(path)
        return figure

    def alone(number: int) -> float:
        path = source("alone", number)
        run("cp", path, mountpoint / "incoming" / f"alone-{number}")
        figure = WRITE_BYTES / MIB / timed(until_uploaded, mountpoint)
        bench.forget(path)
        return figure

    def theirs(what: str, number: int) -> float:
        path, key = source(what, number), f"boto3/{what}/{number}"
        figure = WRITE_BYTES / MIB / timed(bench.s3.upload_file, str(path), BUCKET, key)
        bench.s3.delete_object(Bucket=BUCKET, Key=key)
        return figure

    other, bar = "boto3 upload_file", (">=", 0.9)
    return [
        Row("upload, 256 MiB: from close(2) on", "MiB/s", alone, partial(theirs, "alone"), other, bar),
        Row("cp of 256 MiB and sync --wait", "MiB/s", both, partial(theirs, "both"), other),
    ]


def until_uploaded(mountpoint: Path) -> None:
    """Returns when nothing waits any more."""
    while json.loads((mountpoint / ".lfsfs" / "status").read_text())["remote"]["pending_objects"]:
        time.sleep(0.005)


def small_files(bench: Bench, mountpoint: Path, store: Path) -> Row:
    def ours(number: int) -> float:
        figure = SMALL_FILES / timed(write_small, mountpoint / "incoming" / f"small-{number}", contents())
        run(LFSFS, "sync", "--wait", "--store", store)
        return figure

    def theirs(number: int) -> float:
        with bare(bench.folder / "bare"):
            return SMALL_FILES / timed(write_small, bench.folder / "bare", contents())

    name = f"1,000 files of 4 KiB, {WRITERS} writers, uploads behind"
    return Row(name, "files/s", ours, theirs, "a mount of our own that keeps nothing", least=1000)


def contents() -> list[bytes]:
    return [os.urandom(SMALL_BYTES) for _ in range(SMALL_FILES)]


def write_small(folder: Path, contents: list[bytes]) -> None:
    folder.mkdir(exist_ok=True)

    def write(writer: int) -> None:
        for number in range(writer, SMALL_FILES, WRITERS):
            with (folder / f"{number}").open("wb", buffering=0) as file:
                file.write(contents[number])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# The group.


@contextmanager
def group(folder: Path) -> Iterator[tuple[list[Row], list[str]]]:
    os.environ.update(KEYS)
    os.environ.pop("AWS_CA_BUNDLE", None)  # nothing here speaks TLS, and rclone refuses to start with it
    with ceph(folder / "ceph") as endpoint:
        bench = Bench(folder, endpoint)
        with bench.mounted("store") as mountpoint:
            rows = [
                *cold_reads(bench),
                *uploads(bench, mountpoint, folder / "store"),
                first_byte(bench, known=False),
                first_byte(bench, known=True),
                small_files(bench, mountpoint, folder / "store"),
            ]
            yield rows, notes()
        bench.s3.close()


def notes() -> list[str]:
    version = subprocess.run(
        ["radosgw", "--version"], capture_output=True, text=True, check=False
    ).stdout.split()
    missing = [name for name, command in PEERS.items() if shutil.which(command) is None]
    return [
        f"Ceph RGW {version[2] if len(version) > 2 else '?'}, one OSD in memory, and boto3 {boto3.__version__}.",
        *(
            [f"Not installed, so not beside it: {', '.join(missing)} (`apt-get install s3fs rclone`)."]
            if missing
            else []
        ),
    ]


@contextmanager
def ceph(folder: Path) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    run(CEPH, "start", folder, f"{port}")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        run(CEPH, "stop", folder)
