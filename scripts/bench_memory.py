"""The group memory of scripts/bench: what the daemon takes of it (VmHWM, the most that it ever had), and what of the
processor while nobody uses the mount.

The peak counts everything that is resident, pages of the index as well, which the kernel may take back; what is the
daemon's own is in the notes of docs/BENCHMARKS.md. Beside each stands a mount of an empty store.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio
from bench import Row
from bench_ground import GIB, KIB, MIB, Ground
from endurance import commit, resident

STREAMED = 16 * GIB
OBJECTS = 1_000_000
OPEN_FILES = 500
LIMIT_MIB = 200
IDLE_LIMIT_MIB = 80
IDLE_PERCENT = 0.1
IDLE_SECONDS = 120
SETTLE_SECONDS = 15  # a thread that nobody needs ends after ten, and takes its share of the figures along
Use = Callable[[Path], None]


def pid_of(mountpoint: Path) -> int:
    return int(json.loads((mountpoint / ".lfsfs" / "status").read_text())["pid"])


def peak(ground: Ground, use: Use, store: Path | None = None) -> float:
    """MiB, of a daemon that has been used so."""
    with ground.mounted(store=store) as (_, mountpoint):
        use(mountpoint)
        return resident(pid_of(mountpoint), "VmHWM")


def nothing(mountpoint: Path) -> None:
    return


def streaming(ground: Ground) -> Row:
    """Made as it is written: only the store has it on the disk."""
    size = ground.bytes(STREAMED)

    def use(mountpoint: Path) -> None:
        piece = bytearray(os.urandom(MIB))
        file = mountpoint / "incoming" / "large"
        with file.open("wb", buffering=0) as target:
            for number in range(size // MIB):
                piece[:8] = number.to_bytes(8, "big")
                target.write(piece)
        with file.open("rb", buffering=0) as source:
            while source.readinto(piece):
                pass

    return _row(ground, f"{size // MIB:,} MiB streaming in and out", use)


def many_objects(ground: Ground) -> Row:
    """All of them listed, and some read: those of 256 directories."""
    count = ground.count(OBJECTS)
    store = ground.fresh("many")

    def made() -> Path:
        if not store.exists():
            trio.run(commit, store, count)
        return store

    def use(mountpoint: Path) -> None:
        for folder in sorted((mountpoint / "objects").iterdir()):
            with os.scandir(folder) as entries:
                first = min(entries, key=lambda entry: entry.name, default=None)
            if first is not None:
                for path in Path(first).iterdir():
                    path.read_bytes()

    return _row(ground, f"{count:,} objects indexed, listed", use, made)


def open_files(ground: Ground) -> Row:
    """Written, and then all of them read; none of them closed."""
    count = ground.count(OPEN_FILES)

    def use(mountpoint: Path) -> None:
        with ExitStack() as stack:
            folder = mountpoint / "incoming"
            files = [
                stack.enter_context((folder / f"{number}").open("w+b", buffering=0))
                for number in range(count)
            ]
            for _ in range(4):
                for file in files:
                    file.write(os.urandom(256 * KIB))
            for file in files:
                file.seek(0)
                file.read(MIB)

    return _row(ground, f"{count} open files, 1 MiB written in each", use)


def _row(ground: Ground, what: str, use: Use, store: Callable[[], Path] | None = None) -> Row:
    def ours(number: int) -> float:
        return peak(ground, use, None if store is None else store())

    def theirs(number: int) -> float:
        return peak(ground, nothing)

    return Row(f"memory: {what}", "MiB", ours, theirs, "of an empty store", most=LIMIT_MIB, rounds=1)


def idle(ground: Ground) -> list[Row]:
    """A mount that was used a little, and then left alone."""

    def percent(number: int) -> float:
        with ground.mounted() as (_, mountpoint):
            (mountpoint / "incoming" / "file").write_bytes(os.urandom(MIB))
            pid = pid_of(mountpoint)
            time.sleep(SETTLE_SECONDS)
            before, seconds = processor_seconds(pid), max(10.0, IDLE_SECONDS * min(1.0, ground.scale))
            time.sleep(seconds)
            return 100 * (processor_seconds(pid) - before) / seconds

    def memory(number: int) -> float:
        with ground.mounted() as (_, mountpoint):
            (mountpoint / "incoming" / "file").write_bytes(os.urandom(MIB))
            time.sleep(SETTLE_SECONDS)
            return resident(pid_of(mountpoint))

    return [
        Row("an idle mount: processor", "% of a core", percent, None, "-", most=IDLE_PERCENT, rounds=2),
        Row("an idle mount: memory", "MiB", memory, None, "-", most=IDLE_LIMIT_MIB, rounds=2),
    ]


def processor_seconds(pid: int) -> float:
    """Of all threads of a process, by the scheduler's own clock: the usual one counts in hundredths of a second."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def group(folder: Path, scale: float) -> Iterator[tuple[list[Row], list[str]]]:
    ground = Ground(folder, scale)
    rows = [streaming(ground), many_objects(ground), open_files(ground), *idle(ground)]
    yield (
        rows,
        ["Resident at the peak (VmHWM), with the pages of the index that are mapped; idle: VmRSS now."],
    )
