"""top: what goes on in a mount just now: throughput, cache, uploads, slow operations."""

import argparse
import math
import os
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lfsfs import mounts
from lfsfs.cli import output, sample
from lfsfs.cli.options import option
from lfsfs.cli.sample import Sample
from lfsfs.errors import InvalidConfig, NotFound, Unavailable
from lfsfs.units import SECOND_NS, format_age, format_size

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

HISTORY = 40
BARS = " ▁▂▃▄▅▆▇█"
SHOWN_SLOW = 8
GAUGE = 20
WHOLE_COLUMNS = 10_000
"""Of what is printed once: nothing is cut off."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    top = commands.add_parser(
        "top",
        help="watch a mount: throughput, cache, uploads, slow operations",
        description="Shows what goes on in a mount, anew each second. q ends it. What the kernel answers from its own"
        " cache goes past the mount, and is not counted.",
    )
    top.add_argument("mountpoint", metavar="MNT", nargs="?", type=Path, help="default: the only lfsfs mount")
    top.add_argument("--interval", metavar="SECONDS", type=option(_seconds), default=1.0, help="default: 1")
    top.add_argument("--once", action="store_true", help="measure for one interval, print that, and end")
    top.add_argument("--json", action="store_true", help="with --once: print JSON")
    top.set_defaults(run=run_top)


def run_top(arguments: argparse.Namespace) -> int:
    """Watches, or measures once."""
    mountpoint = _chosen(arguments.mountpoint)
    if arguments.json and not arguments.once:
        raise InvalidConfig("--json goes with --once")
    if not arguments.once:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise InvalidConfig("there is no terminal to watch at: give --once")
        return _watch(mountpoint, arguments.interval)
    before = sample.take(mountpoint)
    time.sleep(arguments.interval)
    now = sample.take(mountpoint)
    speeds = sample.rates(before, now)
    if arguments.json:
        output.as_json(
            {"seconds": now.at - before.at, "per_second": speeds, "total": now.counters, **now.said}
        )
    else:
        from rich.console import Console

        console = Console(no_color=True, highlight=False, width=WHOLE_COLUMNS)
        with console.capture() as printed:
            console.print(shown(now, speeds, {}, width=WHOLE_COLUMNS))
        for text in printed.get().splitlines():
            output.line(text.rstrip())
    return output.DONE


def _watch(mountpoint: Path, interval: float) -> int:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    histories: dict[str, deque[float]] = {}
    before: Sample | None = None
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                now = sample.take(mountpoint)
            except Unavailable as away:
                before = None
                live.update(Text(f"{away}\n\nq ends this", "red"), refresh=True)
            else:
                speeds = sample.rates(before or now, now)
                for name, speed in speeds.items():
                    histories.setdefault(name, deque(maxlen=HISTORY)).append(speed)
                live.update(
                    shown(now, speeds, histories, width=console.width, height=console.height), refresh=True
                )
                before = now
            if _quits(interval):
                return output.DONE


@contextmanager
def _keys() -> Iterator[None]:
    """Each key comes as it is pressed, and is not shown."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _quits(seconds: float) -> bool:
    """Whether q is pressed within so long."""
    end = time.monotonic() + seconds
    while select.select([sys.stdin], [], [], max(0.0, end - time.monotonic()))[0]:
        typed = os.read(sys.stdin.fileno(), 64)
        if not typed or typed in (b"q", b"Q", b"\x1b"):
            return True
    return False


def shown(
    now: Sample, speeds: dict[str, float], histories: dict[str, deque[float]], *, width: int, height: int = 24
) -> "Group":
    """All of it, for a terminal of so many columns and lines."""
    from rich.console import Group
    from rich.text import Text

    said = now.said
    age = format_age(time.time() - said["started"] / SECOND_NS)
    head = Text.assemble(
        ("lfsfs top", "bold"), f"  {output.safe(said['mountpoint'])}", no_wrap=True, overflow="ellipsis"
    )
    below = Text(f"{output.safe(said['store'])}, for {age}, {said['open_files']} open files", "dim",
                 no_wrap=True, overflow="ellipsis")  # fmt: skip
    parts: list[RenderableType] = [
        head,
        below,
        Text(),
        _speeds(now, speeds, histories, width),
        Text(),
        _standing(said),
    ]
    lines = 5 + (6 if said.get("remote") else 3) + (4 if said.get("remote") else 2)
    parts += [Text(), *_slow(said["traffic"]["slow"], min(SHOWN_SLOW, max(1, height - lines - 5)), width)]
    return Group(*parts, Text("\nq quits", "dim") if histories else Text())


def _speeds(
    now: Sample, speeds: dict[str, float], histories: dict[str, deque[float]], width: int
) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    rows = [("read", "read_bytes"), ("written", "written_bytes"), ("opened", "opens")]
    if now.said.get("remote"):
        rows += [("from S3", "fetched_bytes"), ("to S3", "uploaded_bytes")]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("now", justify="right", no_wrap=True, min_width=12)
    table.add_column("in all", justify="right", no_wrap=True, min_width=9)
    if histories and width >= 60:
        table.add_column("", no_wrap=True)
    for label, name in rows:
        is_size = name.endswith("bytes")
        speed, total = speeds.get(name, 0.0), now.counters.get(name, 0)
        cells = [
            Text(label),
            Text(f"{format_size(int(speed))}/s" if is_size else f"{speed:.0f}/s", "bold" if speed else "dim"),
            Text(format_size(total) if is_size else f"{total:,}"),
        ]
        if histories and width >= 60:
            cells.append(Text(sparkline(list(histories.get(name, ()))[-(width - 40) :]), "cyan"))
        table.add_row(*cells)
    return table


def sparkline(values: list[float]) -> str:
    """A character each, the highest that of the largest value."""
    most = max(values, default=0.0)
    return "".join(BARS[math.ceil(8 * value / most) if most else 0] for value in values)


def _standing(said: dict[str, object]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True, min_width=7)
    table.add_column(overflow="ellipsis", no_wrap=True)
    size = format_size(int(str(said["bytes"])))
    table.add_row(
        "store",
        f"{int(str(said['objects'])):,} objects, {size}; {format_size(int(str(said['disk_free'])))} of the disk free",
    )
    remote = said.get("remote")
    if not isinstance(remote, dict):
        table.add_row("S3", "none")
        return table
    moved = remote["moved"]
    opened = moved["hits"] + moved["misses"]
    hits = f"{100 * moved['hits'] // opened}% of opens were hits" if opened else "nothing was opened yet"
    state = ("does not answer", "bold red") if remote["degraded"] else ("answers", "green")
    table.add_row("S3", Text.assemble(state, f", {output.safe(remote['url'])}, {remote['mode']}"))
    table.add_row("cache", Text.assemble(
        (gauge(remote["cached"], remote["cache_limit"]), "cyan"),
        f" {format_size(remote['cached'])} of {format_size(remote['cache_limit'])}; {hits}",
    ))  # fmt: skip
    waits = (
        f"{remote['pending_objects']:,} objects ({format_size(remote['pending_bytes'])}) wait"
        if remote["pending_objects"]
        else "nothing waits"
    )
    put_off = f", {remote['failing']} put off" if remote["failing"] else ""
    table.add_row("uploads", f"{waits}, {remote['uploading']} on the way{put_off}")
    return table


def gauge(used: int, limit: int) -> str:
    """A bar of GAUGE characters."""
    full = min(GAUGE, GAUGE * used // max(1, limit))
    return "█" * full + "░" * (GAUGE - full)


def _slow(slow: list[dict[str, object]], most: int, width: int) -> list["RenderableType"]:
    from rich.table import Table
    from rich.text import Text

    if not slow:
        return [Text("slow operations: none so far", "dim")]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, min_width=8)
    table.add_column(justify="right", no_wrap=True, min_width=7)
    table.add_column(no_wrap=True, min_width=6)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for one in slow[-most:][::-1]:
        when = time.strftime("%H:%M:%S", time.localtime(float(str(one["ended"]))))
        table.add_row(
            when, f"{float(str(one['seconds'])):.2f} s", str(one["operation"]), output.safe(str(one["what"]))
        )
    return [Text("slow operations", "bold"), table]


def _chosen(given: Path | None) -> Path:
    """The mount given, or the only one; one that answers."""
    if given is None:
        there = mounts.lfsfs_mounts()
        if len(there) != 1:
            which = (
                f"mounted are {', '.join(str(entry.mountpoint) for entry in there)}"
                if there
                else "nothing is mounted"
            )
            raise InvalidConfig(f"which mount? {which}: give MNT")
        given = there[0].mountpoint
    entry = mounts.mount_of(given)
    if entry is None:
        raise NotFound(f"no lfsfs mount at {given}: `lfsfs` shows the mounts")
    if mounts.health(entry.mountpoint) != "alive":
        raise Unavailable(
            f"{entry.mountpoint} does not answer: `lfsfs unmount {entry.mountpoint}` takes it down"
        )
    return entry.mountpoint


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise InvalidConfig("it is a number of seconds, 0.1 to 3600")
    return seconds
