"""What a service tells systemd, heard by a socket of the test's own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lfsfs.notify import READY, STOPPING, notify, status, watchdog_seconds


@pytest.fixture(params=["file", "abstract"])
def heard(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        name = str(tmp_path / "notify") if request.param == "file" else f"@lfsfs-test-{os.getpid()}"
        listener.bind("\0" + name[1:] if name.startswith("@") else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


def test_assignments_of_one_call_arrive_as_one_message(heard: socket.socket) -> None:
    assert notify(READY, status("12 objects\nand more"))
    assert heard.recv(4096) == b"READY=1\nSTATUS=12 objects and more"
    assert notify(status("caf\xe9 \udcff"))
    assert heard.recv(4096) == b"STATUS=caf\xc3\xa9 \xff"
    assert notify(STOPPING)
    assert heard.recv(4096) == b"STOPPING=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify(READY)


def test_a_socket_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify(READY)


def test_a_socket_that_nobody_reads_blocks_nothing(heard: socket.socket) -> None:
    told = [notify(READY) for _ in range(10_000)]
    assert told[0]
    assert not told[-1]


@pytest.mark.parametrize(
    ("pid", "microseconds", "seconds"),
    [
        (None, "30000000", 30.0),
        pytest.param(str(os.getpid()), "500000", 0.5, id="this process"),
        ("1", "30000000", None),
        (None, None, None),
        (None, "0", None),
        (None, "soon", None),
    ],
)
def test_the_watchdog_is_fed_only_when_it_watches_this_process(
    monkeypatch: pytest.MonkeyPatch, pid: str | None, microseconds: str | None, seconds: float | None
) -> None:
    for name, value in (("WATCHDOG_PID", pid), ("WATCHDOG_USEC", microseconds)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert watchdog_seconds() == seconds
