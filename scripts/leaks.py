"""Runs a command and fails when the command leaves a mount or a process behind, which it then removes.

    leaks.py COMMAND [ARGUMENT…]

The command gets a temporary folder of its own (TMPDIR), which is removed afterwards; LFSFS_KEEP=1 keeps it.
What belongs to the command is told by that folder and by a mark in the environment, so that anything else
that runs on the machine at the same time is left alone.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

MARK = "LFSFS_RUN"
SETTLE_SECONDS = 5.0  # how long what is just ending may take to end


@dataclass(frozen=True)
class Leaks:
    """What is still there: processes (pid and command line) and mountpoints, innermost first."""

    processes: dict[int, str]
    mountpoints: list[str]

    def __bool__(self) -> bool:
        return bool(self.processes or self.mountpoints)


def main(command: list[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="lfsfs-run-")).resolve()
    folder.chmod(0o755)
    mark = f"{MARK}={uuid.uuid4()}"
    status = run(command, folder, mark)
    leaks = settled(folder, mark)
    for pid, line in leaks.processes.items():
        print(f"left behind: process {pid}: {line}", file=sys.stderr)
    for mountpoint in leaks.mountpoints:
        print(f"left behind: mount {mountpoint}", file=sys.stderr)
    remove(leaks)
    if os.environ.get("LFSFS_KEEP"):
        print(f"kept: {folder}", file=sys.stderr)
    elif not mountpoints(folder):
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if leaks else status


def run(command: list[str], folder: Path, mark: str) -> int:
    """The command's exit status, 128 + N when signal N ended it. Ctrl-C is the command's to handle."""
    name, _, value = mark.partition("=")
    environment = os.environ | {"TMPDIR": str(folder), name: value}
    process = subprocess.Popen(command, env=environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    status = process.wait()
    return status if status >= 0 else 128 - status


def settled(folder: Path, mark: str) -> Leaks:
    """What is left once everything has had its time to end."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        leaks = Leaks(processes(folder, mark), mountpoints(folder))
        if not leaks or time.monotonic() > deadline:
            return leaks
        time.sleep(0.1)


def processes(folder: Path, mark: str) -> dict[int, str]:
    """The processes that carry the mark, or name the folder in their command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            marked = mark.encode() in (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it ended, or is another user's
            continue
        if marked or f"{folder}/" in line:
            found[int(entry.name)] = line
    return found


def mountpoints(folder: Path) -> list[str]:
    """The mountpoints inside the folder, innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mountpoint = line.split()[4].encode().decode("unicode_escape")
        if mountpoint.startswith(f"{folder}/"):
            found.append(mountpoint)
    return found[::-1]


def remove(leaks: Leaks) -> None:
    for pid in leaks.processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for mountpoint in leaks.mountpoints:
        if subprocess.run(["umount", "-l", mountpoint], check=False).returncode != 0:
            subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
