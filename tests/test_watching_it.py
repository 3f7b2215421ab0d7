"""What tells people how a daemon does: metrics, the dashboard that is drawn of them, the line of `systemctl status`."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from gitlfs.mounted import Mount
from server.served import free_port

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "grafana" / "lfsfs.json"
METRIC = re.compile(r"\blfsfs_\w+")
PARTS_OF_HISTOGRAMS = re.compile(r"_(bucket|sum|count)$")

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]


def named(text: str) -> set[str]:
    """The metrics that a text of Prometheus declares, each once, with a value."""
    found = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    assert len(found) == len(set(found))
    return set(found)


def values(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^(lfsfs_\w+) (\d+)$", text, re.MULTILINE)}


class Systemd:
    """What a daemon tells it, in the order that it comes in."""

    def __init__(self, address: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self._socket.settimeout(20)
        self._heard: list[str] = []

    def heard(self, *words: str) -> str:
        """The first message that says all of it; comes back when there is one."""
        while True:
            for message in self._heard:
                if all(word in message for word in words):
                    return message
            self._heard.append(self._socket.recv(4096).decode())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    systemd = Systemd(tmp_path / "notify")
    yield systemd
    systemd.close()


def test_the_dashboard_is_drawn_of_metrics_that_there_are_and_all_are_documented(tmp_path: Path) -> None:
    port = free_port()
    with Mount(tmp_path / "m", "--listen", f"127.0.0.1:{port}") as mount:
        of_mount = (mount.path / ".lfsfs" / "metrics").read_text()
        of_server = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    assert named(of_mount) <= named(of_server), "one who scrapes the server sees the mount as well"
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    drawn = {PARTS_OF_HISTOGRAMS.sub("", name) for query in queries for name in METRIC.findall(query)}
    assert drawn <= named(of_server)
    assert len(drawn) > 20
    watched = (
        (ROOT / "docs" / "OPERATIONS.md").read_text().partition("## Watching it")[2].partition("\n## ")[0]
    )
    assert set(re.findall(r"`(lfsfs_\w+)`", watched)) == named(of_mount)


def test_panels_of_the_dashboard_do_not_lie_on_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)


def test_systemd_is_told_what_the_daemon_does(tmp_path: Path, systemd: Systemd) -> None:
    with Mount(tmp_path / "m") as mount:
        systemd.heard("READY=1")
        assert systemd.heard("STATUS=").startswith(f"STATUS=opening {mount.store}")
        systemd.heard(f"STATUS={mount.store} at {mount.path}: 0 objects")
        (mount.path / "incoming" / "a").write_bytes(b"x" * 5000)
        systemd.heard(": 1 objects, 4.9 KiB")


def test_what_needs_somebody_is_said_first(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    nobody = f"http://127.0.0.1:{free_port()}"
    with Mount(tmp_path / "m", "--s3", "s3://bucket/lfs", "--s3-endpoint", nobody) as mount:
        (mount.path / "incoming" / "a").write_bytes(b"x" * 5000)
        said = systemd.heard("S3 does not answer", "1 objects", "1 uploads wait, 4.9 KiB")
        assert re.search(r": S3 does not answer \(.+\); 1 objects", said)
        found = values((mount.path / ".lfsfs" / "metrics").read_text())
        assert (found["lfsfs_pending_objects"], found["lfsfs_pending_bytes"]) == (1, 5000)
        assert (found["lfsfs_s3_configured"], found["lfsfs_s3_degraded"]) == (1, 1)
