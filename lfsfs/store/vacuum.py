"""vacuum: what is past its time goes for good, and what is left over is swept. Reports what that freed."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from lfsfs import steps
from lfsfs.oid import Oid
from lfsfs.store import packs, trashed
from lfsfs.store.gc import OtherMachines, bring_back
from lfsfs.store.index import Tx
from lfsfs.store.records import Machine
from lfsfs.store.remote import ABANDONED_SECONDS, Remote
from lfsfs.store.roots import Roots
from lfsfs.store.staging import sweep
from lfsfs.store.store import Store
from lfsfs.store.withdrawals import Withdrawal

_SECOND_NS = 10**9
_BLOCK_BYTES = 512
BATCH = 64
PATIENCE_SECONDS = (
    86400.0  # a withdrawal that somebody does not answer for so long is given up, and begun anew
)


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What a run did. `bytes`: what that freed, in all.

    `trashed`: objects that left the trash for good; `restored`: those that a clone had come to need, and that are in
    the store again; `remote`: objects that were deleted from the remote tier, `wanted`: those that another machine needs
    there. `waiting`: those that stay until the machines `silent` have answered. `packs`: written anew.
    """

    trashed: int
    bytes: int
    restored: int
    directories: int
    staged: int
    uploads: int
    packs: int
    remote: int
    wanted: int
    waiting: int
    silent: tuple[str, ...]


async def vacuum(store: Store, roots: Sequence[Roots], *, keep: float) -> Vacuumed:
    """Empties the trash of what went longer ago than `keep` seconds, rewrites packs of vectors, gives free pages of the
    index back, and removes what dead processes left staged, uploads that nobody goes on with, and empty directories.

    What gc took, and a clone needs now, is restored instead. RootUnreadable: nothing was done. From the remote tier
    objects go when the other machines have answered that they do not need them: perhaps in a later run.
    """
    if store.remote is not None:
        await store.deletions.finish()
    before = time.time_ns() - int(keep * _SECOND_NS)
    due = {row.oid for row in store.trash.since(0) if row.when < before and row.reason == "gc"}
    restored = await bring_back(store, roots, due)
    emptied = await store.trash.empty(before)
    index = _size(store.layout.index)
    packed = _packed(store)
    rewritten = await store.embeddings.vacuum(roots)
    await store.index.trim()
    staged = await trio.to_thread.run_sync(sweep, store.layout.staging)
    staged += await trio.to_thread.run_sync(store.staging.clean)
    uploads = 0
    if store.remote is not None:
        tier = await store.remote.tier()
        uploads = await store.remote.circuit.call(
            lambda: tier.abort_uploads(ABANDONED_SECONDS), store.remote.options.deadline
        )
    withdrawal = await _withdraw(store, [row.oid for row in emptied.remote])
    directories = await trio.to_thread.run_sync(_remove_empty, store.layout.objects)
    return Vacuumed(
        emptied.files,
        emptied.bytes + max(0, index - _size(store.layout.index)) + max(0, packed - _packed(store)),
        restored,
        directories,
        staged,
        uploads,
        rewritten.written,
        *withdrawal,
    )


async def _withdraw(store: Store, due: list[Oid]) -> tuple[int, int, int, tuple[str, ...]]:
    """How many objects went from the remote tier, how many another machine needs, how many wait, and for whom.

    An earlier run may have announced others than these: they come first.
    """
    remote = store.remote
    if remote is None:
        return 0, 0, 0, ()
    await remote.withdrawals.join()
    gone = wanted = 0
    while (own := await remote.withdrawals.announce(due)) is not None:
        needed, silent = await remote.withdrawals.answers(own)
        if silent:
            if time.time_ns() - own.number > PATIENCE_SECONDS * _SECOND_NS:
                await remote.withdrawals.end()  # who has answered may want to put one of them there again
            return gone, wanted, len({*own.oids, *due}), tuple(_described(machine) for machine in silent)
        deleted = await _delete_withdrawn(store, remote, own, needed)
        gone, wanted = gone + deleted, wanted + len(own.oids) - deleted
        due = [oid for oid in due if oid not in set(own.oids)]
    return gone, wanted, 0, ()


async def _delete_withdrawn(store: Store, remote: Remote, own: Withdrawal, needed: set[Oid]) -> int:
    """How many. What others need leaves the trash and stays in the remote tier."""
    left = {oid.to_bytes() for oid in own.oids if oid not in needed}
    await OtherMachines(remote.records).strike(left)
    going = [oid for oid in own.oids if oid.to_bytes() in left]
    gone = 0
    steps.begin("bucket", len(going))
    for first in range(0, len(going), BATCH):
        gone += len(await store.deletions.delete_withdrawn(going[first : first + BATCH], own.number))
        steps.add(len(going[first : first + BATCH]))
    staying = [oid for oid in own.oids if oid.to_bytes() not in left]
    await store.index.update(partial(_forget, oids=staying))
    await remote.withdrawals.end()
    return gone


def _forget(tx: Tx, oids: list[Oid]) -> None:
    for oid in oids:
        trashed.forget(tx, oid)


def _described(machine: Machine) -> str:
    return f"{machine.host}, {machine.store} ({machine.id})"


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
