"""Index pages: a daemon compares the pages of its index with their sums while nobody commits anything."""

import logging
import time

import trio

from lfsfs.errors import StoreFormat
from lfsfs.store.index import Index

log = logging.getLogger("lfsfs.integrity")
LOOK_SECONDS = 60.0
LEAST_SHARE = 500
"""For so many times as long as it took, nothing is compared again: that is a fifth of a percent of a core."""


async def watch(index: Index, seconds: float = LOOK_SECONDS) -> None:
    """Looks over the index for ever, whenever nothing was committed since the last time."""
    before, pause = -1, seconds
    while True:
        await trio.sleep(pause)
        now = index.last_transaction()
        if now != before:
            before, pause = now, seconds
            continue
        begun = time.perf_counter()
        try:
            await trio.to_thread.run_sync(index.look_over)
        except StoreFormat as damaged:
            log.error("%s: `lfsfs unmount`, then `lfsfs fsck --repair` makes it anew", damaged)
        except OSError as failed:
            log.warning("the pages of the index were not compared: %s", failed)
        pause = max(seconds, LEAST_SHARE * (time.perf_counter() - begun))
