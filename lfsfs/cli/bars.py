"""A bar for what takes long, for the person at the terminal: how far, how fast, how long still."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

REFRESH_SECONDS = 0.25


@asynccontextmanager
async def bar(label: str, look: Callable[[], tuple[int, int]], *, quiet: bool) -> AsyncIterator[None]:
    """Shows a bar on standard error inside; nothing where `quiet`, or where that is no terminal.

    `look` says how many bytes are done, and of how many.
    """
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # only who watches a terminal needs it
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(label, total=None)

        def show() -> None:
            done, total = look()
            shown.update(task, completed=min(done, total), total=total)

        async def refresh() -> None:
            while True:
                show()
                await trio.sleep(REFRESH_SECONDS)

        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refresh)
            try:
                yield
            except Exception as failed:  # taken out of the nursery, which would wrap it in a group
                failure = failed
            nursery.cancel_scope.cancel()
        show()
        if failure is not None:
            raise failure
