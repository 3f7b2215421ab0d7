"""lfsfs: the Git LFS store that is a file system.

The public API: open a store, put and get objects, list them.

    async with lfsfs.open_store("/srv/store", create=True) as store:
        row = await store.put(Path("model.bin"))
        await store.get(row.oid, Path("copy.bin"))

Embeddings, from code that is not trio's:

    with lfsfs.connect("/srv/store") as client:
        client.embeddings.write_embedding(content_hash, vector)
"""

from typing import TYPE_CHECKING, Any

from lfsfs.errors import LfsfsError
from lfsfs.oid import Oid
from lfsfs.pointer import Pointer
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.opening import open_store
from lfsfs.store.query import ListQuery, Match, Page
from lfsfs.store.store import Store, Usage

if TYPE_CHECKING:
    from lfsfs.embeddings.client import Client, connect

__all__ = [
    "Client",
    "LfsfsError",
    "ListQuery",
    "Match",
    "ObjectStat",
    "Oid",
    "Page",
    "Pointer",
    "Store",
    "Usage",
    "connect",
    "open_store",
]


def __getattr__(name: str) -> Any:
    """`connect` and `Client` bring numpy, which most programs never need."""
    if name in ("Client", "connect"):
        from lfsfs.embeddings import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
