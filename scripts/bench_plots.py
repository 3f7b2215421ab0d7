"""The plots of scripts/bench: the medians of rows that differ in one number only, as SVG."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from bench import Result

AXES = {
    "throughput by write size": ("KiB written at once", "MiB/s"),
    "files of 4 KiB a second by count": ("files", "files/s"),
    "cost by store size": ("objects in the store", "times the cost with 1,000 objects"),
}
"""Of each plot: what grows, and what is measured."""
RATIOS = ("cost by store size",)
"""Where a row is one point, its ratio, and not two."""
INCHES = (7.0, 4.0)
Lines = dict[str, dict[float, list[float]]]


def draw(results: "Iterable[Result]", folder: Path, said: str) -> list[Path]:
    """Writes a file for each plot that rows belong to. `said`: below each, the machine."""
    plots: dict[str, Lines] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for result in results:
        if (point := result.point) is None:
            continue
        lines = plots[point.plot]
        if point.plot in RATIOS:
            lines[point.line][point.x] += result.ratios
            continue
        lines[point.line][point.x] += result.ours
        lines[result.against][point.x] += result.theirs
    folder.mkdir(parents=True, exist_ok=True)
    return [_drawn(title, lines, folder, said) for title, lines in plots.items()]


def _drawn(title: str, lines: Lines, folder: Path, said: str) -> Path:
    mpl.rcParams.update({"svg.hashsalt": title, "svg.fonttype": "none", "font.family": "sans-serif"})
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot(xscale="log", title=title, xlabel=AXES[title][0], ylabel=AXES[title][1])
    for name, points in lines.items():
        xs = sorted(points)
        axes.plot(xs, [median(points[x]) for x in xs], marker="o", label=name)
    ticks = sorted({x for points in lines.values() for x in points})
    axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.supxlabel(said, fontsize="x-small", color="gray")
    path = folder / f"{title.replace(' ', '-')}.svg"
    figure.savefig(path, metadata={"Date": None})
    return path
