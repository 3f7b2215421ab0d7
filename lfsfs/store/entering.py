"""Entering: the rows that make bytes an object, all of them in one transaction."""

import time
from collections.abc import Callable

from lfsfs.store import catalog, journal, residents, trashed, unreferenced
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.staged_file import Sealed
from lfsfs.store.write_ahead import WriteAhead

Rows = Callable[[Tx], None]
"""Writes rows."""


def enter(
    tx: Tx, sealed: Sealed, present: ObjectStat | None, ahead: WriteAhead | None, *more: Rows | None
) -> ObjectStat:
    """Writes all rows of an object whose bytes the tiers have; its row. `present`: the one that it has already.

    `ahead`: what keeps its bytes until they are on disk. `more`: what else is to be written with it.
    """
    if present is None or present.state != "whole":
        present = _new_row(sealed)
        catalog.put(tx, present, sealed.blocks)
    unreferenced.forget(tx, sealed.oid)  # whoever made it anew has the grace time to refer to it
    trashed.forget(tx, sealed.oid)
    if ahead is not None:
        ahead.put(tx, sealed)
    for write in more:
        if write is not None:
            write(tx)
    return present


def enter_small(
    tx: Tx,
    sealed: Sealed,
    ahead: WriteAhead,
    with_it: Rows | None,
    *,
    uploads: bool,
    check: Rows | None = None,
) -> ObjectStat | None:
    """Makes an object of few bytes, its file included; its row. None: it takes more, and nothing is written.

    `uploads`: it is to come into a remote tier. `check` may raise, before anything is done.

    No deletion of this object can be under way, as that has a row, nor begin before the transaction ends.
    """
    if sealed.content is None or catalog.get(tx, sealed.oid) is not None or not ahead.takes(tx, sealed):
        return None
    if check is not None:
        check(tx)
    ahead.tier.place_bytes(sealed.oid, sealed.content, sealed.mode, sealed.path)
    if uploads and residents.get(tx, sealed.oid) is None:
        journal.enter(tx, sealed.oid, sealed.size, stored=ahead.tier.stored_size(sealed.size))
    return enter(tx, sealed, None, ahead, with_it)


def _new_row(sealed: Sealed) -> ObjectStat:
    now = time.time_ns()
    return ObjectStat(sealed.oid, sealed.size, now, now, sealed.mode, sealed.content_type, "whole")
