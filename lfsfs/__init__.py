"""lfsfs: the Git LFS store that is a file system.

The public API: open a store, put and get objects, list them.

    async with lfsfs.open_store("/srv/store", create=True) as store:
        row = await store.put(Path("model.bin"))
        await store.get(row.oid, Path("copy.bin"))
"""

from lfsfs.errors import LfsfsError
from lfsfs.oid import Oid
from lfsfs.pointer import Pointer
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.query import ListQuery, Match, Page
from lfsfs.store.store import Store, Usage, open_store

__all__ = [
    "LfsfsError",
    "ListQuery",
    "Match",
    "ObjectStat",
    "Oid",
    "Page",
    "Pointer",
    "Store",
    "Usage",
    "open_store",
]
