"""vacuum: what is past its time goes for good, and what is left over is swept. Reports what that freed."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from lfsfs.store import packs
from lfsfs.store.gc import Roots, bring_back
from lfsfs.store.remote import ABANDONED_SECONDS
from lfsfs.store.staging import sweep
from lfsfs.store.store import Store

_SECOND_NS = 10**9
_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What a run did. `bytes`: what that freed, in all.

    `trashed`: objects that left the trash for good; `restored`: those that a clone had come to need, and that are in
    the store again; `remote`: objects in the remote tier that are past their time, and stay. `packs`: written anew.
    """

    trashed: int
    bytes: int
    restored: int
    directories: int
    staged: int
    uploads: int
    packs: int
    remote: int


async def vacuum(store: Store, roots: Sequence[Roots], *, keep: float) -> Vacuumed:
    """Empties the trash of what went longer ago than `keep` seconds, rewrites packs of vectors, gives free pages of the
    index back, and removes what dead processes left staged, uploads that nobody goes on with, and empty directories.

    What gc took, and a clone needs now, is restored instead. RootUnreadable: nothing was done.
    """
    before = time.time_ns() - int(keep * _SECOND_NS)
    due = {row.oid for row in store.trash.since(0) if row.when < before and row.reason == "gc"}
    restored = await bring_back(store, roots, due)
    emptied = await store.trash.empty(before)
    index = _size(store.layout.index)
    packed = _packed(store)
    rewritten = await store.embeddings.vacuum()
    await store.index.trim()
    staged = await trio.to_thread.run_sync(sweep, store.layout.staging)
    staged += await trio.to_thread.run_sync(store.staging.clean)
    uploads = 0
    if store.remote is not None:
        tier = await store.remote.tier()
        uploads = await store.remote.circuit.call(
            lambda: tier.abort_uploads(ABANDONED_SECONDS), store.remote.options.deadline
        )
    directories = await trio.to_thread.run_sync(_remove_empty, store.layout.objects)
    return Vacuumed(
        emptied.files,
        emptied.bytes + max(0, index - _size(store.layout.index)) + max(0, packed - _packed(store)),
        restored,
        directories,
        staged,
        uploads,
        rewritten.written,
        len(emptied.remote),
    )


def _packed(store: Store) -> int:
    """Bytes in packs of vectors."""
    return sum(pack.size for pack in store.index.view(packs.every))


def _size(folder: Path) -> int:
    """On disk."""
    return sum(entry.stat().st_blocks * _BLOCK_BYTES for entry in os.scandir(folder) if entry.is_file())


def _remove_empty(objects: Path) -> int:
    """Directories below objects/ that hold nothing; how many. Whoever is about to put a file there makes them again."""
    removed = 0
    for first in _directories(objects):
        for second in [*_directories(first), first]:
            try:
                os.rmdir(second)
                removed += 1
            except OSError:
                continue  # it holds something
    return removed


def _directories(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
