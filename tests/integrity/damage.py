"""Stores with known objects, and what happens to disks."""

import os
from pathlib import Path

from lfsfs import Oid, Store
from lfsfs.store import catalog
from lfsfs.store.index import Tx


def file_of(store: Path, oid: Oid | str) -> Path:
    return store / "objects" / oid[:2] / oid[2:4] / oid


def flip(file: Path, at: int = 0) -> None:
    """One bit; permissions stay."""
    mode = file.stat().st_mode
    file.chmod(0o600)
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte[0] ^ 1]))
        opened.flush()
        os.fsync(opened.fileno())
    file.chmod(mode)


async def put_many(store: Store, sizes: list[int]) -> dict[Oid, bytes]:
    """Objects of these sizes, with what is in them."""
    contents = [os.urandom(size) for size in sizes]
    return {(await store.put(content)).oid: content for content in contents}


def refer_to_nothing(tx: Tx, repository: int, oid: Oid) -> None:
    """A reference to an object that is not there, as no lfsfs writes it: what `rm --force` of an older one left."""
    number = repository.to_bytes(4, "big")
    tx.put("references", number + oid.to_bytes(), catalog.u64(1))
    tx.put("references_by_oid", oid.to_bytes() + number, b"")
    catalog.add(tx, b"references\0" + number, 1)
