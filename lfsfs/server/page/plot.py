"""Plot: how the bytes grew, as geometry for an SVG that stretches, with its labels beside it, and as a table."""

from dataclasses import dataclass
from datetime import UTC, datetime

from lfsfs.store.growth import Series
from lfsfs.units import format_size

WIDTH, HEIGHT = 600, 200
STEPS_HOURS = (1, 6, 24, 7 * 24, 28 * 24, 91 * 24, 364 * 24)
"""What a bar may stand for: the finest is taken that leaves few enough of them."""
MOST_BARS = 60
LEAST_BARS = 12
_HOUR_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Bar:
    """What came in within a step. `x`, `width`: in the drawing."""

    x: float
    width: float
    when: str
    objects: int
    bytes: int
    total: int


@dataclass(frozen=True, slots=True)
class Plot:
    """`lines`: the heights of the lines of the grid, from the top, with what they stand for; `dates`: left to right."""

    area: str
    edge: str
    bars: list[Bar]
    lines: list[tuple[float, str]]
    dates: list[str]
    summary: str


def draw(series: Series, now: float) -> Plot | None:
    """The plot from the first object until `now` (seconds since 1970); None where there is nothing to draw."""
    if not series.bytes:
        return None
    last = max(int(now) // _HOUR_SECONDS, max(series.bytes))
    first = min(series.bytes)
    step = next((step for step in STEPS_HOURS if (last - first) // step < MOST_BARS), STEPS_HOURS[-1])
    low, high = first // step, last // step
    low = min(low, high - LEAST_BARS + 1)  # what began today is a line, not a block
    bars = _bars(series, step, low, high)
    unit = _unit(bars[-1].total)
    top = unit * max(1, -(-bars[-1].total // unit))
    points = [(0.0, 0)] + [(bar.x + bar.width, bar.total) for bar in bars]
    edge = " ".join(f"{x:.1f},{HEIGHT - HEIGHT * total / top:.1f}" for x, total in points)
    lines = [
        (HEIGHT - HEIGHT * at / top, format_size(at).replace(".0 ", " ")) for at in range(top, -1, -unit)
    ]
    dates = [_dated(at * step, step) for at in (low, (low + high) // 2, high)]
    summary = f"From {bars[0].when} to {bars[-1].when}: {format_size(bars[-1].total)} in all."
    return Plot(f"0,{HEIGHT} {edge} {WIDTH},{HEIGHT}", edge, bars, lines, dates, summary)


def _bars(series: Series, step: int, low: int, high: int) -> list[Bar]:
    objects = dict.fromkeys(range(low, high + 1), 0)
    sizes = objects.copy()
    for hour, count in series.objects.items():
        objects[hour // step] += count
        sizes[hour // step] += series.bytes[hour]
    width = WIDTH / len(objects)
    found, total = [], 0
    for number, at in enumerate(objects):
        total += sizes[at]
        found.append(Bar(number * width, width, _named(at * step, step), objects[at], sizes[at], total))
    return found


def _named(hour: int, step: int) -> str:
    """UTC."""
    moment = datetime.fromtimestamp(hour * _HOUR_SECONDS, UTC)
    return f"{moment:%Y-%m-%d %H:%M}" if step < 24 else f"{moment:%Y-%m-%d}"


def _dated(hour: int, step: int) -> str:
    """As `_named`, and shorter: there is little room below the drawing."""
    return _named(hour, step)[5 if step < 24 else 0 :]


def _unit(largest: int) -> int:
    """Bytes between two lines of the grid: a power of two, so that there are three or four of them below the top."""
    return 1 << max(0, (largest - 1).bit_length() - 2) if largest > 1 else 1
