"""Placing: how the bytes of a sealed file come into a tier."""

from collections.abc import Callable
from functools import partial

import trio

from lfsfs.store.staged_file import Sealed
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.tier import Tier

Work = Callable[[], None]
"""What is still to be done, in a thread: it blocks."""


async def put_sealed(tier: Tier, sealed: Sealed) -> Work | None:
    """Puts the sealed file into the tier. A few bytes for the local disk are left to the one who writes their row."""
    if sealed.content is not None:
        if isinstance(tier, LocalTier):
            return partial(tier.place_bytes, sealed.oid, sealed.content, sealed.mode, sealed.path)
        sealed = await trio.to_thread.run_sync(sealed.written_out)
    await tier.put(sealed.oid, sealed.path)
    return None
