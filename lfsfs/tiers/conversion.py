"""Conversion: what lies plain in an encrypted bucket is encrypted, one thing after the other; or the other way round.

May be cut off anywhere and begun again: a thing is put where it goes before it is taken from where it was, and until
then is read there. Once nothing is left there, the bucket says so, and nobody looks there any more.
"""

import hashlib
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lfsfs import steps
from lfsfs.crew import crew
from lfsfs.errors import Corrupt, InvalidConfig, NotFound
from lfsfs.oid import Oid
from lfsfs.tiers.bucket import Bucket
from lfsfs.tiers.bucket_settings import KEY, BucketSettings
from lfsfs.tiers.encryption.ring import Ring
from lfsfs.tiers.remote import RemoteTier, Stored
from lfsfs.tiers.remote_wrapper import unchecked
from lfsfs.tiers.source import FileSource

Room = Callable[[int], AbstractAsyncContextManager[Path]]
"""Where a file of so many bytes may lie as long as the block lasts. NoSpace."""
PAGE = 1000
ROUNDS = 3  # for what came while the ones before went through all of it
DOCTORS = "doctor/"  # tests of the server: they tell nothing, and go by themselves


@dataclass
class Converted:
    """What was converted, in numbers and bytes; and what stays as it was, as its bytes are not those of its name."""

    objects: int = 0
    bytes: int = 0
    notes: int = 0
    damaged: list[Oid] = field(default_factory=list)
    damaged_notes: list[str] = field(default_factory=list)


async def convert(bucket: Bucket, room: Room, parallel: int) -> Converted:
    """Encrypts what is plain; `parallel` objects at once, each of which takes its own size of the `room` meanwhile.

    InvalidConfig where the bucket is not encrypted, or is being decrypted.
    """
    settings, ring = await bucket.settings(), await bucket.ring()
    assert settings is not None and settings.encryption is not None
    if settings.encryption.leaving:
        raise InvalidConfig("the bucket is being decrypted: end that first, by `lfsfs decrypt`")
    return await _convert(bucket, settings, ring, room, parallel)


async def revert(
    bucket: Bucket, room: Room, parallel: int, settle: Callable[[], Awaitable[None]]
) -> Converted:
    """Decrypts what is encrypted, as `convert` does the opposite.

    What is written from its beginning on is plain. `settle` is awaited before anything moves: it returns when every
    machine on the bucket has looked at it since (LOOK_SECONDS). InvalidConfig where the bucket is not encrypted.
    """
    settings, ring = await bucket.settings(), await bucket.ring()
    assert settings is not None and settings.encryption is not None
    if not settings.encryption.leaving:
        settings = replace(settings, encryption=replace(settings.encryption, mixed=True, leaving=True))
        await bucket.change(settings, ring)
    await settle()
    return await _convert(bucket, settings, ring, room, parallel)


async def _convert(
    bucket: Bucket, settings: BucketSettings, ring: Ring, room: Room, parallel: int
) -> Converted:
    assert settings.encryption is not None
    new, old = await bucket.sides()
    done = Converted()
    # What still goes where nobody will look any more: whoever sends it is told so, and sends it anew.
    await old.abort_uploads(0.0)
    for _ in range(ROUNDS):
        await _convert_notes(new, old, done)
        await _convert_objects(new, old, room, parallel, done)
        if done.damaged or done.damaged_notes or not await _is_left(old):
            break
    if settings.encryption.mixed and not await _is_left(old):
        pure = replace(settings.encryption, mixed=False)
        await bucket.change(replace(settings, encryption=pure), ring)
    return done


async def _convert_notes(new: RemoteTier, old: RemoteTier, done: Converted) -> None:
    after = None
    steps.begin("notes")
    await new.grants_names()
    while page := await old.notes("", after, PAGE):
        after = page[-1]
        for key in page:
            if not _is_ours(key):
                continue
            try:
                content = await old.note(key)
            except NotFound:
                continue
            except Corrupt:
                done.damaged_notes.append(key)
                continue
            if await new.notes(key, None, 1) != [key]:
                await new.put_note(key, content, only_new=True)  # a machine may write a newer one now
            await old.delete_note(key)
            done.notes += 1


async def _convert_objects(
    new: RemoteTier, old: RemoteTier, room: Room, parallel: int, done: Converted
) -> None:
    after = None
    if steps.is_watched():
        steps.begin("bucket", await _count(old))
    async with crew(parallel) as workers:
        while page := await old.survey(after, PAGE):
            after = page[-1].oid
            for stored in page:
                await workers.start(partial(_convert_object, new, old, stored, room, done))


async def _count(tier: RemoteTier) -> int:
    found, after = 0, None
    while page := await tier.scan(after, PAGE):
        found, after = found + len(page), page[-1]
    return found


async def _convert_object(
    new: RemoteTier, old: RemoteTier, stored: Stored, room: Room, done: Converted
) -> None:
    oid = stored.oid
    try:
        if not await _has(new, oid) and not await _moved(new, old, oid, room):
            done.damaged.append(oid)
            return
        await old.delete(oid)
    except NotFound:
        return  # somebody has deleted it meanwhile
    finally:
        steps.add()
    done.objects += 1
    done.bytes += stored.size


async def _moved(new: RemoteTier, old: RemoteTier, oid: Oid, room: Room) -> bool:
    """Puts the object where it goes. False: it is damaged."""
    async with room(await old.size(oid)) as path:
        if await _fetch(old, oid, path) != oid:
            return False
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            await new.put_source(oid, FileSource(file.fileno(), size, oid.to_bytes()), unchecked)
    return True


async def _has(tier: RemoteTier, oid: Oid) -> bool:
    """Whether it has the object, whole: one that was put just before a conversion ended early. A damaged one goes."""
    digest = hashlib.sha256()
    try:
        await tier.fetch(oid, 0, await tier.size(oid), digest.update)
    except NotFound:
        return False
    except Corrupt:
        pass
    if digest.digest() == oid.to_bytes():
        return True
    await tier.delete(oid)
    return False


async def _fetch(tier: RemoteTier, oid: Oid, path: Path) -> Oid | None:
    """Writes the object into a file; the oid that its bytes have. None where they cannot be decompressed."""
    digest = hashlib.sha256()
    with path.open("xb") as file:

        def sink(piece: bytes) -> None:
            digest.update(piece)
            file.write(piece)

        try:
            await tier.fetch(oid, 0, await tier.size(oid), sink)
        except Corrupt:
            return None
    return Oid(digest.hexdigest())


async def _is_left(old: RemoteTier) -> bool:
    """Whether anything of ours is there."""
    if await old.survey(None, 1):
        return True
    after = None
    while page := await old.notes("", after, PAGE):
        if any(_is_ours(key) for key in page):
            return True
        after = page[-1]
    return False


def _is_ours(key: str) -> bool:
    return key != KEY and not key.startswith(DOCTORS)
