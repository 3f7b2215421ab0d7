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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
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
WRITE_BYTES = 256 * MIB
COLD_BYTES = 1 << 30
SMALL_FILES = 1_000
SMALL_BYTES = 4096
WRITERS = 16
PEERS = {"s3fs": "s3fs", "rclone": "rclone", "JuiceFS": "juicefs"}


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


def cold_read(bench: Bench, mountpoint: Path) -> Row:
    """All of an object, in order, to its last byte."""
    oids: dict[int, str] = {}

    def oid(number: int) -> str:
        if number not in oids:
            oids[number] = bench.stored(READ_BYTES)
        return oids[number]

    def ours(number: int) -> float:
        path = object_in(mountpoint, oid(number))
        return READ_BYTES / MIB / timed(read_all, path)

    def theirs(number: int) -> float:
        target, key = bench.folder / "downloaded", bench.key(oid(number))
        seconds = timed(bench.s3.download_file, BUCKET, key, str(target))
        target.unlink()
        return READ_BYTES / MIB / seconds

    return Row("cold sequential read, 256 MiB", "MiB/s", ours, theirs, "boto3 download_file", (">=", 0.8))


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

        return WRITE_BYTES / MIB / timed(put)

    def alone(number: int) -> float:
        run("cp", source("alone", number), mountpoint / "incoming" / f"alone-{number}")
        return WRITE_BYTES / MIB / timed(until_uploaded, mountpoint)

    def theirs(what: str, number: int) -> float:
        path = source(what, number)
        return WRITE_BYTES / MIB / timed(bench.s3.upload_file, str(path), BUCKET, f"boto3/{what}/{number}")

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
        figure = SMALL_FILES / timed(write_small, mountpoint / "incoming" / f"small-{number}")
        run(LFSFS, "sync", "--wait", "--store", store)
        return figure

    def theirs(number: int) -> float:
        return SMALL_FILES / timed(write_small, bench.folder / f"small-{number}")

    name = f"1,000 files of 4 KiB, {WRITERS} writers, uploads behind"
    return Row(name, "files/s", ours, theirs, "the disk itself, no fsync", least=1000)


def write_small(folder: Path) -> None:
    folder.mkdir()
    contents = [os.urandom(SMALL_BYTES) for _ in range(SMALL_FILES)]

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
    with ceph(folder / "ceph") as endpoint:
        bench = Bench(folder, endpoint)
        with bench.mounted("store") as mountpoint:
            rows = [
                cold_read(bench, mountpoint),
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
        *([f"Not installed, so not beside it: {', '.join(missing)}."] if missing else []),
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
