"""Adoption: a store is given a remote tier, and whatever lies on its local disk is to go there."""

import logging

from lfsfs.oid import Oid
from lfsfs.store import catalog, journal, residents, unrecorded
from lfsfs.store.index import Index, Tx
from lfsfs.store.unrecorded import REMOTE_KEY
from lfsfs.tiers.local import LocalTier

log = logging.getLogger("lfsfs.remote")
PAGE = 1_000


async def adopt(index: Index, local: LocalTier, remote: str) -> int:
    """Puts whatever lies on the local disk into the journal, once for each remote tier that the store is given.

    `remote`: the identity of that tier.
    """
    before = index.view(lambda tx: tx.get("meta", REMOTE_KEY))
    if index.read_only or before == remote.encode():
        return 0
    after, number = None, 0
    while page := await local.scan(after, PAGE):
        after = page[-1]
        number += await index.update(lambda tx, page=page: _enter_all(tx, page, local))  # type: ignore[misc]
    await index.update(lambda tx: _finish(tx, remote))
    if number:
        log.info("%d objects on the local disk wait for their upload to %s", number, remote)
    elsewhere = index.view(catalog.totals)[0] - index.view(journal.backlog).objects
    if before is not None and elsewhere > 0:
        log.warning(
            "%d objects were only in %s: copy them to %s, or mount the store with the former again",
            elsewhere, before.decode(), remote,
        )  # fmt: skip
    return number


def _finish(tx: Tx, remote: str) -> None:
    tx.put("meta", REMOTE_KEY, remote.encode())
    unrecorded.mark_everything(tx, catalog.counter(tx, b"last_inode"))


def _enter_all(tx: Tx, page: list[Oid], local: LocalTier) -> int:
    number = 0
    for oid in page:
        row = catalog.get(tx, oid)
        if row is not None and row.state == "whole":
            residents.drop(tx, oid)
            journal.enter(tx, oid, row.size, stored=local.stored_size(row.size))
            number += 1
    return number
