"""Taking: one file, or key, of somebody else's as an object of ours, if it is what its name says."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from lfsfs.errors import HashMismatch, LfsfsError
from lfsfs.exchange import sharing
from lfsfs.exchange.finding import FoundObject
from lfsfs.exchange.sharing import Way
from lfsfs.oid import Oid
from lfsfs.store import references
from lfsfs.store.hashing import BLOCK_BYTES, Digest
from lfsfs.store.mime import HEAD_BYTES, type_of
from lfsfs.store.references import Repository
from lfsfs.store.staged_file import MEMORY_BYTES, Sealed
from lfsfs.store.store import Store
from lfsfs.tiers.s3.foreign import ForeignBucket

Told = Callable[[int], None]
"""Called, also from threads, with bytes that were hashed."""


async def take_file(
    store: Store, found: FoundObject, repository: Repository, told: Told, *, may_link: bool
) -> Way:
    """Makes the file an object that the repository refers to; how its bytes came here. Its content stays as it is.

    HashMismatch where it is not what its name says. OSError, LfsfsError.
    """
    fd = await trio.to_thread.run_sync(sharing.open_regular, found.path)
    try:
        size = os.fstat(fd).st_size
        if size <= MEMORY_BYTES:
            content = await trio.to_thread.run_sync(os.pread, fd, MEMORY_BYTES + 1, 0)
            await store.put(content, oid=found.oid, repository=repository.name)
            told(size)
            return "copy"
        async with store.staging.place(size, commits=True) as path:
            bring = partial(sharing.take, fd, path, may_link=may_link, check=trio.from_thread.check_cancelled)
            taken = await trio.to_thread.run_sync(bring)
            try:
                sealed = await trio.to_thread.run_sync(_sealed, path, told)
                if taken.way == "link" and not sharing.is_as_it_was(fd, taken):
                    raise LfsfsError("somebody wrote to it while it was read")
                await _commit(store, sealed, found.oid, repository)
            except BaseException:
                sharing.give_back(fd, taken)
                raise
            return taken.way
    finally:
        os.close(fd)


async def take_key(
    store: Store, bucket: ForeignBucket, key: str, oid: Oid, size: int, repository: Repository, told: Told
) -> None:
    """As take_file, of a key of `size` bytes in a bucket."""
    if size <= MEMORY_BYTES:
        pieces: list[bytes] = []
        await bucket.fetch(key, MEMORY_BYTES, pieces.append)
        await store.put(b"".join(pieces), oid=oid, repository=repository.name)
        told(size)
        return
    async with store.staging.place(size, commits=True) as path:
        with path.open("xb") as file:
            await bucket.fetch(key, size + 1, file.write)  # type: ignore[arg-type]  # what it returns is nobody's concern
        await _commit(store, await trio.to_thread.run_sync(_sealed, path, told), oid, repository)


async def _commit(store: Store, sealed: Sealed, oid: Oid, repository: Repository) -> None:
    if sealed.oid != oid:
        raise HashMismatch(f"its bytes have the oid {sealed.oid}")
    store.admission.check_quota(repository.id, oid, sealed.size)
    await store.commit(sealed, lambda tx: references.add(tx, repository.id, oid))


def _sealed(path: Path, told: Told) -> Sealed:
    """The file, hashed. Runs in a thread; stops where the task is cancelled."""
    digest, head = Digest(), b""
    with path.open("rb", buffering=0) as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        while piece := file.read(BLOCK_BYTES):
            trio.from_thread.check_cancelled()
            head = head or piece[:HEAD_BYTES]
            digest.update(piece)
            told(len(piece))
    return Sealed(path, Oid.from_bytes(digest.sha256()), digest.size, digest.blocks(), type_of(head), mode)
