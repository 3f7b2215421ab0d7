"""lfsfs: the Git LFS store that is a file system.

The public API: open a store, put and get objects, list them.

    async with lfsfs.open_store("/srv/store", create=True) as store:
        row = await store.put(Path("model.bin"))
        await store.get(row.oid, Path("copy.bin"))

Embeddings, from code that is not trio's:

    with lfsfs.connect("/srv/store") as client:
        client.embeddings.write_embedding(content_hash, vector)

What they raise is in lfsfs.errors.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lfsfs import errors
    from lfsfs.embeddings.client import Client, connect
    from lfsfs.errors import LfsfsError
    from lfsfs.oid import Oid
    from lfsfs.pointer import Pointer
    from lfsfs.store.catalog import ObjectStat
    from lfsfs.store.opening import open_store
    from lfsfs.store.query import ListQuery, Match, Page
    from lfsfs.store.store import Store, Usage

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
    "errors",
    "open_store",
]

_HOMES = {
    "Client": "lfsfs.embeddings.client",
    "LfsfsError": "lfsfs.errors",
    "ListQuery": "lfsfs.store.query",
    "Match": "lfsfs.store.query",
    "ObjectStat": "lfsfs.store.catalog",
    "Oid": "lfsfs.oid",
    "Page": "lfsfs.store.query",
    "Pointer": "lfsfs.pointer",
    "Store": "lfsfs.store.store",
    "Usage": "lfsfs.store.store",
    "connect": "lfsfs.embeddings.client",
    "open_store": "lfsfs.store.opening",
}


def __getattr__(name: str) -> Any:
    """Brings what is asked for when it is asked for: a process that waits for work is to be cheap."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "errors":
        return import_module("lfsfs.errors")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
