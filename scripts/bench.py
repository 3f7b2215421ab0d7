"""The measurements behind scripts/bench. A group is a list of rows; a row is two sides that alternate, round by round.

A machine is never quiet for long: what counts is the ratio of two sides that ran in turns, its median and its spread.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROUNDS = 5
NO_SHA_INSTRUCTIONS = {"OPENSSL_ia32cap": ":~0x20000000"}
"""Makes OpenSSL, and with it hashlib, hash as on a processor that has no instructions for SHA (OPENSSL_ia32cap(3))."""
Side = Callable[[int], float]
"""One measurement, in the row's unit; it is told the round."""


@dataclass
class Row:
    """Two sides of one thing. `bar`: the ratio ours / theirs that is required, at least (">=") or less than ("<")."""

    name: str
    unit: str
    ours: Side = field(repr=False)
    theirs: Side = field(repr=False)
    against: str
    bar: tuple[str, float] | None = None
    least: float | None = None
    """What ours has to reach whatever theirs does, in the row's unit."""
    most: float | None = None
    """What ours has to stay below."""
    rounds: int | None = None
    """At most so many: of what takes long, and is the same each time."""


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

    @property
    def ratios(self) -> list[float]:
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def holds(self) -> bool:
        if self.least is not None and statistics.median(self.ours) < self.least:
            return False
        if self.most is not None and statistics.median(self.ours) >= self.most:
            return False
        if self.bar is None:
            return True
        kind, value = self.bar
        return self.ratio >= value if kind == ">=" else self.ratio < value

    @property
    def asked(self) -> str:
        said = [] if self.bar is None else [f"{self.bar[0]} {self.bar[1]:g}"]
        said += [] if self.least is None else [f">= {self.least:,.0f} {self.unit}"]
        said += [] if self.most is None else [f"< {self.most:,.0f} {self.unit}"]
        return ", ".join(said)


Group = Callable[[Path], AbstractContextManager[tuple[list[Row], list[str]]]]
"""Makes a group's rows in a folder, and what there is to say beside; what it started ends with the block."""


def measured(rows: list[Row], rounds: int) -> Iterator[Result]:
    for row in rows:
        ours: list[float] = []
        theirs: list[float] = []
        for number in range(min(rounds, row.rounds or rounds)):
            sides = [(ours, row.ours), (theirs, row.theirs)]
            for figures, side in sides if number % 2 else reversed(sides):
                figures.append(side(number))
        yield Result(row.name, row.unit, row.against, ours, theirs, row.bar, row.least, row.most)


def shown(figures: list[float]) -> str:
    median = statistics.median(figures)
    return f"{median:,.0f}" if median >= 100 else f"{median:.3g}"


def line(result: Result) -> str:
    ratios = result.ratios
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    cells = (
        result.name, result.against, f"{result.ratio:.2f}", spread,
        result.asked or "-", "yes" if result.holds else "**no**",
        f"{shown(result.ours)} {result.unit}", f"{shown(result.theirs)} {result.unit}",
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


def main() -> int:
    import bench_embeddings  # beside this file
    import bench_s3
    import bench_server

    groups: dict[str, Group] = {
        "embeddings": bench_embeddings.group,
        "s3": bench_s3.group,
        "server": bench_server.group,
    }
    parser = argparse.ArgumentParser(description="Measures lfsfs beside what else there is.")
    parser.add_argument("group", choices=groups)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="rows with this in their name")
    parser.add_argument("--json", type=Path, help="a file for every figure")
    parser.add_argument(
        "--no-sha-instructions", action="store_true", help="hash as a processor does that has none for SHA"
    )
    arguments = parser.parse_args()
    if arguments.no_sha_instructions and not NO_SHA_INSTRUCTIONS.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **NO_SHA_INSTRUCTIONS})
    print(f"{machine()}; load {os.getloadavg()[0]:.1f} before; {arguments.rounds} rounds\n", flush=True)
    results = []
    with (
        tempfile.TemporaryDirectory(prefix="lfsfs-bench-") as folder,
        groups[arguments.group](Path(folder)) as made,
    ):
        rows, notes = made
        print(
            "| what | beside | ratio | spread | bar | holds | lfsfs | the other |\n|---|---|---|---|---|---|---|---|"
        )
        for result in measured([row for row in rows if arguments.only in row.name], arguments.rounds):
            print(line(result), flush=True)
            results.append(result)
        print("\n" + "\n".join(notes))
    if arguments.json is not None:
        found = {
            "machine": machine(),
            "results": [asdict(result) | {"ratio": result.ratio} for result in results],
        }
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
