"""lock_place: where the locks of a store are kept, for its server and for git-lfs-transfer alike."""

from typing import Literal

from lfsfs.errors import InvalidConfig
from lfsfs.store.bucket_locks import BucketLocks
from lfsfs.store.locks import LocalLocks, Locks
from lfsfs.store.store import Store


def create_locks(store: Store, place: Literal["auto", "store", "bucket"]) -> Locks:
    """InvalidConfig for a bucket that there is not."""
    if store.remote is not None and place != "store":
        return BucketLocks(store.remote)
    if place == "bucket":
        raise InvalidConfig('locks = "bucket" in [server] needs a store with S3')
    return LocalLocks(store.index)
