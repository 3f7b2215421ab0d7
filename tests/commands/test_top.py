"""`lfsfs top`: what goes on in a mount, for a person at a terminal and for scripts."""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from commands.elsewhere import LFSFS
from lfsfs.cli import top
from lfsfs.cli.sample import Sample, rates
from lfsfs.mount.traffic import Traffic

pytestmark = [pytest.mark.mount, pytest.mark.timeout(90)]
MIB = 1 << 20


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """A mount of an empty store."""
    subprocess.run(
        [LFSFS, "mount", tmp_path / "store", tmp_path / "mnt"],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield tmp_path / "mnt"
    finally:
        subprocess.run([LFSFS, "unmount", "--force", tmp_path / "mnt"], check=True, timeout=60)


def measured(mountpoint: Path) -> dict[str, Any]:
    arguments = ["top", mountpoint, "--once", "--json", "--interval", "0.1"]
    said = subprocess.check_output([LFSFS, *arguments], text=True, timeout=60)
    return dict(json.loads(said))


def test_what_is_written_and_read_is_counted_and_looking_is_not(mountpoint: Path) -> None:
    assert set(measured(mountpoint)["total"].values()) == {0}
    (mountpoint / "incoming" / "a").write_bytes(os.urandom(3 * MIB))
    with open(mountpoint / "incoming" / "a", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(MIB):
            pass
    told = measured(mountpoint)
    assert told["total"]["written_bytes"] == 3 * MIB
    assert told["total"]["read_bytes"] >= 3 * MIB
    assert told["total"]["opens"] >= 1
    assert measured(mountpoint)["total"] == told["total"], "asking is no traffic"
    assert told["per_second"].keys() == told["total"].keys()


def test_once_prints_for_people_and_a_pipe_without_once_is_refused(mountpoint: Path) -> None:
    shown = subprocess.check_output(
        [LFSFS, "top", "--once", "--interval", "0.1", mountpoint], text=True, timeout=60
    )
    assert str(mountpoint) in shown
    assert "\x1b" not in shown
    refused = subprocess.run(
        [LFSFS, "top", mountpoint], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert (refused.returncode, refused.stderr) == (
        2,
        "lfsfs: there is no terminal to watch at: give --once\n",
    )


@pytest.mark.parametrize("ending", ["q", "ctrl-c"])
def test_it_is_watched_at_a_terminal_until_q_or_ctrl_c(mountpoint: Path, ending: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execl(LFSFS, LFSFS, "top", str(mountpoint), "--interval", "0.2")
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    seen, end = b"", time.monotonic() + 30
    while seen.count(b"lfsfs top") < 3:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536)
    os.write(terminal, b"q" if ending == "q" else b"\x03")
    while True:
        try:
            if not (piece := os.read(terminal, 65536)):
                break
            seen += piece
        except OSError:  # nobody has the terminal open any more
            break
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if ending == "q" else 130)
    assert b"Traceback" not in seen
    assert seen.rstrip().endswith(b"\x1b[?25h") or b"\x1b[?1049l" in seen, "the screen is given back"


def sample(**changed: Any) -> Sample:
    slow = [{"operation": "read", "what": "object/" + "4b" * 32, "seconds": 1.5, "ended": 1e9}] * 20
    said = {
        "pid": 1, "started": time.time_ns(), "mountpoint": "/m" * 60, "store": "/s", "objects": 10**7, "bytes": 2**50,
        "disk_free": 2**40, "open_files": 9, "traffic": dict.fromkeys(
            ("reads", "read_bytes", "writes", "written_bytes", "opens"), 2**50) | {"slow": slow},
        "remote": {"url": "s3://b/" + "x" * 90, "mode": "write-back", "degraded": True, "pending_objects": 10**6,
                   "pending_bytes": 2**45, "cached": 5, "cache_limit": 3, "uploading": 4, "failing": 2,
                   "moved": dict.fromkeys(("hits", "misses", "fetched_bytes", "uploaded_objects", "uploaded_bytes"), 7)},
    }  # fmt: skip
    return Sample(1.0, said | changed)


@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (40, 12), (200, 60)], ids=["80x24", "40x12", "200x60"]
)
def test_however_large_the_numbers_it_fits(width: int, height: int) -> None:
    console = Console(width=width, height=height, record=True, file=open(os.devnull, "w"))
    histories = {name: deque([1e12] * 40) for name in sample().counters}
    console.print(top.shown(sample(), dict.fromkeys(histories, 1e12), histories, width=width, height=height))
    console.file.close()
    text = console.export_text()
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 20)
    assert "does not answer" in text


def test_a_daemon_that_began_anew_has_no_rate_yet() -> None:
    assert set(rates(sample(), Sample(2.0, sample(pid=2).said)).values()) == {0.0}
    later = sample()
    later.said["traffic"]["reads"] += 5
    assert rates(sample(started=later.said["started"]), Sample(2.0, later.said))["reads"] == 5.0


def test_slow_operations_are_remembered_the_latest_alone() -> None:
    class File:
        what = "incoming/a.exr"

    traffic = Traffic()
    traffic.ended("read", time.perf_counter(), File())
    assert traffic.described()["slow"] == []
    for number in range(30):
        traffic.ended("close", time.perf_counter() - 1 - number, File())
    traffic.ended("rename", time.perf_counter() - 7, File(), b"b\xff")
    slow = traffic.slow
    assert len(slow) == 20
    assert (slow[0].seconds, slow[0].what) == (pytest.approx(12, abs=0.5), "incoming/a.exr")
    assert (slow[-1].operation, slow[-1].what) == ("rename", "incoming/a.exr/b\udcff")
