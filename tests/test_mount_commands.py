"""mount and unmount, in whatever state the place, the store or an earlier daemon is."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gitlfs.mounted import (
    LFSFS,
    Mount,
    is_mounted,
    is_running,
    lfsfs,
    mounts_below,
    processes_that_name,
    within,
)

from lfsfs import mounts
from lfsfs.mounts import health

pytestmark = [pytest.mark.mount, pytest.mark.timeout(180)]

HOLD_OPEN = "import sys, time; file = open(sys.argv[1], 'rb'); print('open', flush=True); time.sleep(600)"


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


def run(*arguments: str | Path, cwd: Path | None = None) -> Ended:
    done = subprocess.run(
        [LFSFS, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def fails(ended: Ended, status: int, *said: str) -> None:
    """It ended so, with one line that says all of this, and no traceback."""
    assert ended.status == status, ended
    assert ended.err.startswith("lfsfs: ")
    assert ended.err.count("\n") == 1, ended.err
    for words in said:
        assert words in ended.err


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Whatever a test did: no mount and no process of it outlives it, or it fails."""
    yield
    left = mounts_below(tmp_path), processes_that_name(tmp_path)
    for place in reversed(left[0]):
        subprocess.run(["umount", "-l", place], check=False)
    for process in left[1]:
        os.kill(int(process.split()[0]), signal.SIGKILL)
    assert left == ([], [])


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with Mount(tmp_path / "m", executed=True) as mount:
        yield mount


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """A store and a mountpoint that do not exist yet."""
    return tmp_path / "store", tmp_path / "mnt"


# mount.


def test_mount_returns_when_the_mount_answers_and_status_knows_it(mount: Mount) -> None:
    assert os.listdir(mount.path / "repos") == []
    found = json.loads(lfsfs("status", "--json", "--store", mount.store))
    assert (found["pid"], found["mountpoint"], found["store"]) == (
        mount.pid,
        str(mount.path),
        str(mount.store),
    )
    assert is_running(found["pid"])
    said = lfsfs("status", "--store", mount.path)
    assert f"{mount.path}, daemon {mount.pid}, for " in said


def test_a_mountpoint_stands_for_its_store(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"by its mountpoint")
    oid = lfsfs("put", tmp_path / "f", "--store", mount.path).split()[0]
    assert lfsfs("get", oid, "--store", mount.path / "objects") == "by its mountpoint"


def test_the_background_daemon_keeps_no_terminal_no_directory_and_a_log(mount: Mount) -> None:
    process = Path(f"/proc/{mount.pid}")
    assert os.readlink(process / "cwd") == "/"
    assert os.readlink(process / "fd/0") == "/dev/null"
    assert os.readlink(process / "fd/1") == os.readlink(process / "fd/2") == str(mount.store / "daemon.log")
    assert os.getsid(mount.pid) == mount.pid


def test_mounting_twice_is_done_already_and_changes_nothing(mount: Mount) -> None:
    pid = mount.pid
    again = run("mount", mount.store, mount.path)
    assert (again.status, "already" in again.err) == (0, True)
    assert mount.pid == pid
    assert mounts_below(mount.path) == [mount.path]
    fails(run("mount", "-f", mount.store, mount.path), 4, "already")


def test_relative_paths_and_symbolic_links_mean_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert run("mount", "link/store", "link/mnt", cwd=tmp_path).status == 0
    assert is_mounted(tmp_path / "real" / "mnt")
    assert run("mount", "link/store", "link/mnt", cwd=tmp_path).status == 0
    assert run("unmount", "link/mnt", cwd=tmp_path).status == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["with space", "comma,comma", "back\\slash", "née", "new\nline", "tab\tand#"]
)
def test_any_name_can_be_mounted_found_and_unmounted(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    store, mountpoint = folder / "the store", folder / "the mount"
    assert run("mount", store, mountpoint).status == 0
    entry = mounts.mount_at(mountpoint)
    assert entry is not None
    assert (entry.store, entry.mountpoint) == (store, mountpoint)
    assert json.loads(lfsfs("status", "--json", "--store", store))["mountpoint"] == str(mountpoint)
    assert run("unmount", mountpoint).status == 0


def test_a_mountpoint_may_have_any_bytes_but_the_path_of_a_store_is_utf_8(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"odd\xff")
    fails(run("mount", odd, tmp_path / "mnt"), 2, "must be valid UTF-8", "odd\\xff")
    assert not odd.exists()
    assert run("mount", tmp_path / "store", odd).status == 0
    assert json.loads(lfsfs("status", "--json", "--store", odd))["mountpoint"] == str(odd)
    assert run("unmount", odd).status == 0


def test_a_place_that_is_not_empty_is_refused_by_name(paths: tuple[Path, Path]) -> None:
    store, mountpoint = paths
    mountpoint.mkdir()
    (mountpoint / "precious").write_text("")
    fails(run("mount", store, mountpoint), 4, f"{mountpoint}: it is not empty", "'precious'")
    assert not store.exists()


def test_a_missing_mountpoint_is_made_but_not_the_way_to_it(paths: tuple[Path, Path]) -> None:
    store, mountpoint = paths
    fails(run("mount", store, mountpoint / "deeper"), 3, f"there is no directory {mountpoint}")
    assert run("mount", store, mountpoint).status == 0
    assert run("unmount", mountpoint).status == 0
    assert mountpoint.is_dir()


def test_what_cannot_be_a_mountpoint_is_said(paths: tuple[Path, Path]) -> None:
    store, mountpoint = paths
    mountpoint.write_text("a file")
    fails(run("mount", store, mountpoint), 2, f"{mountpoint}: it is not a directory")
    store.mkdir()
    fails(run("mount", store, store / "mnt"), 2, "in the store itself")
    fails(run("mount", store, store), 2, "in the store itself")
    fails(
        run("mount", mountpoint.parent / "new" / "store", mountpoint.parent / "new"),
        2,
        "would hide the store",
    )


def test_what_is_no_store_is_said_and_leaves_no_trace(paths: tuple[Path, Path]) -> None:
    store, mountpoint = paths
    store.write_text("a file")
    fails(run("mount", store, mountpoint), 1, f"{store} is not a directory")
    store.unlink()
    store.mkdir()
    (store / "holiday.jpg").write_text("")
    fails(run("mount", store, mountpoint), 1, "neither empty nor a store", "holiday.jpg")
    assert os.listdir(store) == ["holiday.jpg"]
    (store / "lfsfs.json").write_text('{"format": 999, "id": "00000000-0000-0000-0000-000000000000"}')
    fails(run("mount", store, mountpoint), 1, "newer lfsfs")
    assert not mountpoint.exists()


@pytest.mark.parametrize("damage", [b"", b"foreign" * 1000, None])
def test_a_damaged_index_is_told_by_the_command_though_the_daemon_found_it(
    mount: Mount, damage: bytes | None
) -> None:
    mount.stop()
    data = mount.store / "index" / "data.mdb"
    if damage is None:
        os.truncate(data, data.stat().st_size // 2)
    else:
        data.write_bytes(damage)
    ended = run("mount", mount.store, mount.path)
    fails(ended, 1, str(mount.store / "index"))
    assert not is_mounted(mount.path)
    assert ended.err in mount.log()


def test_a_store_is_served_by_one_daemon_and_a_place_by_one_store(mount: Mount, tmp_path: Path) -> None:
    fails(run("mount", mount.store, tmp_path / "elsewhere"), 4, str(mount.store))
    assert not (tmp_path / "elsewhere").exists()
    fails(run("mount", tmp_path / "other", mount.path), 4, "another store is mounted", str(mount.store))
    assert os.listdir(mount.path / "repos") == []


def test_everything_may_come_from_a_file(tmp_path: Path) -> None:
    config = tmp_path / "lfsfs.toml"
    config.write_text(
        f'[store]\npath = "{tmp_path}/store"\ndurability = "fast"\n'
        f'[mount]\nmountpoint = "{tmp_path}/mnt"\numask = "077"\nread_only = false\n'
    )
    assert run("mount", "--config", config).status == 0
    assert (tmp_path / "mnt" / "incoming").stat().st_mode & 0o777 == 0o700
    assert run("unmount", tmp_path / "mnt").status == 0
    assert run("mount", "--config", config, "--umask", "027").status == 0
    assert (tmp_path / "mnt" / "incoming").stat().st_mode & 0o777 == 0o750
    assert run("unmount", tmp_path / "mnt").status == 0


def test_a_killed_daemon_is_recognised_and_replaced_by_the_next_mount(mount: Mount) -> None:
    (mount.path / "incoming" / "kept").write_bytes(b"committed")
    os.kill(mount.pid, signal.SIGKILL)
    assert within(10, lambda: health(mount.path) == "dead")
    ended = run("mount", mount.store, mount.path)
    assert (ended.status, "took away the dead mount" in ended.err) == (0, True)
    assert mounts_below(mount.path) == [mount.path]
    assert (mount.path / "incoming" / "kept").read_bytes() == b"committed"


@pytest.mark.slow
def test_a_wedged_mount_is_not_mounted_over(mount: Mount) -> None:
    pid = mount.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        fails(run("mount", mount.store, mount.path), 4, "does not answer", "lfsfs unmount")
    finally:
        os.kill(pid, signal.SIGCONT)


def test_an_interrupted_mount_ends_its_daemon(paths: tuple[Path, Path]) -> None:
    store, mountpoint = paths
    mounting = subprocess.Popen([LFSFS, "mount", store, mountpoint], stderr=subprocess.PIPE)
    assert within(20, lambda: len(processes_that_name(store)) > 1 or mounting.poll() is not None)
    mounting.send_signal(signal.SIGINT)
    _, err = mounting.communicate(timeout=30)
    if mounting.returncode == 0:  # it was quicker than we
        lfsfs("unmount", mountpoint)
        return
    assert (mounting.returncode, err) == (130, b"")
    assert within(30, lambda: processes_that_name(store) == [])
    assert not is_mounted(mountpoint)


# unmount.


def test_unmount_returns_when_the_daemon_has_ended(mount: Mount) -> None:
    pid = mount.pid
    (mount.path / "incoming" / "last").write_bytes(b"written just before")
    assert run("unmount", mount.path).status == 0
    assert not is_running(pid)
    assert not is_mounted(mount.path)
    assert not (mount.store / "daemon.json").exists()
    mount.start()
    assert (mount.path / "incoming" / "last").read_bytes() == b"written just before"


def test_where_nothing_is_mounted_there_is_nothing_to_unmount(mount: Mount, tmp_path: Path) -> None:
    fails(run("unmount", tmp_path), 3, f"no lfsfs mount at {tmp_path}", str(mount.path))
    fails(run("unmount", mount.path / "objects"), 3, f"unmount {mount.path}")
    fails(run("unmount", "/proc"), 3, "no lfsfs mount at /proc")


@pytest.fixture
def holder(mount: Mount) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts a process that keeps the mount busy, and ends it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str | Path, cwd: Path | None = None) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([sys.executable, "-c", *arguments], cwd=cwd, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def test_who_keeps_a_mount_busy_is_named_and_nothing_changes(
    mount: Mount, holder: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    (mount.path / "incoming" / "film.mov").write_bytes(b"film")
    reader = holder(HOLD_OPEN, mount.path / "incoming/film.mov")
    stander = holder("print(1, flush=True); import time; time.sleep(600)", cwd=mount.path / "incoming")
    ended = run("unmount", mount.path)
    fails(ended, 4, f"{mount.path} is in use", f"(pid {reader.pid}) has incoming/film.mov open")
    fails(ended, 4, f"(pid {stander.pid}) works there", "--force")
    assert (mount.path / "incoming" / "film.mov").read_bytes() == b"film"
    for process in (reader, stander):
        process.kill()
        process.wait(30)
    assert run("unmount", mount.path).status == 0


def test_a_mapped_file_keeps_a_mount_busy_too(
    mount: Mount, holder: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    (mount.path / "incoming" / "mapped").write_bytes(b"x" * 4096)
    mapping = (
        "import mmap, sys, time; f = open(sys.argv[1], 'rb');"
        " m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close(); print(1, flush=True); time.sleep(600)"
    )
    process = holder(mapping, mount.path / "incoming/mapped")
    fails(run("unmount", mount.path), 4, f"(pid {process.pid})", "incoming/mapped")


def test_a_mount_in_the_mount_is_named(mount: Mount) -> None:
    (mount.path / "incoming" / "inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", mount.path / "incoming" / "inner"], check=True)
    try:
        fails(run("unmount", mount.path), 4, f"{mount.path}/incoming/inner is mounted in it")
    finally:
        subprocess.run(["umount", mount.path / "incoming" / "inner"], check=True)


def test_force_unmounts_what_is_in_use(
    mount: Mount, holder: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    (mount.path / "incoming" / "open").write_bytes(b"content")
    holder(HOLD_OPEN, mount.path / "incoming/open")
    pid = mount.pid
    assert run("unmount", "--force", mount.path).status == 0
    assert (is_mounted(mount.path), is_running(pid)) == (False, False)
    mount.start()
    assert (mount.path / "incoming" / "open").read_bytes() == b"content"


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_a_dead_mount_is_unmounted(mount: Mount, options: tuple[str, ...]) -> None:
    os.kill(mount.pid, signal.SIGKILL)
    assert within(10, lambda: health(mount.path) == "dead")
    assert run("unmount", *options, mount.path).status == 0
    assert not is_mounted(mount.path)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--force",)])
def test_a_mount_whose_daemon_hangs_is_unmounted(mount: Mount, options: tuple[str, ...]) -> None:
    pid = mount.pid
    (mount.path / "incoming" / "kept").write_bytes(b"committed")
    os.kill(pid, signal.SIGSTOP)
    waiting = subprocess.Popen(["ls", mount.path / "objects"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run("unmount", *options, mount.path).status == 0
    assert (is_mounted(mount.path), is_running(pid)) == (False, False)
    waiting.communicate(timeout=30)
    mount.start()
    assert (mount.path / "incoming" / "kept").read_bytes() == b"committed"


def test_health_tells_the_living_the_hanging_and_the_dead(mount: Mount) -> None:
    pid = mount.pid
    assert health(mount.path) == "alive"
    os.kill(pid, signal.SIGSTOP)
    assert health(mount.path, seconds=1) == "wedged"
    os.kill(pid, signal.SIGCONT)
    assert health(mount.path) == "alive"
    os.kill(pid, signal.SIGKILL)
    assert within(10, lambda: health(mount.path) == "dead")
    assert run("unmount", mount.path).status == 0


# In the foreground, as systemd runs it.


class Service:
    """`lfsfs mount --foreground` with a socket that hears what it tells systemd."""

    def __init__(self, folder: Path, watchdog_seconds: float) -> None:
        self.store, self.path = folder / "store", folder / "mnt"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "notify"))
        self.socket.settimeout(30)
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(int(watchdog_seconds * 1_000_000)),
        }
        self.process = subprocess.Popen(
            [LFSFS, "mount", "--foreground", self.store, self.path], env=environment, stderr=subprocess.PIPE
        )

    def hears(self, assignment: str) -> bool:
        """Waits until it says this."""
        while True:
            try:
                said = self.socket.recv(4096).decode().split("\n")
            except TimeoutError:
                return False
            if assignment in said:
                return True

    def ended(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=60)
        self.socket.close()
        return self.process.returncode, err.decode()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, watchdog_seconds=1.0)
    yield service
    if service.process.poll() is None:
        service.process.kill()
        service.ended()
    service.socket.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_says_when_it_serves_and_when_it_stops(service: Service, number: int) -> None:
    assert service.hears("READY=1")
    assert health(service.path) == "alive"
    assert all(service.hears("WATCHDOG=1") for _ in range(3))
    (service.path / "incoming" / "f").write_bytes(b"x")
    service.process.send_signal(number)
    assert service.hears("STOPPING=1")
    status, err = service.ended()
    assert status == 0, err
    assert "Traceback" not in err
    assert not is_mounted(service.path)
