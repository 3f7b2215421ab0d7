"""Mounts with S3 behind them under load: bounds that hold to the byte, one flight a block, kill -9 during uploads.

`--full-size` (scripts/torture bounds, readers, kills, outage) runs them as large as issue 3 says.
"""

import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from . import load
from .machines import KIB, MIB, Machine, Place, Sampler, disk_of_its_own, oid_of
from .proxy import Proxy
from .servers import Server

pytestmark = [pytest.mark.mount, pytest.mark.slow]
PROCESSES = 8
READERS = 32
FIXED_BYTES = MIB  # what a store takes that is neither cache nor waits: directories, logs, locks


def test_no_more_than_the_two_bounds_is_ever_on_disk(
    tmp_path: Path, place: Place, rgw_server: Server, full_size: bool
) -> None:
    """Eight processes write and read many times what fits; a sampler watches the disk; nobody gets an error."""
    bound, total = (256 * MIB, 4 << 30) if full_size else (32 * MIB, 192 * MIB)
    size = bound // 32
    direct = Place(rgw_server, rgw_server.endpoint, place.prefix)  # the proxy would be the slowest part
    bounds = ("--cache-size", f"{bound}", "--pending-size", f"{bound}")
    with (
        disk_of_its_own(tmp_path / "disk") as disk,
        Machine(tmp_path / "a", direct, *bounds, disk=disk) as machine,
    ):
        with Sampler(disk) as sampler:
            begun = time.monotonic()
            processes = [
                worker(machine, number, total // PROCESSES // size, size) for number in range(PROCESSES)
            ]
            said = [process.communicate(timeout=3600) for process in processes]
            wrote = time.monotonic() - begun
            machine.sync(1200)
        oids = {oid for out, _ in said for oid in out.split()}
        print(f"{len(oids)} objects, {total >> 20} MiB through {bound >> 20} + {bound >> 20} MiB: written and read in"
              f" {wrote:.0f} s, uploaded in {time.monotonic() - begun:.0f} s;"
              f" most on disk {sampler.peak / MIB:.1f} MiB in {sampler.looks} looks")  # fmt: skip
        assert [process.returncode for process in processes] == [0] * PROCESSES, said
        assert sampler.peak <= 2 * bound + FIXED_BYTES
        assert sampler.looks > 100
        assert place.oids() == oids
        condition = machine.remote()
        assert condition["cached"] <= bound and condition["pending"] == 0


def worker(machine: Machine, number: int, files: int, size: int) -> "subprocess.Popen[str]":
    command = [sys.executable, load.__file__, machine.path, f"{number}", f"{files}", f"{size}", "load"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("start", ["at the beginning", "anywhere"])
def test_many_readers_of_one_object_fetch_it_once(
    tmp_path: Path, place: Place, proxy: Proxy, full_size: bool, start: str
) -> None:
    size = 512 * MIB if full_size else 24 * MIB
    content = b"".join(random.Random(f"{start} {number}").randbytes(MIB) for number in range(size // MIB))
    oid = oid_of(content)
    with Machine(tmp_path / "a", place, "--mode", "s3-only") as a:
        a.drop("file", content)
    with Machine(tmp_path / "b", place) as b:
        before = proxy.counters()["bytes down"]
        begun = time.monotonic()

        def read(number: int) -> None:
            first = 0 if start == "at the beginning" else size // READERS * number
            with b.object(oid).open("rb", buffering=0) as file:
                for offset in (*range(first, size, MIB), *range(0, first, MIB)):
                    end = size if offset >= first else first
                    file.seek(offset)
                    piece = file.read(min(MIB, end - offset))
                    while len(piece) < min(MIB, end - offset):
                        piece += file.read(min(MIB, end - offset) - len(piece))
                    assert piece == content[offset : offset + len(piece)]

        with ThreadPoolExecutor(READERS) as pool:
            for done in [pool.submit(read, number) for number in range(READERS)]:
                done.result()
        fetched = proxy.counters()["bytes down"] - before
        print(f"{READERS} readers {start} of {size >> 20} MiB in {time.monotonic() - begun:.1f} s:"
              f" {fetched / size:.4f} of its size fetched")  # fmt: skip
        assert size <= fetched <= 1.05 * size


@pytest.mark.parametrize("mode", ["write-back", "s3-only"])
def test_a_daemon_that_is_killed_during_uploads_loses_nothing(
    tmp_path: Path, place: Place, proxy: Proxy, full_size: bool, mode: str
) -> None:
    """Objects of all sizes, also such that go up in parts, over a slow line; kill -9 at random moments."""
    kills = 200 if full_size else 10
    chance = random.Random(7)
    committed: set[str] = set()
    proxy.pace(rate=40 * MIB)
    options = ("--mode", mode, "--cache-size", "64MiB", "--pending-size", "256MiB")
    with Machine(tmp_path / "a", place, *options) as machine:
        during = 0
        for number in range(kills):
            stop = threading.Event()
            writer = threading.Thread(target=write_until, args=(machine, number, stop, committed))
            writer.start()
            time.sleep(chance.uniform(0.05, 1.5))
            during += bool(place.uploads_under_way())
            machine.kill()
            stop.set()
            writer.join(60)
            assert not writer.is_alive()
            machine.start()
        proxy.pace()
        machine.sync(600)
        there = place.oids()
        print(f"{kills} kills, {during} of them while parts were on their way: {len(committed)} objects"
              f" were committed, {len(there)} are in the bucket")  # fmt: skip
        assert committed <= there
        assert place.damaged() == set()
        assert place.uploads_under_way() == []
        for oid in random.Random(1).sample(sorted(committed), min(50, len(committed))):
            assert oid_of(machine.read(oid)) == oid


def write_until(machine: Machine, number: int, stop: threading.Event, committed: set[str]) -> None:
    """Writes files until the mount is gone; what close(2) has acknowledged is committed."""
    chance = random.Random(number)
    count = 0
    while not stop.is_set():
        content = os.urandom(chance.choice((10, 4 * KIB, 300 * KIB, 3 * MIB, 12 * MIB)))
        count += 1
        try:
            with (machine.path / "incoming" / f"{number}-{count}").open("wb", buffering=0) as file:
                for start in range(0, len(content), MIB):
                    file.write(content[start : start + MIB])
        except OSError:
            return  # the mount is gone
        committed.add(oid_of(content))
