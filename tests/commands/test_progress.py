"""Progress: a bar with rate and time left, for what takes longer than a second and a person who watches."""

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

from commands.elsewhere import LFSFS
from lfsfs.cli import bars, output

pytestmark = pytest.mark.timeout(90)


def watched(
    *arguments: str | Path, feed: bytes = b"", feeding: float = 0.0, **variables: str
) -> tuple[int, str]:
    """The command with standard error at a terminal, and standard input that comes slowly: status, what was seen."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"} | variables
    with subprocess.Popen(
        [LFSFS, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, env=environment
    ) as running:
        os.close(theirs)
        assert running.stdin is not None
        if feed:
            running.stdin.write(feed)
            running.stdin.flush()
            time.sleep(feeding)
        running.stdin.close()
        seen = b""
        while True:
            ready = select.select([ours], [], [], 30)[0]
            try:
                piece = os.read(ours, 65536) if ready else b""
            except OSError:
                break
            if not piece:
                break
            seen += piece
        status = running.wait(30)
    os.close(ours)
    return status, seen.decode(errors="replace")


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file whose hashing takes some seconds."""
    file = tmp_path / "big"
    with file.open("wb") as out:
        out.truncate(1 << 30)
    return file


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = subprocess.run(
        [LFSFS, "mount", tmp_path / "store", tmp_path / "mnt"], timeout=60, capture_output=True
    )
    assert made.returncode == 0
    subprocess.run([LFSFS, "unmount", tmp_path / "mnt"], timeout=60, check=True)
    return tmp_path / "store"


@pytest.mark.slow
def test_what_takes_long_shows_a_bar_with_rate_and_time_left_and_in_the_end_nothing(
    store: Path, big: Path
) -> None:
    status, seen = watched("put", big, "--store", store)
    assert status == 0
    assert re.search(r"put.*\d GiB.*[MG]i?B/s.*0:00:\d\d", seen), seen[-500:]
    assert seen.rstrip("\r\n").endswith("\x1b[2K") or "\x1b[?25h" in seen[-40:], (
        "it goes, and gives the cursor back"
    )
    assert watched("put", big, "--store", store, "--quiet") == (0, "")
    assert watched("put", big, "--store", store, "--json") == (0, "")
    piped = subprocess.run([LFSFS, "put", big, "--store", store], capture_output=True, timeout=60)
    assert piped.stderr == b""
    coloured, plain = "\x1b[38;", watched("put", big, "--store", store, NO_COLOR="1")[1]
    assert coloured not in plain
    slowly = {"OPENSSL_ia32cap": ":~0x20000000"}  # as a processor without SHA instructions
    status, seen = watched("verify", "--store", store, **slowly)
    assert status == 0
    assert re.search(r"verify.*1\.0\d* GiB.*0:00:\d\d", seen), seen[-500:]


def test_what_is_quick_shows_none(store: Path, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x")
    assert watched("put", tmp_path / "small", "--store", store) == (0, "")
    assert watched("gc", "--store", store) == (0, "")


@pytest.mark.parametrize("unit", ["bytes", "objects"])
def test_a_bar_says_how_far_how_fast_how_long(unit: bars.Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setattr(output, "_hushed", False)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(bars, "PATIENCE_SECONDS", 0.0)
        with bars.Bar("work", unit) as shown:
            for done in range(0, 5_000_000, 1_000_000):
                shown.show(done, 10_000_000)
                time.sleep(0.15)
        terminal.flush()
        seen = os.read(ours, 65536).decode()
    os.close(ours)
    said = (
        r"4,000,000/10,000,000 objects.*objects/s"
        if unit == "objects"
        else r"3\.8/9\.5 MiB.*MB/s|3\.8/9\.5 MiB"
    )
    assert re.search(said, seen), seen
    assert re.search(r"0:00:0\d", seen)
