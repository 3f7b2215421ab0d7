"""A store mounted by the real command, as its own process, and taken down again whatever happens."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import forking

LFSFS = Path(sys.executable).with_name("lfsfs")
MOUNT_SECONDS = 30
UNMOUNT_SECONDS = 30
EXIT_SECONDS = 15


class Mount:
    """`lfsfs mount FOLDER/store FOLDER/mnt OPTIONS`. `start` and `stop` may be repeated.

    The daemon is a process of its own that was forked (forking.py); with `executed`, one that the command executes.
    """

    def __init__(self, folder: Path, *options: str, executed: bool = False) -> None:
        self.store = folder / "store"
        self.path = folder / "mnt"
        self.options = options
        self.executed = executed
        self.path.mkdir(parents=True)

    def __enter__(self) -> "Mount":
        try:
            self.start()
        except BaseException:
            self._force(self.pid if (self.store / "daemon.json").exists() else None)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return int(json.loads((self.store / "daemon.json").read_text())["pid"])

    def start(self, *options: str) -> None:
        arguments = (self.store, self.path, *(options or self.options))
        if self.executed:
            lfsfs("mount", *arguments, seconds=MOUNT_SECONDS)
        else:
            fork_daemon("mount", self.store, *map(str, arguments))
        assert is_mounted(self.path), f"lfsfs mount returned, and nothing is mounted at {self.path}"

    def stop(self) -> None:
        """Unmounts with the command. Whatever is left after that is taken down by force, and is an error."""
        if not is_mounted(self.path):
            return
        pid = self.pid
        try:
            lfsfs("unmount", self.path, seconds=UNMOUNT_SECONDS)
            assert not is_mounted(self.path), f"{self.path} is mounted after lfsfs unmount"
            assert within(EXIT_SECONDS, lambda: not is_running(pid)), f"daemon {pid} outlives its mount"
        finally:
            self._force(pid)
        assert "Traceback" not in self.log(), f"the daemon's log has a traceback:\n{self.log()}"

    def _force(self, pid: int | None) -> None:
        if pid is not None and is_running(pid):
            os.kill(pid, signal.SIGKILL)
        if is_mounted(self.path):
            subprocess.run(["umount", "-l", self.path], capture_output=True, check=False)

    def log(self) -> str:
        log = self.store / "daemon.log"
        return log.read_text(errors="replace") if log.exists() else ""


def lfsfs(*arguments: str | Path, seconds: float = 60) -> str:
    """Runs the command; its standard output. Not 0 is a failure that shows what it said."""
    status, out, err = forking.run("forking:command", *map(str, arguments), seconds=seconds)
    assert status == 0, f"lfsfs {' '.join(map(str, arguments))}: exit {status}\n{out}{err}"
    return out


def fork_daemon(command: str, store: Path, *arguments: str) -> None:
    """`lfsfs COMMAND ARGUMENTS` as lfsfs/cli/background.py starts it, but forked; returns when it serves."""
    reading, writing = os.pipe()
    try:
        forking.fork(
            "forked_daemon:serve", command, store, *arguments, files=[writing], out=2, err=2, session=True
        ).forget()
        os.close(writing)
        said = b""
        while select.select([reading], [], [], MOUNT_SECONDS)[0] and (piece := os.read(reading, 65536)):
            said += piece
    finally:
        os.close(reading)
    news = json.loads((said or b"{}").splitlines()[-1])
    assert news.get("ready"), f"lfsfs {command} {' '.join(arguments)}: {news or 'ended without a word'}"


def mounts_below(folder: Path) -> list[Path]:
    """Every FUSE mount at or below a folder."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    points = [Path(fields[4]) for line in lines if (fields := line.split()) and " fuse" in line]
    return [point for point in points if point == folder or folder in point.parents]


def is_mounted(path: Path) -> bool:
    return path in mounts_below(path)


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended (a zombie has)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def processes_that_name(folder: Path) -> list[str]:
    """`pid command line` of every process with this folder on its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.fsencode(folder) in command and int(entry.name) != os.getpid():
            found.append(f"{entry.name} {command.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


def within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether it becomes true in so many seconds."""
    deadline = time.monotonic() + seconds
    while not (held := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return held
