"""The long runs: one file of many gigabytes, a store of many objects. Prints figures; fails where a promise is broken.

endurance.py large [GIB]      a file through incoming/ and back, with an eye on the daemon's memory (default 8)
endurance.py many [OBJECTS]   a store of many objects beside one of 1,000: what need not be slower (default 100,000)
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from lfsfs import ObjectStat, Oid, Store, open_store
from lfsfs.store import catalog, references
from lfsfs.store.hashing import Digest
from lfsfs.store.index import Tx

LFSFS = Path(sys.executable).with_name("lfsfs")
MIB = 1 << 20
MEMORY_LIMIT_MIB = 150
SAMPLE_SECONDS = 0.02
FEW = 1_000
OBJECT_BYTES = 100
BATCH = 2_000
FIXED_SECONDS = 0.5  # any step may take so much longer: the noise of a busy machine
RUNS = 4  # of a step whose figure counts
FLAT_FACTOR = 2.0  # a step that must not be linear may take so many times as long, for the same reason
EACH_FACTOR = 3.0  # a step that has to be linear may take so much longer for each object


class Broken(Exception):
    """A figure is not what it has to be."""


class Memory(threading.Thread):
    """Looks at a process's memory until `end`; the most that was seen, MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0.0
        self.samples = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, resident(self.pid))
            self.samples += 1

    def end(self) -> None:
        self._ended.set()
        self.join()
        self.peak = max(self.peak, resident(self.pid, "VmHWM"))


def resident(pid: int, field: str = "VmRSS") -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def private(pid: int) -> float:
    """MiB that are the process's own: without the pages of the index, which the kernel takes back at need."""
    return resident(pid, "RssAnon")


def run(*command: str | Path) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        raise Broken(f"{command[0]} {command[1]}: exit {done.returncode}: {done.stderr.decode()[-1000:]}")


def timed(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def least(call: Callable[[], object]) -> float:
    """Seconds of the quickest of a few runs: the others had to wait for somebody else."""
    return min(timed(call) for _ in range(RUNS))


@contextmanager
def mounted(store: Path, mountpoint: Path, *options: str) -> Iterator[int]:
    """Mounts; the daemon's pid. Unmounts whatever happens."""
    mountpoint.mkdir(exist_ok=True)
    run(LFSFS, "mount", store, mountpoint, *options)
    try:
        yield int(status_of(mountpoint)["pid"])
    finally:
        run(LFSFS, "unmount", mountpoint)


def status_of(mountpoint: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((mountpoint / ".lfsfs" / "status").read_text())
    return found


def report(what: str, figure: str) -> None:
    print(f"  {what:<44} {figure}", flush=True)


# One large file.


def large(folder: Path, gibibytes: int) -> None:
    source, back, mountpoint = folder / "source", folder / "back", folder / "mnt"
    size = gibibytes << 30
    report(f"making {gibibytes} GiB", f"{timed(lambda: fill(source, size)):.0f} s")
    with mounted(folder / "store", mountpoint) as pid:
        report("daemon, before", f"{resident(pid):.0f} MiB")
        dropped = mountpoint / "incoming" / "large"
        steps: list[tuple[str, Callable[[], None]]] = [
            ("cp into incoming/", lambda: run("cp", source, dropped)),
            ("cp back", lambda: run("cp", dropped, back)),
            ("cmp through the mount", lambda: run("cmp", source, dropped)),
            ("cmp of what came back", lambda: run("cmp", source, back)),
        ]
        worst = 0.0
        for what, step in steps:
            memory = Memory(pid)
            memory.start()
            seconds = timed(step)
            memory.end()
            worst = max(worst, memory.peak)
            speed = size / seconds / 1e6
            report(
                what,
                f"{seconds:6.1f} s  {speed:5.0f} MB/s  peak {memory.peak:.0f} MiB ({memory.samples} looks)",
            )
    if worst > MEMORY_LIMIT_MIB:
        raise Broken(f"the daemon took {worst:.0f} MiB: {MEMORY_LIMIT_MIB} is the most")


def fill(path: Path, size: int) -> None:
    """A file no two mebibytes of which are alike."""
    noise = bytearray(os.urandom(MIB))
    with path.open("wb", buffering=0) as file:
        for number in range(size // MIB):
            noise[:8] = number.to_bytes(8, "big")
            file.write(noise)


# Many small objects.

Figures = dict[str, float]
FLAT = (
    "mount",
    "ls objects",
    "ls objects/aa",
    "ls repos/r/objects/aa",
    "lfsfs status",
    "lfsfs ls, one page",
    "unmount",
)
"""What may not take longer because there is more elsewhere in the store."""
EACH = ("walk of repos/r/objects", "lfsfs ls, everything", "git lfs prune --dry-run", "unmount after a walk")
"""What has to look at every object."""


def many(folder: Path, objects: int) -> None:
    few, lots = (measured(folder / f"{count}", count) for count in (FEW, objects))
    print(f"\n  {'':<28} {FEW:>10,} {objects:>12,}")
    for what in (*FLAT, *EACH):
        print(f"  {what:<28} {few[what]:>8.3f} s {lots[what]:>10.3f} s")
    slow = [what for what in FLAT if lots[what] > FLAT_FACTOR * few[what] + FIXED_SECONDS]
    slow += [what for what in EACH if lots[what] > EACH_FACTOR * few[what] * objects / FEW + FIXED_SECONDS]
    if slow:
        raise Broken(f"slower than it may be with {objects:,} objects: {', '.join(slow)}")


def measured(folder: Path, count: int) -> Figures:
    """Seconds that each step takes on a store of so many objects, all referred to by the repository root r."""
    folder.mkdir()
    store, mountpoint, clone = folder / "store", folder / "mnt", folder / "clone"
    mountpoint.mkdir()
    seconds = timed(lambda: trio.run(commit, store, count))
    report(f"{count:,} objects committed", f"{seconds:6.1f} s  {count / seconds:.0f} a second")
    mount, unmount = (LFSFS, "mount", store, mountpoint), (LFSFS, "unmount", mountpoint)
    run(*mount)
    try:
        figures = looked_at(store, mountpoint, clone, count)
    finally:
        ends = [timed(lambda: run(*unmount))]
    starts = []
    for _ in range(RUNS):
        starts.append(timed(lambda: run(*mount)))
        ends.append(timed(lambda: run(*unmount)))
    return figures | {"mount": min(starts), "unmount": min(ends), "unmount after a walk": ends[0]}


def looked_at(store: Path, mountpoint: Path, clone: Path, count: int) -> Figures:
    pid = status_of(mountpoint)["pid"]
    before = private(pid)
    root = mountpoint / "repos" / "r"
    figures = {
        "ls objects": least(lambda: run("ls", "-l", mountpoint / "objects")),
        "ls objects/aa": least(lambda: run("ls", "-l", mountpoint / "objects" / "aa")),
        "ls repos/r/objects/aa": least(lambda: run("ls", "-l", root / "objects" / "aa")),
        "lfsfs status": least(lambda: run(LFSFS, "status", "--store", store)),
        "lfsfs ls, one page": least(lambda: run(LFSFS, "ls", "--store", store, "--limit", "20")),
        "lfsfs ls, everything": timed(lambda: run(LFSFS, "ls", "--store", store, "--limit", f"{count}")),
        "walk of repos/r/objects": timed(lambda: run("find", root / "objects", "-type", "f", "-size", "+0")),
    }
    walked = status_of(mountpoint)["nodes"]
    report("daemon, before and after a walk", f"{before:.0f} MiB, {private(pid):.0f} MiB, {walked:,} nodes")
    if os.access("/proc/sys/vm/drop_caches", os.W_OK):
        Path("/proc/sys/vm/drop_caches").write_text("2")
        left = forgotten(mountpoint)
        report("when the kernel has forgotten them", f"{private(pid):.0f} MiB, {left:,} nodes")
        if left > walked / 10:
            raise Broken(f"{left:,} of {walked:,} nodes stay when the kernel has forgotten them")
    run("git", "init", "-q", clone)
    author = ("-c", "user.name=lfsfs", "-c", "user.email=lfsfs@localhost")
    run("git", "-C", clone, *author, "commit", "-q", "--allow-empty", "-m", "nothing")
    run(LFSFS, "attach", clone, "--name", "r", "--mount", mountpoint)
    prune = ("git", "-C", clone, "lfs", "prune", "--dry-run")
    figures["git lfs prune --dry-run"] = timed(lambda: run(*prune))
    report(
        "and after a prune", f"{private(pid):.0f} MiB, and {resident(pid, 'RssFile'):.0f} MiB of mapped files"
    )
    if private(pid) > MEMORY_LIMIT_MIB:
        raise Broken(f"the daemon took {private(pid):.0f} MiB: {MEMORY_LIMIT_MIB} is the most")
    return figures


def forgotten(mountpoint: Path) -> int:
    """How many nodes are left once they get no fewer."""
    left = status_of(mountpoint)["nodes"]
    while True:
        time.sleep(0.5)
        now = status_of(mountpoint)["nodes"]
        if now == left:
            return now
        left = now


async def commit(store: Path, count: int) -> None:
    """Bytes first, then rows and references, as every commit; but many to a transaction."""
    async with open_store(store, create=True, durability="fast") as opened:
        root = await opened.add_repository("r")
        for start in range(0, count, BATCH):
            rows = [stored(opened, number) for number in range(start, min(start + BATCH, count))]

            def enter(tx: Tx, rows: list[tuple[ObjectStat, bytes]] = rows) -> None:
                for row, digests in rows:
                    catalog.put(tx, row, digests)
                    references.add(tx, root.id, row.oid)

            await opened.index.update(enter)


def stored(opened: Store, number: int) -> tuple[ObjectStat, bytes]:
    content = (b"object %d " % number).ljust(OBJECT_BYTES, b".")
    digest = Digest()
    digest.update(content)
    oid, now = Oid.of(content), time.time_ns()
    path = opened.layout.objects / oid.path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return ObjectStat(oid, len(content), now, now, 0o644, "text/plain", "whole"), digest.blocks()


def main() -> int:
    parser = argparse.ArgumentParser(description="The long runs of lfsfs.")
    runs = parser.add_subparsers(dest="run", required=True)
    runs.add_parser("large").add_argument("amount", nargs="?", type=int, default=8)
    runs.add_parser("many").add_argument("amount", nargs="?", type=int, default=100_000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lfsfs-endurance-"))
    try:
        (large if arguments.run == "large" else many)(folder, arguments.amount)
    except Broken as broken:
        print(f"endurance: FAILED: {broken}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("endurance: all is as it has to be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
