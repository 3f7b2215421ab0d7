"""Bars for what takes longer than a second, for the person at the terminal: how far, how fast, how long still.

Nothing is shown in a pipe, and nothing after `output.hush()`, which --quiet and --json ask for.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

from lfsfs.cli import output

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

PATIENCE_SECONDS = 1.0
"""What is done by then needs no bar."""
REFRESH_SECONDS = 0.25
Unit = Literal["bytes", "objects", "vectors"]
Look = Callable[[], tuple[int, int | None]]
"""How much is done, and of how much; None where that is not known."""


class Bar:
    """A bar that is told what is done: a context manager, inside which `show` may be called as often as one likes."""

    def __init__(self, label: str, unit: Unit = "bytes") -> None:
        self._label = label
        self._unit: Unit = unit
        self._begun = time.monotonic()
        self._shown: Progress | None = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    def show(self, done: int, total: int | None = None) -> None:
        """`done` of `total`, in the bar's unit."""
        if self._shown is None:
            if (
                time.monotonic() - self._begun < PATIENCE_SECONDS
                or output.is_hushed()
                or not sys.stderr.isatty()
            ):
                return
            self._shown = self._started()
        completed = done if total is None else min(done, total)
        self._shown.update(self._shown.task_ids[0], completed=completed, total=total)

    def _started(self) -> "Progress":
        from rich.console import Console  # only who watches a terminal needs it
        from rich.progress import Progress

        shown = Progress(*_columns(self._unit), console=Console(stderr=True), transient=True)
        shown.add_task(self._label, total=None)
        shown.start()
        return shown


def _columns(unit: Unit) -> "list[ProgressColumn]":
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """So many a second."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {unit}/s", style="progress.data.speed")

    class Count(ProgressColumn):
        """How many, of how many."""

        def render(self, task: Task) -> Text:
            of = "" if task.total is None else f"/{task.total:,.0f}"
            return Text(
                f"{task.completed:,.0f}{of} {unit}" if task.completed or of else "", style="progress.download"
            )

    measured: list[ProgressColumn] = (
        [DownloadColumn(binary_units=True), TransferSpeedColumn()] if unit == "bytes" else [Count(), Rate()]
    )
    return [
        TextColumn("{task.description}"),
        BarColumn(),
        *measured,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]


def _nothing_known() -> tuple[int, None]:
    return 0, None


@asynccontextmanager
async def bar(
    label: str, look: Look = _nothing_known, *, quiet: bool = False, unit: Unit = "bytes"
) -> AsyncIterator[None]:
    """Shows a bar inside, looking now and then at how far it is. `quiet`: not this one."""
    if quiet or output.is_hushed() or not sys.stderr.isatty():
        yield
        return
    import trio  # a module that only has a Bar need not bring it

    with Bar(label, unit) as shown:

        async def refresh() -> None:
            while True:
                await trio.sleep(REFRESH_SECONDS)
                shown.show(*look())

        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refresh)
            try:
                yield
            except Exception as failed:  # taken out of the nursery, which would wrap it in a group
                failure = failed
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
