"""`lfsfs restart`: a new daemon follows the one that serves, and who uses the mount or the server does not notice."""

import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import forking
import pytest
import requests
from gitlfs.bench import git_environment
from gitlfs.mounted import LFSFS, Mount, is_running, lfsfs, processes_that_name, within
from server.served import free_port

pytestmark = [pytest.mark.mount, pytest.mark.timeout(180)]

HELD_SECONDS = 5.0  # what a request may wait, on a machine that does much else; it is some milliseconds
LIVES_INSIDE = """
import os, sys
os.chdir(sys.argv[1])
print(os.getcwd(), flush=True)
for line in sys.stdin:
    print(sorted(os.listdir(".")), os.getcwd(), os.path.exists("first"), flush=True)
"""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with Mount(tmp_path / "m") as mounted:
        yield mounted


def restart(mount: Mount) -> None:
    before = mount.pid
    said = lfsfs("restart", mount.path)
    assert mount.pid != before
    assert "requests waited for" in said, said
    assert float(said.rpartition("waited for ")[2].split()[0]) < HELD_SECONDS
    assert within(30, lambda: not is_running(before)), "the old daemon stays"


def refused(mount: Mount, status: int = 4) -> str:
    """`lfsfs restart` fails, and the daemon that serves is the one that did; what is said."""
    before = mount.pid
    ended, _, err = forking.run("forking:command", "restart", str(mount.path), seconds=60)
    assert ended == status, err
    assert mount.pid == before
    assert is_running(before)
    return err


class Repeated:
    """A call that is made over and over in a thread, as quickly as it goes; what it raised, and how often."""

    def __init__(self, call: Callable[[int], None]) -> None:
        self.failures: list[BaseException] = []
        self.rounds = 0
        self._call = call
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Repeated":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._call(self.rounds)
            except BaseException as failed:
                self.failures.append(failed)
                return
            self.rounds += 1


def _action(port: int, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What the Git LFS API says of an object in a connection of its own."""
    kind = "application/vnd.git-lfs+json"
    answer = requests.post(
        f"http://127.0.0.1:{port}/a/b/objects/batch",
        json={"operation": operation, "objects": [asked]},
        timeout=30,
        headers={"Accept": kind, "Content-Type": kind},
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["objects"][0]["actions"][operation]
    return found


def _one_more_round(all_of_them: Sequence[Repeated]) -> Callable[[], bool]:
    before = [one.rounds for one in all_of_them]
    return lambda: all(
        one.failures or one.rounds > some for one, some in zip(all_of_them, before, strict=True)
    )


@pytest.mark.slow
@pytest.mark.promise("7.6")
def test_under_load_no_byte_no_request_and_no_connection_is_lost(
    tmp_path: Path,
) -> None:
    port, git_env = free_port(), git_environment(tmp_path)
    with Mount(tmp_path / "m", "--listen", f"127.0.0.1:{port}") as mount:
        incoming = mount.path / "incoming"
        big = os.urandom(6 << 20)
        (tmp_path / "big").write_bytes(big)
        (incoming / "big").write_bytes(big)
        written: dict[str, bytes] = {}
        clone = tmp_path / "clone"
        git = ["git", "-C", str(clone)]
        subprocess.run(["git", "init", "-q", clone], check=True, env=git_env)
        lfsfs("attach", clone, "--mount", mount.path)
        (clone / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
        subprocess.run([*git, "add", ".gitattributes"], check=True, env=git_env)

        def read(_: int) -> None:
            assert (incoming / "big").read_bytes() == big

        def copy(number: int) -> None:
            content = os.urandom(1 + number * 7919 % 300_000)
            source = tmp_path / "source"
            source.write_bytes(content)
            subprocess.run(["cp", source, incoming / f"copy{number}"], check=True)
            written[f"copy{number}"] = content

        def add(number: int) -> None:
            (clone / f"{number}.bin").write_bytes(f"added {number}".encode() * 1000)
            subprocess.run([*git, "add", f"{number}.bin"], check=True, env=git_env, capture_output=True)

        def ask(number: int) -> None:
            content = f"asked {number}".encode() * 5000
            asked = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
            put = _action(port, "upload", asked)
            assert (
                requests.put(put["href"], content, headers=put.get("header"), timeout=30).status_code == 200
            )
            get = _action(port, "download", asked)
            assert requests.get(get["href"], headers=get.get("header"), timeout=30).content == content

        with (
            Repeated(read) as reading,
            Repeated(copy) as copying,
            Repeated(add) as adding,
            Repeated(ask) as asking,
        ):
            all_of_them = (reading, copying, adding, asking)
            for _ in range(2):
                restart(mount)
                assert within(30, _one_more_round(all_of_them))
        for name, one in (("read", reading), ("copy", copying), ("add", adding), ("ask", asking)):
            assert not one.failures, (name, one.failures)
            assert one.rounds > 2, name
        for name, content in written.items():
            assert (incoming / name).read_bytes() == content
        subprocess.run([*git, "commit", "-q", "-m", "all"], check=True, env=git_env, capture_output=True)
        checked = subprocess.run(
            [*git, "lfs", "fsck"], env=git_env, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "Traceback" not in mount.log()
    lfsfs("fsck", "--store", mount.store)


@pytest.mark.slow
@pytest.mark.promise("7.6")
def test_what_is_open_stays_open_and_who_is_inside_stays_inside(mount: Mount) -> None:
    incoming = mount.path / "incoming"
    (incoming / "folder").mkdir()
    (incoming / "folder" / "first").write_bytes(b"1")
    content = os.urandom(3 << 20)
    (incoming / "read").write_bytes(content)
    (incoming / "gone").write_bytes(content)
    oid = hashlib.sha256(content).hexdigest()
    inside = subprocess.Popen(
        [sys.executable, "-c", LIVES_INSIDE, incoming / "folder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert inside.stdin is not None and inside.stdout is not None
    where = inside.stdout.readline().strip()
    temporary = mount.path / "tmp" / "a git-lfs file"
    names = [f"name{number}" for number in range(300)]
    for name in names:
        (incoming / name).touch()
    with (
        (incoming / "read").open("rb", buffering=0) as read,
        (incoming / "gone").open("rb", buffering=0) as gone,
        (mount.path / "objects" / oid[:2] / oid[2:4] / oid).open("rb", buffering=0) as stored,
        (incoming / "small").open("wb", buffering=0) as small,
        (incoming / "large").open("wb", buffering=0) as large,
        temporary.open("w+b", buffering=0) as own,
        (mount.path / "tmp" / "nameless").open("w+b", buffering=0) as nameless,
        (incoming / "unlinked").open("w+b", buffering=0) as unlinked,
        (mount.path / ".lfsfs" / "status").open("rb", buffering=0) as status,
        os.scandir(incoming) as listing,
    ):
        numbers = [os.fstat(file.fileno()).st_ino for file in (read, stored, small, own)]
        halves = [file.read(1 << 20) for file in (read, gone, stored)]
        (incoming / "gone").unlink()
        small.write(b"half of it, ")
        large.write(content[: 1 << 20])
        own.write(b"a pointer's ")
        nameless.write(b"no name")
        os.unlink(mount.path / "tmp" / "nameless")
        unlinked.write(b"no name either")
        (incoming / "unlinked").unlink()
        listed = [next(listing).name for _ in range(40)]
        before = mount.pid

        restart(mount)

        assert [os.fstat(file.fileno()).st_ino for file in (read, stored, small, own)] == numbers
        for half, file in zip(halves, (read, gone, stored), strict=True):
            assert half + file.read(4 << 20) + file.read(4 << 20) == content
        small.write(b"and the other half")
        large.write(content[1 << 20 :])
        own.write(b"content")
        nameless.write(b" at all")
        nameless.seek(0)
        assert nameless.read(100) == b"no name at all"
        unlinked.seek(0)
        assert unlinked.read(100) == b"no name either"
        assert json.loads(status.read(100_000))["pid"] == before  # what was made when it was opened
        listed += [entry.name for entry in listing]
    assert sorted(set(listed)) == sorted(listed), "a name is listed twice"
    assert set(names) <= set(listed)
    assert (incoming / "small").read_bytes() == b"half of it, and the other half"
    assert (incoming / "large").read_bytes() == content
    made = b"a pointer's content"
    oid = hashlib.sha256(made).hexdigest()
    temporary.rename(
        mount.path / "objects" / oid[:2] / oid[2:4] / oid
    )  # the commit of git-lfs: its hash must fit
    assert (mount.path / "objects" / oid[:2] / oid[2:4] / oid).read_bytes() == made
    print("?", file=inside.stdin, flush=True)
    assert inside.stdout.readline().strip() == f"['first'] {where} True"
    inside.communicate(timeout=10)
    assert inside.returncode == 0
    lfsfs("verify", "--store", mount.store)


@pytest.mark.slow
@pytest.mark.promise("7.7")
def test_a_successor_that_cannot_start_leaves_the_daemon_as_it_is(mount: Mount) -> None:
    settings = mount.store / "lfsfs.toml"
    with (mount.path / "incoming" / "open").open("wb", buffering=0) as file:
        file.write(b"one ")
        settings.write_text("[mount\n")
        assert "lfsfs.toml" in refused(mount)
        settings.write_text(
            '[server]\nlisten = ["127.0.0.1:1"]\ntls_certificate = "/none"\ntls_key = "/none"\n'
        )
        assert "TLS certificate" in refused(mount)
        settings.write_text("")
        restart(mount)
        file.write(b"two")
    assert (mount.path / "incoming" / "open").read_bytes() == b"one two"


def test_what_cannot_be_handed_over_is_mounted_anew(mount: Mount) -> None:
    (mount.path / "incoming" / "kept").write_bytes(b"kept")
    (mount.store / "lfsfs.toml").write_text('[mount]\numask = "077"\n')
    before = mount.pid
    named = mount.store.parent / "named.toml"
    named.write_text(f'[store]\npath = "{mount.store}"\n[mount]\nmountpoint = "{mount.path}"\n')
    assert "mounted anew" in lfsfs("restart", "--config", named)
    assert mount.pid != before
    assert "options of the mount are others now" in mount.log()
    assert (mount.path / "incoming").stat().st_mode & 0o777 == 0o700
    assert (mount.path / "incoming" / "kept").read_bytes() == b"kept"


def test_who_cannot_be_followed_says_so(tmp_path: Path) -> None:
    status, _, err = forking.run("forking:command", "restart", str(tmp_path / "none"), seconds=60)
    assert status == 3, err


def test_systemd_is_told_which_process_it_is_from_now_on(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "m")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.settimeout(60)
        daemon = subprocess.Popen(
            [LFSFS, "mount", "--foreground", mount.store, mount.path],
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert _told(listener, "READY=1") == daemon.pid == mount.pid
            settings = mount.store / "lfsfs.toml"
            settings.write_text("[mount\n")
            refused(mount)
            assert _told(listener, "RELOADING=1") == daemon.pid
            assert _told(listener, "READY=1") == daemon.pid, "it serves on"
            settings.unlink()
            restart(mount)
            assert _told(listener, "RELOADING=1") == daemon.pid
            assert _told(listener, f"MAINPID={mount.pid}") == daemon.pid
            assert _told(listener, "READY=1") == mount.pid
            assert daemon.wait(30) == 0
        finally:
            mount.stop()
            daemon.kill()
            daemon.wait()


def _told(listener: socket.socket, assignment: str) -> int:
    """The next message with this; whose it is."""
    while True:
        said, extra, _, _ = listener.recvmsg(4096, socket.CMSG_SPACE(12))
        words = said.decode().split("\n")
        if "RELOADING=1" in words:  # systemd wants to know when, on this clock
            (when,) = [int(word[15:]) for word in words if word.startswith("MONOTONIC_USEC=")]
            assert 0 <= time.monotonic_ns() // 1000 - when < 60_000_000
        if assignment in words:
            return int(struct.unpack("3i", extra[0][2])[0])


@pytest.mark.slow
@pytest.mark.promise("7.7")
@pytest.mark.parametrize(
    ("fault", "who_serves"),
    [
        ("kill:take-over:before", "the old one"),
        ("kill:hand-over:after", "the new one"),
        ("kill:hand-over:before", "nobody"),
    ],
)
def test_kill_9_in_the_middle_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, who_serves: str
) -> None:
    monkeypatch.setenv("LFSFS_FAULT", fault)
    mount = Mount(tmp_path / "m")
    with mount:
        monkeypatch.delenv("LFSFS_FAULT")
        before = mount.pid
        (mount.path / "incoming" / "committed").write_bytes(b"committed")
        file = os.open(mount.path / "incoming" / "open", os.O_WRONLY | os.O_CREAT)
        os.write(file, b"one ")
        os.kill(before, signal.SIGUSR2)
        if who_serves == "nobody":
            assert within(60, lambda: not is_running(before))
            with pytest.raises(OSError, match=r"not connected|connection abort"):
                os.write(file, b"two")
            with suppress(OSError):
                os.close(file)
            assert within(30, lambda: len(processes_that_name(mount.store)) == 0), (
                "its successor ends by itself"
            )
            mount.start()  # over the dead mount
        else:
            if who_serves == "the old one":
                assert within(60, lambda: "this daemon serves on" in mount.log())
                assert mount.pid == before
            else:
                assert within(60, lambda: mount.pid != before and not is_running(before))
            os.write(file, b"two")
            os.close(file)
            assert (mount.path / "incoming" / "open").read_bytes() == b"one two"
        assert (mount.path / "incoming" / "committed").read_bytes() == b"committed"
