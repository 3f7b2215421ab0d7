"""stats: how a store has grown, of which sizes its objects are, what keeping each once saves, and where they lie."""

import argparse
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio

from lfsfs import steps
from lfsfs.cli import output
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, with_store
from lfsfs.errors import InvalidConfig
from lfsfs.store import catalog, references, sharing, sizes
from lfsfs.store.growth import HOUR_NS, PAGE_ROWS, Series, StoreGrowth
from lfsfs.store.store import Store
from lfsfs.units import format_size, iso_time

T = TypeVar("T")
KINDS = (".svg", ".png")
BAR = 30


@dataclass(frozen=True)
class Statistics:
    """`objects`, `bytes`: by class of size (store/sizes.py). `shared`: bytes that repositories would take more if each
    had its own copies, None where that is not known. `vectors`: their number, their bytes, and the bytes kept of them.
    `places`: bytes by where they lie.
    """

    growth: Series
    objects: dict[int, int]
    bytes: dict[int, int]
    shared: int | None
    vectors: tuple[int, int, int]
    places: dict[str, int]


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    stats = commands.add_parser(
        "stats",
        help="growth, sizes, deduplication and tiers of a store, as a table or a plot",
        description="Counts the objects of a store by size and by when they came, what is saved by keeping each once,"
        " and where they lie. A plot needs matplotlib: pip install 'lfsfs[plot]'.",
    )
    stats.add_argument("--plot", metavar="FILE", type=option(_plot), help="draw it: FILE.svg or FILE.png")
    add_options(stats)
    stats.set_defaults(run=run_stats)


def run_stats(arguments: argparse.Namespace) -> int:
    """Counts, then tells or draws."""
    draw = _drawing() if arguments.plot is not None else None
    found = with_store(arguments, gather, read_only=True, busy="count")
    if draw is not None:
        draw(found, arguments.plot)
        output.note(f"drawn: {arguments.plot}")
    if arguments.json:
        output.as_json(_described(found))
    elif arguments.plot is None:
        output.table(_rows(found))
    return output.DONE


def _drawing() -> Callable[[Statistics, Path], None]:
    try:
        from lfsfs.cli.plotting import draw
    except ImportError as error:
        raise InvalidConfig(
            "a plot needs matplotlib, which is not installed: pip install 'lfsfs[plot]'"
        ) from error
    return draw


async def gather(store: Store) -> Statistics:
    """Walks through the index."""
    number = store.index.view(catalog.totals)[0]
    objects, in_bytes = await _counted(sizes.count(store.index), "sizes", number)
    shared = await _counted(sharing.count(store.index), "sharing", number)
    everybody = [root.id for root in store.index.view(references.repositories)]
    return Statistics(
        growth=await _counted(StoreGrowth(store.index).count(), "growth", number),
        objects=dict(sorted(objects.items())),
        bytes=dict(sorted(in_bytes.items())),
        shared=shared.saved(everybody),
        vectors=await _vectors(store),
        places=_places(store, sum(in_bytes.values())),
    )


async def _counted(walk: Generator[None, None, T], what: str, objects: int) -> T:
    """What the walk returns, with a chance for Ctrl-C after each page."""
    steps.begin(what, objects)
    while True:
        try:
            next(walk)
        except StopIteration as end:
            value: T = end.value
            return value
        steps.add(PAGE_ROWS)
        await trio.lowlevel.checkpoint()


async def _vectors(store: Store) -> tuple[int, int, int]:
    number = raw = kept = 0
    for name in store.embeddings.collections():
        found = await store.embeddings.collection(name).stats(mean=False)
        number, raw, kept = number + found.count, raw + found.raw, kept + found.raw - found.saved
    return number, raw, kept


def _places(store: Store, total: int) -> dict[str, int]:
    if store.remote is None:
        return {"local disk": total}
    status = store.remote.status()
    here = min(total, status.cached + status.pending_bytes)
    return {
        "to upload": status.pending_bytes,
        "local and S3": here - min(here, status.pending_bytes),
        "S3 only": total - here,
    }


def _described(found: Statistics) -> dict[str, Any]:
    number, raw, kept = found.vectors
    return {
        "sizes": [
            {"from": sizes.least_of(one), "objects": objects, "bytes": found.bytes[one]}
            for one, objects in found.objects.items()
        ],
        "growth": [
            {
                "hour": iso_time(hour * HOUR_NS),
                "objects": found.growth.objects[hour],
                "bytes": found.growth.bytes[hour],
            }
            for hour in sorted(found.growth.objects)
        ],
        "saved_by_sharing": found.shared,
        "vectors": {"count": number, "bytes": raw, "saved": raw - kept},
        "places": found.places,
    }


def _rows(found: Statistics) -> list[tuple[str, str]]:
    number, raw, kept = found.vectors
    saved = "not known" if found.shared is None else format_size(found.shared)
    vectors = f"{number:,} ({format_size(raw)}); {format_size(raw - kept)} saved: equal ones are kept once"
    return [
        ("objects", f"{sum(found.objects.values()):,} ({format_size(sum(found.bytes.values()))})"),
        ("sizes", "\n".join(_histogram(found)) or "-"),
        ("saved", f"{saved} by sharing among repositories"),
        *([("vectors", vectors)] if number else []),
        ("where", "\n".join(f"{format_size(size):>8}  {place}" for place, size in found.places.items())),
    ]


def _histogram(found: Statistics) -> list[str]:
    most = max(found.objects.values(), default=1)
    return [
        f"{name_of(one):>8}  {'█' * max(1, BAR * number // most):{BAR}}  {number:,} ({format_size(found.bytes[one])})"
        for one, number in found.objects.items()
    ]


def name_of(number: int) -> str:
    """A class of sizes, by where it begins."""
    return "empty" if number == 0 else f"{format_size(sizes.least_of(number)).replace('.0 ', ' ')}+"


def _plot(text: str) -> Path:
    if Path(text).suffix.lower() not in KINDS:
        raise InvalidConfig(f"a plot is a file that ends in {' or '.join(KINDS)}: {text!r}")
    return Path(text)
