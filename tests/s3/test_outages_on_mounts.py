"""The mount while S3 is away: what is local works on, what is not fails in time, and all comes right by itself."""

import errno
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from gitlfs.mounted import LFSFS, lfsfs

from .machines import KIB, MIB, Machine, Place, failure, oid_of, until
from .proxy import Proxy

pytestmark = pytest.mark.mount
DEADLINE = 2.0
IMPATIENT = f'deadline = "{DEADLINE:.0f}s"'
SPARE_SECONDS = 3.0


class Writer(threading.Thread):
    """Writes files into incoming/ until it is stopped, or a call fails; what it has committed, and that failure."""

    def __init__(self, machine: Machine, name: str, size: int, pause: float) -> None:
        super().__init__(daemon=True)
        self.machine = machine
        self.name = name
        self.size = size
        self.pause = pause
        self.committed: dict[str, int] = {}
        self.failed: tuple[str, int] | None = None  # which call, and its errno
        self.waited = 0.0  # how long the call that failed took
        self.stopped = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stopped.wait(self.pause) and self.failed is None:
            number += 1
            content = os.urandom(self.size)
            begun = time.monotonic()
            self.failed = self._write(f"{self.name}-{number}", content)
            self.waited = time.monotonic() - begun
            if self.failed is None:
                self.committed[oid_of(content)] = self.size

    def _write(self, name: str, content: bytes) -> tuple[str, int] | None:
        step = "open"
        fd = os.open(self.machine.path / "incoming" / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        try:
            step = "write"
            for start in range(0, len(content), 128 * KIB):
                os.write(fd, content[start : start + 128 * KIB])
        except OSError as error:
            return step, error.errno or 0
        finally:
            try:
                os.close(fd)
            except OSError as error:
                if step != "write":
                    raise
                self.closing = error.errno
        return None


def started(writers: list[Writer]) -> list[Writer]:
    for writer in writers:
        writer.start()
    return writers


def ended(writers: list[Writer]) -> set[str]:
    """What they have committed."""
    for writer in writers:
        writer.stopped.set()
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive()
    return {oid for writer in writers for oid in writer.committed}


@pytest.mark.slow
def test_writers_wait_at_the_bound_and_then_get_enospc_from_write(
    tmp_path: Path, place: Place, proxy: Proxy
) -> None:
    bound = 24 * MIB
    with Machine(tmp_path / "a", place, "--pending-size", f"{bound}", cache=IMPATIENT) as machine:
        proxy.down()
        writers = started([Writer(machine, f"{number}", 700 * KIB, 0.0) for number in range(4)])
        for writer in writers:
            writer.join(60)
        committed = ended(writers)
        assert [writer.failed for writer in writers] == [("write", errno.ENOSPC)] * 4
        assert min(writer.waited for writer in writers) >= DEADLINE * 0.9
        assert max(writer.waited for writer in writers) <= 4 * DEADLINE
        assert bound // 2 - 4 * MIB <= sum(sum(writer.committed.values()) for writer in writers) <= bound
        condition = machine.remote()
        assert condition["degraded"] and condition["pending_objects"] == len(committed)
        proxy.up()
        machine.sync()
        condition = machine.remote()
        assert not condition["degraded"] and condition["pending_objects"] == 0
        assert place.oids() == committed and not place.damaged()
        assert machine.drop("after", b"after") in machine.local()


@pytest.mark.slow
def test_no_writer_sees_an_outage(tmp_path: Path, place: Place, proxy: Proxy, full_size: bool) -> None:
    outage, size, pause = (180.0, MIB, 0.5) if full_size else (5.0, 300 * KIB, 0.05)
    with Machine(tmp_path / "a", place, "--pending-size", "8GiB", cache=IMPATIENT) as machine:
        writers = started([Writer(machine, f"{number}", size, pause) for number in range(4)])
        time.sleep(1)
        proxy.down()
        time.sleep(outage)
        during = machine.remote()
        proxy.up()
        time.sleep(1)
        committed = ended(writers)
        assert [writer.failed for writer in writers] == [None] * 4
        begun = time.monotonic()
        machine.sync(600)
        waited = f"{during['pending_objects']} objects ({during['pending_bytes'] >> 20} MiB) waited"
        drained = f"all there {time.monotonic() - begun:.1f} s after the last write"
        print(f"away for {outage:.0f} s: {waited}, of {len(committed)}; {drained}")
        assert during["degraded"] and during["pending_objects"] > 10
        assert not machine.remote()["degraded"]
        assert place.oids() == committed and not place.damaged()
        assert place.uploads_under_way() == []


def test_a_read_of_what_only_s3_has_times_out_and_works_again(
    tmp_path: Path, place: Place, proxy: Proxy
) -> None:
    content, other = os.urandom(2 * MIB), os.urandom(2 * MIB)
    options = ("--cache-size", "4KiB")
    with Machine(tmp_path / "a", place, *options, cache=IMPATIENT) as machine:
        oid, second = machine.drop("file", content), machine.drop("other", other)
        machine.sync()
        assert machine.read(second) == other
        proxy.down()
        for _ in range(3):
            begun = time.monotonic()
            assert failure(machine.read, oid) == "ETIMEDOUT"
            assert time.monotonic() - begun <= DEADLINE + SPARE_SECONDS
        assert machine.remote()["degraded"]
        assert machine.object(oid).stat().st_size == len(content)  # what the index knows needs no S3
        proxy.up()
        until(5, lambda: failure(machine.read, oid) == "", "the object can be read again")
        assert machine.read(oid) == content
        assert not machine.remote()["degraded"]


def test_a_reader_in_the_middle_of_an_object_goes_on_after_a_short_outage(
    tmp_path: Path, place: Place, proxy: Proxy
) -> None:
    content = os.urandom(24 * MIB)
    with Machine(tmp_path / "a", place, "--cache-size", "4KiB") as machine:
        oid = machine.drop("file", content)
        machine.sync()
        machine.stop()
        machine.start()
        with machine.object(oid).open("rb") as file:
            begin = file.read(MIB)
            proxy.down()
            back = threading.Timer(2, proxy.up)
            back.start()
            rest = file.read()
            back.join()
        assert begin + rest == content


@pytest.mark.slow
def test_unmount_and_mount_while_s3_is_away(tmp_path: Path, place: Place, proxy: Proxy) -> None:
    with Machine(tmp_path / "a", place, cache=IMPATIENT) as machine:
        before = machine.drop("before", os.urandom(3 * MIB))
        machine.sync()
        proxy.down()
        contents = [os.urandom(6 * MIB) for _ in range(4)]
        oids = [machine.drop(f"{number}", content) for number, content in enumerate(contents)]
        time.sleep(1)
        begun = time.monotonic()
        machine.stop()
        assert time.monotonic() - begun < 15
        machine.start()
        assert machine.remote()["pending_objects"] == 4
        for oid, content in zip(oids, contents, strict=True):
            assert machine.read(oid) == content
        proxy.up()
        machine.sync()
        assert place.oids() == {before, *oids} and not place.damaged()


@pytest.mark.slow
def test_unmount_while_a_reader_and_a_writer_wait_for_s3(tmp_path: Path, place: Place, proxy: Proxy) -> None:
    options = ("--cache-size", "4KiB", "--pending-size", "8MiB")
    with Machine(tmp_path / "a", place, *options) as machine:
        oid = machine.drop("file", os.urandom(2 * MIB))
        machine.sync()
        proxy.down()
        reader = threading.Thread(target=failure, args=(machine.read, oid), daemon=True)
        reader.start()
        writer = Writer(machine, "w", 3 * MIB, 0.0)
        writer.start()
        time.sleep(2)
        assert reader.is_alive() and writer.is_alive()
        begun = time.monotonic()
        lfsfs("unmount", "--force", machine.path)
        assert time.monotonic() - begun < 25
        reader.join(10)
        writer.join(10)
        assert not reader.is_alive() and not writer.is_alive()
        proxy.up()
        machine.start()
        machine.sync()
        assert set(writer.committed) <= place.oids() and not place.damaged()


def test_a_stalled_server_is_an_outage_too(tmp_path: Path, place: Place, proxy: Proxy) -> None:
    """It takes requests and never answers: no error, no reset."""
    content = os.urandom(2 * MIB)
    with Machine(tmp_path / "a", place, "--cache-size", "4KiB", cache=IMPATIENT) as machine:
        oid = machine.drop("file", content)
        machine.sync()
        proxy.fault(times=10_000, delay=600.0)
        begun = time.monotonic()
        assert failure(machine.read, oid) == "ETIMEDOUT"
        assert time.monotonic() - begun <= DEADLINE + SPARE_SECONDS
        committed = machine.drop("meanwhile", b"meanwhile")
        proxy.clear()
        until(15, lambda: failure(machine.read, oid) == "", "the object can be read again")
        machine.sync()
        assert committed in place.oids()


@pytest.mark.slow
def test_a_sync_that_waits_goes_on_by_itself_when_the_daemon_is_killed(
    tmp_path: Path, place: Place, proxy: Proxy
) -> None:
    with Machine(tmp_path / "a", place) as a:
        proxy.down()
        oid = a.drop("file", b"content")
        command = [LFSFS, "sync", "--wait", "--store", a.store]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sync:
            try:
                time.sleep(2)
                assert sync.poll() is None
                a.kill()
                proxy.up()
                assert sync.wait(120) == 0
            finally:
                sync.kill()
        assert place.oids() == {oid}
