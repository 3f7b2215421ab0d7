"""Epochs: how gc makes sure that every reference made by a lookup is in the index.

gc begins an epoch when it has written down which objects nothing refers to. The daemon of the store answers it by a
transaction of its own, which comes after all that it had deferred. From then on whoever looks up one of these objects
refers to it at once (lfsfs.store.references). A daemon that is stopped does not answer, and nothing is deleted.
"""

import logging
from pathlib import Path

import trio

from lfsfs.alone import try_alone
from lfsfs.errors import LfsfsError, Unavailable
from lfsfs.store import unreferenced
from lfsfs.store.index import Index
from lfsfs.store.layout import DAEMON_LOCK, Layout

log = logging.getLogger("lfsfs.store")
LOOK_SECONDS = 0.1
RETRY_SECONDS = 0.25
ANSWER_SECONDS = 30.0


async def answer(index: Index) -> None:
    """Answers epochs, for ever: whoever lets others look up objects does so, on the same trio thread."""
    transaction = -1
    while True:
        transaction = await index.changes.after(transaction)
        asked, seen = index.view(lambda tx: (unreferenced.epoch(tx), unreferenced.seen(tx)))
        if asked != seen:
            try:
                await index.update(lambda tx, asked=asked: unreferenced.answer(tx, asked))  # type: ignore[misc]
            except (LfsfsError, OSError) as failed:
                log.error("gc gets no answer yet: %s", failed)
                transaction = -1
                await trio.sleep(RETRY_SECONDS)


async def settled(index: Index, layout: Layout) -> None:
    """Begins an epoch, and returns when no reference from before it is on its way. Unavailable after ANSWER_SECONDS."""
    epoch = await index.update(unreferenced.begin_epoch)
    with trio.move_on_after(ANSWER_SECONDS):
        while has_daemon(layout.path):
            if index.view(unreferenced.seen) >= epoch:
                return
            await trio.sleep(LOOK_SECONDS)
        return
    raise Unavailable(
        f"the daemon of {layout.path} does not answer, so that it is not known what it refers to: nothing was deleted"
    )


def has_daemon(store: Path) -> bool:
    """Whether there is one. A daemon that starts just now tries for longer to get the lock than this holds it."""
    with (store / DAEMON_LOCK).open("a+b") as lock:
        return not try_alone(lock, shared=True)
