"""Plotting: the statistics of a store as a picture."""

import os
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lfsfs.cli.statistics import Statistics, name_of
from lfsfs.units import format_size

INCHES = (10.0, 7.0)
DOTS_PER_INCH = 150
INK, BLUE, GREEN, GREY = "#24292f", "#2f6fb7", "#3b8a5a", "#c3cad1"
HOUR_SECONDS = 3600
STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "axes.edgecolor": GREY,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlelocation": "left", "axes.titleweight": "bold",
}  # fmt: skip


def draw(found: Statistics, file: Path) -> None:
    """Into `file`, whole or not at all; its name says whether as SVG or PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=INCHES, layout="constrained")
        panels = figure.subplots(2, 2)
        _growth(panels[0][0], found)
        _sizes(panels[0][1], found)
        _saved(panels[1][0], found)
        _places(panels[1][1], found)
        kind = file.suffix.lower().removeprefix(".")
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            figure.savefig(
                fresh, format=kind, dpi=DOTS_PER_INCH, metadata={"Date": None} if kind == "svg" else None
            )
            fresh.rename(file)
        finally:
            fresh.unlink(missing_ok=True)


def _growth(axes: Axes, found: Statistics) -> None:
    axes.set_title("Growth")
    hours = sorted(found.growth.bytes)
    if not hours:
        _nothing(axes)
        return
    now = datetime.now(UTC)  # the last hour may not be over
    ends = [datetime.fromtimestamp((hour + 1) * HOUR_SECONDS, UTC) for hour in hours]
    moments = [datetime.fromtimestamp(hours[0] * HOUR_SECONDS, UTC), *(min(end, now) for end in ends)]
    totals = [0, *accumulate(found.growth.bytes[hour] for hour in hours)]
    axes.fill_between(moments, totals, color=BLUE, alpha=0.25)  # type: ignore[arg-type]
    axes.plot(moments, totals, color=BLUE)  # type: ignore[arg-type]
    locator = AutoDateLocator(maxticks=6)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    _in_sizes(axes)


def _sizes(axes: Axes, found: Statistics) -> None:
    axes.set_title("Objects by size")
    if not found.objects:
        _nothing(axes)
        return
    numbers = range(min(found.objects), max(found.objects) + 1)
    bars = axes.bar(
        [name_of(one) for one in numbers], [found.objects.get(one, 0) for one in numbers], color=BLUE
    )
    axes.bar_label(
        bars, [f"{found.objects[one]:,}" if one in found.objects else "" for one in numbers], fontsize=8
    )
    axes.tick_params(axis="x", rotation=45)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _saved(axes: Axes, found: Statistics) -> None:
    _, raw, kept = found.vectors
    total = sum(found.bytes.values())
    axes.set_title("Saved by keeping each once")
    stored = [kept, total]
    saved = [raw - kept, found.shared or 0]
    axes.barh(["vectors", "objects"], stored, height=0.5, color=BLUE, label="stored")
    axes.barh(
        ["vectors", "objects"],
        saved,
        left=stored,
        height=0.5,
        color=GREEN,
        alpha=0.6,
        hatch="//",
        label="saved",
    )
    most = max(size + more for size, more in zip(stored, saved, strict=True))
    axes.set_xlim(0, max(1, most) * 1.2)
    for row, size in enumerate(stored):
        axes.text(size + saved[row], row, f"  {format_size(size)}", va="center", fontsize=9)
    axes.legend(frameon=False, loc="best")
    _in_sizes(axes, along="x")


def _places(axes: Axes, found: Statistics) -> None:
    axes.set_title("Where the bytes lie")
    bars = axes.barh(list(found.places), list(found.places.values()), height=0.5, color=BLUE)
    axes.set_ylim(-1, len(found.places))
    axes.bar_label(bars, [f" {format_size(size)}" for size in found.places.values()], fontsize=9)
    axes.margins(x=0.2)
    _in_sizes(axes, along="x")


def _nothing(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "no object yet", ha="center", va="center", transform=axes.transAxes)


def _in_sizes(axes: Axes, along: str = "y") -> None:
    """Lines at sizes that are as round as people write them."""
    axis = axes.yaxis if along == "y" else axes.xaxis
    largest = int((axes.get_ylim() if along == "y" else axes.get_xlim())[1])
    unit = 1 << max(0, (largest - 1).bit_length() - 2) if largest > 1 else 1
    axis.set_ticks(list(range(0, largest + 1, unit)))
    axis.set_major_formatter(
        FuncFormatter(lambda size, _: format_size(int(max(0, size))).replace(".0 ", " "))
    )
