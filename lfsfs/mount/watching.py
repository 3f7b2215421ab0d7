"""Watching: what another process has changed the kernel forgets within half a second, and names that are too many.

The kernel is told from threads: it may wait for a request of ours that is under way.
"""

from collections.abc import Awaitable, Callable, Iterable

import trio

from lfsfs.embeddings import rows
from lfsfs.mount.nodes import Node, Tree
from lfsfs.store import events
from lfsfs.store.events import Event

THIN_SECONDS = 0.25
Told = Callable[[list[Event] | None, int], Awaitable[None]]
"""What has happened (None: more than is remembered), and since when, in the time of the rows of vectors."""


async def watch(tree: Tree, told: Told) -> None:
    """For ever; from where `tree.seen` says that somebody stopped, or from now on."""
    index = tree.store.index
    transaction = index.last_transaction() if tree.seen is None else -1
    start, since = tree.seen or index.view(lambda tx: (events.last(tx), rows.last_time(tx)))
    tree.seen = start, since
    while True:
        transaction = await index.changes.after(transaction)
        start, since = tree.seen
        happened, last, written = index.view(
            lambda tx, start=start: (events.since(tx, start), events.last(tx), rows.last_time(tx))  # type: ignore[misc]
        )
        tree.seen = last, written
        if happened != []:
            await told(happened, since)


async def thin(tree: Tree) -> None:
    """Has the kernel forget names when it knows too many, for ever."""
    table = tree.table
    while True:
        await table.crowded.wait()
        table.crowded = trio.Event()
        for directory, token in table.surplus():
            forget_entry(directory, directory.name_of(token))
        await trio.sleep(THIN_SECONDS)


def forget_entry(directory: Node, name: bytes) -> None:
    """What the kernel knows under this name of the directory; soon."""
    kernel = directory.tree.kernel
    if kernel is not None:
        kernel.forget_name(directory.number, name)


async def forget_inodes(tree: Tree, numbers: Iterable[int]) -> None:
    """Their attributes and pages."""

    kernel = tree.kernel
    if kernel is None:
        return

    def forget() -> None:
        for number in numbers:
            kernel.forget_pages(number)

    await trio.to_thread.run_sync(forget)
