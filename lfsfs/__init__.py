"""lfsfs: the Git LFS store that is a file system.

The public API (docs/API.md): what stands in __all__ keeps its promises through all releases of one major version.

For code that knows nothing of trio: notebooks, scripts, threads, asyncio. Also beside a mount of the store:

    with lfsfs.connect("/srv/store") as client:
        row = client.put("model.bin")
        client.get(row.oid, "copy.bin")
        client.embeddings.write_embedding(content_hash, vector)

As an fsspec filesystem (pip install 'lfsfs[fsspec]'):

    pandas.read_parquet("lfsfs://incoming/a.parquet", storage_options={"store": "/srv/store"})

For trio:

    async with lfsfs.open_store("/srv/store", create=True) as store:
        row = await store.put(Path("model.bin"))
        await store.get(row.oid, Path("copy.bin"))

What they raise is in lfsfs.errors. Times are nanoseconds since 1970, sizes bytes, oids 64 lower-case hex digits.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lfsfs import errors
    from lfsfs.client.client import Client, connect
    from lfsfs.errors import LfsfsError
    from lfsfs.oid import Oid
    from lfsfs.pointer import Pointer
    from lfsfs.store.catalog import ObjectStat
    from lfsfs.store.opening import open_store
    from lfsfs.store.query import ListQuery, Match, Page
    from lfsfs.store.store import Store, Usage

__version__: str
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
    "__version__",
    "connect",
    "errors",
    "open_store",
]

_HOMES = {
    "Client": "lfsfs.client.client",
    "LfsfsError": "lfsfs.errors",
    "ListQuery": "lfsfs.store.query",
    "Match": "lfsfs.store.query",
    "ObjectStat": "lfsfs.store.catalog",
    "Oid": "lfsfs.oid",
    "Page": "lfsfs.store.query",
    "Pointer": "lfsfs.pointer",
    "Store": "lfsfs.store.store",
    "Usage": "lfsfs.store.store",
    "connect": "lfsfs.client.client",
    "open_store": "lfsfs.store.opening",
}


def __getattr__(name: str) -> Any:
    """Brings what is asked for when it is asked for: a process that waits for work is to be cheap."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        return import_module("importlib.metadata").version(
            "lfsfs"
        )  # pyproject.toml says it, and nothing else
    if name == "errors":
        return import_module("lfsfs.errors")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
