"""open_store: a store from what lies at a path, with its remote tier if it has one, in order after whatever happened."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from lfsfs.config import S3Options
from lfsfs.config_policy import Policy
from lfsfs.errors import InvalidConfig
from lfsfs.store import attachment, references
from lfsfs.store import policy as policies
from lfsfs.store.adoption import adopt
from lfsfs.store.attachment import Attachment
from lfsfs.store.index import Index
from lfsfs.store.layout import Layout, has_keys, in_use, is_served, open_layout
from lfsfs.store.rebuild import is_complete, rebuild_catalog
from lfsfs.store.remote import Remote
from lfsfs.store.staging import Staging, sweep
from lfsfs.store.store import Durability, Store
from lfsfs.tiers.local import LocalTier
from lfsfs.tiers.remote import RemoteTier

log = logging.getLogger("lfsfs.store")


@asynccontextmanager
async def open_store(
    path: Path | str,
    *,
    durability: Durability = "sync",
    create: bool = False,
    read_only: bool = False,
    temp: Path | None = None,
    remote: Attachment | None = None,
    serving: bool = False,
    policy: Policy | None = None,
    key: str | None = None,
) -> AsyncIterator[Store]:
    """The store at `path`; with `create`, made if it is not there.

    `durability`: "sync", a returned commit survives power loss; "fast", it survives a crash of the process.
    `temp`: where files are staged; by default STORE/staging. `remote`: the tier behind the local disk; None: that of the
    store's last mount, if it had one. `serving`: this process is the daemon of the store; any other process leaves the
    cache of a store that is mounted to its daemon. `policy`: limits, quotas and scanner; None: those of the last daemon.
    Its quotas of repositories hold for every process from then on. `key`: the master key of the objects on the local
    disk, as parse_encryption_key has it; None: the one that was written down. A daemon that is given one encrypts what
    comes from now on. WrongKey; InUse where nothing was encrypted, and somebody has the store open.
    """
    async with AsyncExitStack() as stack:
        store = await trio.to_thread.run_sync(
            lambda: _open(
                stack, Path(path), durability, create, read_only, temp, remote, serving, policy, key
            )
        )
        stack.push_async_callback(store.close)
        async with AsyncExitStack() as running:
            if store.remote is not None:
                await running.enter_async_context(store.remote.running())
            if not read_only:
                await _settle(store)
                if policy is not None:
                    await store.admission.keep_quotas()
            yield store


def _open(
    stack: AsyncExitStack,
    path: Path,
    durability: Durability,
    create: bool,
    read_only: bool,
    temp: Path | None,
    given: Attachment | None,
    serving: bool,
    policy: Policy | None,
    key: str | None,
) -> Store:
    layout = open_layout(path, create=create and not read_only)
    durable = durability == "sync"
    attached = given or attachment.load(layout.path)
    place = _staging_place(layout, temp)
    tier = _local_tier(stack, layout, durable, key, serving=serving and not read_only)
    index = Index(layout.index, durable=durable, read_only=read_only)
    staging = Staging(place, durable=durable)
    if policy is None:
        policy = policies.load(layout.path)
    if attached is None:
        return Store(layout, index, tier, staging, policy=policy)
    s3, cache = attached
    remote = Remote(
        layout.id, str(s3.url), attachment.identity(s3), cache, lambda: _open_bucket(s3, layout, staging),
        index, tier, staging,
        owns_cache=not read_only and (serving or not is_served(layout)),
    )  # fmt: skip
    staging.space = remote.space
    store = Store(layout, index, tier, staging, remote, policy)
    remote.reconcile, remote.take_back = store._reconcile, store.deletions.take_back
    remote.withdrawals.drop = store.deletions.withdraw_here
    return store


def _local_tier(
    stack: AsyncExitStack, layout: Layout, durable: bool, key: str | None, *, serving: bool
) -> LocalTier:
    """What reads and writes the objects on the local disk; `stack` says that the store is in use until it is closed."""
    path = layout.path
    made = None
    if key is not None and not has_keys(path) and serving:
        from lfsfs.store import keys

        made = keys.create(path, key)
        log.info("objects that come to %s are encrypted from now on", path)
    stack.enter_context(in_use(path))
    if not has_keys(path):
        return LocalTier(path, temp=layout.staging, durable=durable)
    from lfsfs.store import keys  # brings cryptography, which most commands never need
    from lfsfs.tiers.encryption import EncryptedTier, Keys

    found = made or keys.load(path, key, keep=serving)
    if found.leaving and key is not None:
        log.warning(
            "%s is being decrypted: what comes is not encrypted: `lfsfs encrypt` takes that back", path
        )
    ring = Keys(found.ring, lambda: keys.load(path, key).ring)
    return EncryptedTier(path, ring, temp=layout.staging, durable=durable, seals=not found.leaving)


def _staging_place(layout: Layout, temp: Path | None) -> Path:
    """STORE/staging, or a directory of this store's own in `temp`, which others may use as well."""
    if temp is None:
        return layout.staging
    if not temp.is_dir() or not os.access(temp, os.W_OK):
        raise InvalidConfig(f"{temp}, where files are to be staged, is not a directory that takes files")
    place = temp / f"lfsfs-{layout.id}"
    if os.path.lexists(place) and (place.is_symlink() or place.stat().st_uid not in (os.geteuid(), 0)):
        raise InvalidConfig(f"{place} belongs to somebody else: nothing is staged there")
    return place


def _open_bucket(
    options: S3Options, layout: Layout, staging: Staging
) -> AbstractAsyncContextManager[RemoteTier]:
    from lfsfs.tiers.bucket import open_bucket  # brings boto3, which most commands never need
    from lfsfs.tiers.bucket_settings import Copy

    copy = Copy(layout.path, attachment.identity(options))
    return open_bucket(options, copy, staging.new_path, staging.space)


async def _settle(store: Store) -> None:
    """After a crash: nothing staged by the dead stays, deletions end, an index that was lost is made anew."""
    await trio.to_thread.run_sync(store.staging.clean)
    await trio.to_thread.run_sync(sweep, store.layout.staging)
    if store.write_ahead is not None:
        await store.write_ahead.replay()
    if store.remote is None:  # or it is done when the remote tier answers
        await store.deletions.finish()
    if not store.index.view(references.are_counted):
        await store.index.update(references.count_all)
    if not is_complete(store.index) and isinstance(store.tier, LocalTier):
        await rebuild_catalog(store.layout, store.index, store.tier)
    if store.remote is not None and isinstance(store.tier, LocalTier):
        await adopt(store.index, store.tier, store.remote.identity)
