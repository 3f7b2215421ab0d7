"""The measurements behind scripts/bench. A group is a list of rows; a row is two sides that alternate, round by round.

A machine is never quiet for long: what counts is the ratio of two sides that ran in turns, its median and its spread.
"""

import argparse
import json
import operator
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROUNDS = 5
NO_SHA_INSTRUCTIONS = {"OPENSSL_ia32cap": ":~0x20000000"}
"""Makes OpenSSL, and with it hashlib, hash as on a processor that has no instructions for SHA (OPENSSL_ia32cap(3))."""
QUICK = 1 / 32
Side = Callable[[int], float]
"""One measurement, in the row's unit; it is told the round."""


@dataclass(frozen=True)
class Point:
    """Where a row stands in a plot of the group. `x`: what grows from row to row; `line`: what ours is called there."""

    plot: str
    x: float
    line: str = "lfsfs"


@dataclass
class Row:
    """Two sides of one thing. `bar`: the ratio ours / theirs that is required: ">=", "<=" or "<" and a number."""

    name: str
    unit: str
    ours: Side = field(repr=False)
    theirs: Side | None = field(repr=False)
    """None: there is nothing to compare with, only what ours has to reach or stay below."""
    against: str
    bar: tuple[str, float] | None = None
    least: float | None = None
    """What ours has to reach whatever theirs does, in the row's unit."""
    most: float | None = None
    """What ours has to stay below."""
    rounds: int | None = None
    """At most so many: of what takes long, and is the same each time."""
    point: Point | None = None


@dataclass
class Result:
    """What one row came to."""

    name: str
    unit: str
    against: str
    ours: list[float]
    theirs: list[float]
    bar: tuple[str, float] | None
    least: float | None
    most: float | None
    point: Point | None = None

    @property
    def ratios(self) -> list[float]:
        """None of them where there is no other side."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=bool(self.theirs))]

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.theirs else None

    @property
    def holds(self) -> bool:
        if self.least is not None and statistics.median(self.ours) < self.least:
            return False
        if self.most is not None and statistics.median(self.ours) >= self.most:
            return False
        if self.bar is None or self.ratio is None:
            return True
        kind, value = self.bar
        return _COMPARED[kind](self.ratio, value)

    @property
    def asked(self) -> str:
        said = [] if self.bar is None else [f"{self.bar[0]} {self.bar[1]:g}"]
        said += [] if self.least is None else [f">= {self.least:,g} {self.unit}"]
        said += [] if self.most is None else [f"< {self.most:,g} {self.unit}"]
        return ", ".join(said)


_COMPARED: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
}
Made = AbstractContextManager[tuple[list[Row], list[str]]]
"""A group's rows, and what there is to say beside; what was started for them ends with the block."""
Group = Callable[[Path, float], Made]
"""Makes a group in a folder, at a scale: 1 is what its bars were set for, less is for trying."""


def measured(rows: list[Row], rounds: int) -> Iterator[Result | str]:
    """Of each row its result, or why there is none: a run of hours does not end with one row that fails."""
    for row in rows:
        ours: list[float] = []
        theirs: list[float] = []
        try:
            for number in range(min(rounds, row.rounds or rounds)):
                sides = [(ours, row.ours), *([] if row.theirs is None else [(theirs, row.theirs)])]
                for figures, side in sides if number % 2 else reversed(sides):
                    figures.append(side(number))
        except (SystemExit, OSError, subprocess.SubprocessError) as failed:
            yield f"{row.name}: {str(failed).strip() or type(failed).__name__}"
            continue
        yield Result(row.name, row.unit, row.against, ours, theirs, row.bar, row.least, row.most, row.point)


def shown(figures: list[float], unit: str) -> str:
    if not figures:
        return "-"
    median = statistics.median(figures)
    return f"{median:,.0f} {unit}" if median >= 100 else f"{median:.3g} {unit}"


def line(result: Result) -> str:
    ratios = result.ratios
    compared = ("-", "-") if result.ratio is None else (
        f"{result.ratio:.2f}", f"{min(ratios):.2f}-{max(ratios):.2f}"
    )  # fmt: skip
    holds = "-" if not result.asked else "yes" if result.holds else "**no**"
    cells = (
        result.name, result.against, *compared, result.asked or "-", holds,
        shown(result.ours, result.unit), shown(result.theirs, result.unit),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    processor = names[0] if names else platform.processor()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    sha = ", without its SHA instructions" if NO_SHA_INSTRUCTIONS.items() <= os.environ.items() else ""
    return f"{os.cpu_count()} x {processor}{sha}, {memory} GiB, {system}"


def whole(group: Callable[[Path], Made]) -> Group:
    """A group that knows one scale only."""
    return lambda folder, scale: group(folder)


def groups() -> dict[str, Group]:
    import bench_embeddings  # beside this file
    import bench_gitlfs
    import bench_ingest
    import bench_memory
    import bench_metadata
    import bench_read
    import bench_s3
    import bench_server
    import bench_small

    return {
        "ingest": bench_ingest.group,
        "read": bench_read.group,
        "small": bench_small.group,
        "metadata": bench_metadata.group,
        "gitlfs": bench_gitlfs.group,
        "memory": bench_memory.group,
        "s3": whole(bench_s3.group),
        "embeddings": whole(bench_embeddings.group),
        "server": whole(bench_server.group),
    }


def apart(folder: Path) -> Path:
    """A folder in it that lies far from every other on the disk, as those of the root do; where that is ext4.

    An ext4 without a journal takes no inode that was deleted in the last minutes, and looks at each of them for every
    file that is made near by: what a run before has deleted would make this one ten times as slow.
    """
    subprocess.run(
        ["chattr", "+T", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )
    return Path(tempfile.mkdtemp(dir=folder))  # its name decides where it lies, so that it must be new


def table(group: Group, scale: float, only: str, rounds: int) -> tuple[list[Result], list[str]]:
    """Measures a group, and prints its table as it grows; the results, and what failed."""
    results, failures, begun = [], [], time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="lfsfs-bench-") as folder,
        group(apart(Path(folder)), scale) as (rows, notes),
    ):
        print(
            "| what | beside | ratio | spread | bar | holds | lfsfs | the other |\n|---|---|---|---|---|---|---|---|"
        )
        for result in measured([row for row in rows if only in row.name], rounds):
            if isinstance(result, str):
                failures.append(result)
                continue
            print(line(result), flush=True)
            results.append(result)
        took = f"It took {(time.monotonic() - begun) / 60:.0f} minutes."
        print("\n" + "\n".join([*notes, *(f"Failed: {failed}" for failed in failures), took]), flush=True)
    return results, failures


def main() -> int:
    known = groups()
    parser = argparse.ArgumentParser(description="Measures lfsfs beside what else there is.")
    parser.add_argument(
        "group", nargs="*", metavar="GROUP", help=f"{', '.join(known)} (default: all of them)"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="rows with this in their name")
    parser.add_argument("--json", type=Path, help="a file for every figure")
    parser.add_argument("--plots", type=Path, help="a folder for plots of the figures (SVG)")
    parser.add_argument(
        "--quick", action="store_true", help="small, and two rounds: for trying, not for the bars"
    )
    parser.add_argument("--size", type=float, default=1.0, help="so much of what the bars are set for (1)")
    parser.add_argument(
        "--no-sha-instructions", action="store_true", help="hash as a processor does that has none for SHA"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.group if name not in known]:
        parser.error(f"no group {', '.join(unknown)}: there are {', '.join(known)}")
    if arguments.no_sha_instructions and not NO_SHA_INSTRUCTIONS.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **NO_SHA_INSTRUCTIONS})
    scale, rounds = (QUICK, 2) if arguments.quick else (arguments.size, arguments.rounds)
    print(f"{machine()}; load {os.getloadavg()[0]:.1f} before; {rounds} rounds", flush=True)
    if scale != 1:
        print(f"At {scale:g} of the size that the bars are set for.")
    results: dict[str, list[Result]] = {}
    failed = False
    for name in arguments.group or known:
        print(f"\n## {name}\n", flush=True)
        results[name], failures = table(known[name], scale, arguments.only, rounds)
        failed = failed or bool(failures)
        keep(results, scale, arguments.json, arguments.plots)
    return 1 if failed or not all(result.holds for found in results.values() for result in found) else 0


def keep(results: dict[str, list[Result]], scale: float, file: Path | None, plots: Path | None) -> None:
    """What there is so far."""
    if file is not None:
        file.write_text(json.dumps(figures(results, scale), indent=1) + "\n")
    if plots is not None:
        from bench_plots import draw

        draw([result for found in results.values() for result in found], plots, machine())


def figures(results: dict[str, list[Result]], scale: float) -> dict[str, Any]:
    rows = [
        {"group": name, **asdict(result), "ratio": result.ratio, "holds": result.holds}
        for name, found in results.items()
        for result in found
    ]
    return {"machine": machine(), "scale": scale, "results": rows}


if __name__ == "__main__":
    sys.exit(main())
