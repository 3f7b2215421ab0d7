"""Sealing: the objects on the local disk, and those in the trash, are encrypted one after another, or decrypted.

May be cut off anywhere and begun again, beside a mount too: at each moment an object is there whole, in one form or the
other, and whoever has the keys reads both.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from lfsfs import steps
from lfsfs.crew import crew
from lfsfs.errors import Corrupt, InvalidOid, NotFound
from lfsfs.oid import Oid
from lfsfs.store import keys
from lfsfs.store.store import Store
from lfsfs.tiers.encryption import EncryptedTier

PAGE = 1_000


@dataclass
class Sealed:
    """How many objects were converted, and their bytes; and which stay as they are, as they are damaged."""

    objects: int = 0
    bytes: int = 0
    damaged: list[Oid] = field(default_factory=list)


async def convert(store: Store, tier: EncryptedTier, parallel: int, *, seals: bool) -> Sealed:
    """Encrypts what is plain, or decrypts what is not; `parallel` objects at once, each of which takes its size.

    What comes meanwhile has the right form already. Once nothing is encrypted any more, the keys go.
    """
    done = Sealed()
    if steps.is_watched():
        steps.begin("local disk", await tier.total(), "bytes")
    async with crew(parallel) as workers:
        after = None
        while page := await tier.scan(after, PAGE):
            after = page[-1]
            for oid in page:
                await workers.start(partial(_convert, store, tier, oid, done, seals))
    for file in await trio.to_thread.run_sync(lambda: list(_in_trash(store.layout.trash))):
        await _convert_moved(tier, file, done, seals)
    if not seals and not done.damaged:
        if store.write_ahead is not None:
            await store.write_ahead.settle()  # it keeps what is sealed as well
        await trio.to_thread.run_sync(keys.remove, store.layout.path)
    return done


async def _convert(store: Store, tier: EncryptedTier, oid: Oid, done: Sealed, seals: bool) -> None:
    try:
        size = await tier.size(oid)
        steps.add(size)
        if await tier.is_sealed(oid) == seals:
            return
        async with store.staging.room(size):
            if await (tier.seal(oid) if seals else tier.unseal(oid)):
                done.objects += 1
                done.bytes += size
    except NotFound:
        pass  # it went meanwhile
    except Corrupt:
        done.damaged.append(oid)


async def _convert_moved(tier: EncryptedTier, file: Path, done: Sealed, seals: bool) -> None:
    oid = Oid(file.name)
    try:
        if await trio.to_thread.run_sync(lambda: tier.convert_moved(file, oid, seals=seals)):
            done.objects += 1
            done.bytes += file.stat().st_size
    except (NotFound, FileNotFoundError):
        pass  # it was restored, or removed for good
    except Corrupt:
        done.damaged.append(oid)


def _in_trash(trash: Path) -> Iterator[Path]:
    for day in trash.iterdir() if trash.is_dir() else ():
        for name in os.listdir(day) if day.is_dir() else ():
            try:
                Oid(name)
            except InvalidOid:
                continue
            yield day / name
