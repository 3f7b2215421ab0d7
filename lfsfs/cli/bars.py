"""Bars for what takes longer than a second, for the person at the terminal: how far, how fast, how long still.

Nothing is shown in a pipe, and nothing after `output.hush()`, which --quiet and --json ask for.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from lfsfs.cli import output
from lfsfs.steps import Steps, Unit, told, watched

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task

PATIENCE_SECONDS = 1.0
"""What is done by then needs no bar."""
REFRESH_SECONDS = 0.25
Look = Callable[[], tuple[int, int | None]]
"""How much is done, and of how much; None where that is not known."""


class Bar:
    """A bar that is told what is done: a context manager, inside which it may be told as often as one likes."""

    def __init__(self, label: str, unit: Unit = "bytes") -> None:
        self._label = label
        self._unit: Unit = unit
        self._part = ""
        self._begun = time.monotonic()
        self._shown: Progress | None = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.stop()
            self._shown = None

    @property
    def is_shown(self) -> bool:
        return self._shown is not None

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

    def show_steps(self, steps: Steps) -> None:
        """How far the work is that has several parts; rate and time left are those of the part."""
        if steps.what != self._part or steps.unit != self._unit:
            self._part, self._unit = steps.what, steps.unit
            if self._shown is not None:
                self._shown.reset(
                    self._shown.task_ids[0], description=self._description(), unit=self._unit, total=None
                )
        self.show(steps.done, steps.of)

    def _description(self) -> str:
        return f"{self._label}: {self._part}" if self._part else self._label

    def _started(self) -> "Progress":
        from rich.console import Console  # only who watches a terminal needs it
        from rich.progress import Progress

        shown = Progress(*_columns(), console=Console(stderr=True), transient=True)
        shown.add_task(self._description(), total=None, unit=self._unit)
        shown.start()
        return shown


def _columns() -> "list[ProgressColumn]":
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """So many a second."""

        of_bytes = TransferSpeedColumn()

        def render(self, task: "Task") -> Text:
            if task.fields["unit"] == "bytes":
                return self.of_bytes.render(task)
            speed = task.finished_speed or task.speed
            return Text(
                "" if speed is None else f"{speed:,.0f} {task.fields['unit']}/s", style="progress.data.speed"
            )

    class Count(ProgressColumn):
        """How many, of how many."""

        of_bytes = DownloadColumn(binary_units=True)

        def render(self, task: "Task") -> Text:
            if not task.completed and not task.total:
                return Text("")
            if task.fields["unit"] == "bytes":
                return self.of_bytes.render(task)
            of = "" if task.total is None else f"/{task.total:,.0f}"
            return Text(f"{task.completed:,.0f}{of} {task.fields['unit']}", style="progress.download")

    return [
        TextColumn("{task.description}"),
        BarColumn(),
        Count(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]


@contextmanager
def opening(label: str = "open") -> Iterator[None]:
    """Shows a bar inside, where what is opened is to be brought in order first."""
    if output.is_hushed() or not sys.stderr.isatty():
        yield
        return
    with Bar(label) as shown, told(shown.show_steps, REFRESH_SECONDS):
        yield


@asynccontextmanager
async def bar(
    label: str, look: Look | None = None, *, quiet: bool = False, unit: Unit = "bytes"
) -> AsyncIterator[None]:
    """Shows a bar inside, looking now and then at how far it is; without `look`, at what is told to lfsfs.steps.

    `quiet`: not this one.
    """
    if quiet or output.is_hushed() or not sys.stderr.isatty():
        yield
        return
    import trio  # a module that only has a Bar need not bring it

    with watched() as steps, Bar(label, unit) as shown:

        async def refresh() -> None:
            while True:
                await trio.sleep(REFRESH_SECONDS)
                if look is None:
                    shown.show_steps(steps)
                else:
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
