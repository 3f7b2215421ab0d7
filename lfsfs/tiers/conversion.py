"""Conversion: what lies plain in an encrypted bucket is encrypted, one thing after the other.

May be cut off anywhere and begun again: a thing is put sealed before it goes from where it was plain, and until then is
read there. Once nothing plain is left, the bucket says so, and nobody looks there any more.
"""

import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.tiers.bucket import SEALED, Bucket
from lfsfs.tiers.bucket_settings import KEY
from lfsfs.tiers.mixed import notes_outside
from lfsfs.tiers.remote import RemoteTier, Stored
from lfsfs.tiers.remote_wrapper import unchecked
from lfsfs.tiers.source import FileSource

PAGE = 1000
DOCTORS = "doctor/"  # tests of the server: they tell nothing, and go by themselves


@dataclass
class Converted:
    """What was encrypted, in numbers and bytes; and what stays plain, as its bytes are not those of its name."""

    objects: int = 0
    bytes: int = 0
    notes: int = 0
    damaged: list[Oid] = field(default_factory=list)


async def convert(bucket: Bucket, new_path: Callable[[], Path], parallel: int) -> Converted:
    """Encrypts what is plain; `parallel` objects at once, each of which takes its own size at a `new_path` meanwhile.

    InvalidConfig where the bucket is not encrypted.
    """
    settings, ring = await bucket.settings(), await bucket.ring()
    assert settings is not None and settings.encryption is not None
    new, old = await bucket.sides()
    done = Converted()
    await _convert_notes(new, bucket.leaf, done)
    await _convert_objects(new, old, new_path, parallel, done)
    if settings.encryption.mixed and not done.damaged and not await _is_left(bucket.leaf):
        plain = replace(settings.encryption, mixed=False)
        await bucket.change(replace(settings, encryption=plain), ring)
    return done


async def _convert_notes(new: RemoteTier, old: RemoteTier, done: Converted) -> None:
    after = None
    while page := await notes_outside(old, SEALED, "", after, PAGE):
        after = page[-1]
        for key in page:
            if not _is_ours(key):
                continue
            try:
                content = await old.note(key)
            except NotFound:
                continue
            if await new.notes(key, None, 1) != [key]:
                await new.put_note(key, content)
            await old.delete_note(key)
            done.notes += 1


async def _convert_objects(
    new: RemoteTier, old: RemoteTier, new_path: Callable[[], Path], parallel: int, done: Converted
) -> None:
    after = None
    while page := await old.survey(after, PAGE):
        after = page[-1].oid
        await _in_parallel(
            parallel, [partial(_convert_object, new, old, stored, new_path, done) for stored in page]
        )


async def _in_parallel(parallel: int, works: list[Callable[[], Awaitable[None]]]) -> None:
    """Does them all, so many at once; or raises what the first of them raises that fails."""
    failures: list[LfsfsError] = []
    remaining = iter(works)

    async def go_on() -> None:
        for work in remaining:
            try:
                await work()
            except LfsfsError as failed:  # taken out of the nursery, which would wrap it in a group
                failures.append(failed)
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(parallel):
            nursery.start_soon(go_on)
    if failures:
        raise failures[0]


async def _convert_object(
    new: RemoteTier, old: RemoteTier, stored: Stored, new_path: Callable[[], Path], done: Converted
) -> None:
    oid, path = stored.oid, new_path()
    try:
        if not await _has(new, oid):
            if await _fetch(old, oid, path) != oid:
                done.damaged.append(oid)
                return
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                await new.put_source(oid, FileSource(file.fileno(), size, oid.to_bytes()), unchecked)
        await old.delete(oid)
    except NotFound:
        return  # somebody has deleted it meanwhile
    finally:
        path.unlink(missing_ok=True)
    done.objects += 1
    done.bytes += stored.size


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


async def _is_left(leaf: RemoteTier) -> bool:
    """Whether anything of ours is plain."""
    if await leaf.survey(None, 1):
        return True
    after = None
    while page := await notes_outside(leaf, SEALED, "", after, PAGE):
        if any(_is_ours(key) for key in page):
            return True
        after = page[-1]
    return False


def _is_ours(key: str) -> bool:
    return key != KEY and not key.startswith(DOCTORS)
