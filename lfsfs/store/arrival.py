"""Arrival: seeing to it that the remote tier has an object, before somebody is told that it was pushed."""

from pathlib import Path

import trio

from lfsfs.errors import Unavailable
from lfsfs.store import digests, journal
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.fetches import SLOWEST_BYTES_PER_SECOND
from lfsfs.store.hashing import Digest
from lfsfs.store.layout import is_served
from lfsfs.store.remote import Remote
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.store import Store

POLL_SECONDS = 0.1


async def ensure_remote(store: Store, row: ObjectStat) -> None:
    """Returns when the remote tier has the object, or the store has none. Unavailable at the deadline.

    An object that waits for its upload is uploaded by the store's daemon, or here where there is none.
    """
    remote = store.remote
    if remote is None:
        return
    if isinstance(row, RenderedStat):
        await _store_rendered(store, remote, row)
        return
    deadline = trio.current_time() + remote.options.deadline + row.size / SLOWEST_BYTES_PER_SECOND
    asked = False
    while (pending := store.index.view(lambda tx: journal.get(tx, row.oid))) is not None:
        if not is_served(store.layout):
            await remote.upload(pending)
        elif trio.current_time() > deadline:
            raise Unavailable(
                f"object {row.oid} still waits for its upload by the daemon of {store.layout.path}"
            )
        elif not asked:
            await store.index.update(journal.ask_for_retry)
            asked = True
        else:
            await trio.sleep(POLL_SECONDS)


async def _store_rendered(store: Store, remote: Remote, row: RenderedStat) -> None:
    """The bytes of an object that is made of a vector, for machines that have not derived it. It is a small one."""
    tier = await remote.tier()
    file = store.staging.new_path()
    try:
        await store.get(row.oid, file)
        note = digests.encode(row.oid, row.size, await trio.to_thread.run_sync(_block_digests, file))

        async def put() -> None:
            if digests.needs_note(row.size):
                await tier.put_note(digests.note_key(row.oid), note)
            await tier.put(row.oid, file)

        await remote.circuit.call(put, remote.options.deadline)
    finally:
        file.unlink(missing_ok=True)


def _block_digests(file: Path) -> bytes:
    digest = Digest()
    digest.update(file.read_bytes())
    return digest.blocks()
