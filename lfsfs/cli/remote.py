"""sync, pin, unpin and prefetch: the store and the tier behind it."""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import trio

from lfsfs import mounts
from lfsfs.cli import output
from lfsfs.cli.bars import bar
from lfsfs.cli.daemons import daemon_of
from lfsfs.cli.stores import add_options, chosen_store, with_store, with_store_at
from lfsfs.errors import InvalidConfig, LfsfsError, NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.store import journal, references, residents, unrecorded
from lfsfs.store.index import Tx
from lfsfs.store.journal import Backlog
from lfsfs.store.layout import is_served
from lfsfs.store.moved import Moved
from lfsfs.store.remote import Remote
from lfsfs.store.rendered import RenderedStat
from lfsfs.store.store import Store
from lfsfs.units import format_size

POLL_SECONDS = 0.1
READ_BYTES = 1 << 20


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sync = commands.add_parser(
        "sync",
        help="upload what waits for it",
        description="Has everything that waits for its upload tried at once. With --wait: returns when S3 has it all."
        " Where no daemon is running, the command uploads by itself.",
    )
    add_options(sync)
    sync.add_argument("--wait", action="store_true", help="return when nothing waits any more")
    sync.add_argument("--timeout", metavar="SECONDS", type=float, help="with --wait: fail after so long")
    sync.set_defaults(run=run_sync)

    pin = commands.add_parser(
        "pin",
        help="keep objects on the local disk",
        description="Fetches the objects, and never evicts them from then on.",
    )
    unpin = commands.add_parser("unpin", help="let objects be evicted again")
    prefetch = commands.add_parser(
        "prefetch",
        help="bring objects to the local disk",
        description="Fetches objects before they are asked for. They may be evicted again: `lfsfs pin` prevents that.",
    )
    for command, run in ((pin, run_pin), (unpin, run_unpin), (prefetch, run_prefetch)):
        add_options(command)
        command.add_argument("oids", metavar="OID", nargs="*", help="or the beginning of one")
        command.add_argument("--repo", metavar="NAME", help="all that repos/NAME refers to")
        command.set_defaults(run=run)


def run_sync(arguments: argparse.Namespace) -> int:
    """Has the journal worked off."""
    left = with_store(arguments, lambda store: _sync(store, wait=arguments.wait, seconds=arguments.timeout))
    if arguments.json:
        output.as_json(
            {
                "pending_objects": left.backlog.objects,
                "pending_bytes": left.backlog.bytes,
                "pending_records": left.records,
            }
        )
    elif left:
        output.line(f"S3 has not got yet: {left}")
    else:
        output.line("S3 has everything")
    return output.DONE


@dataclass(frozen=True)
class Left:
    """What S3 does not have yet: objects, and so many records of what this machine refers to. False: nothing."""

    backlog: Backlog
    records: int

    def __bool__(self) -> bool:
        return bool(self.backlog.objects or self.records)

    def __str__(self) -> str:
        parts = []
        if count := self.backlog.objects:
            parts.append(f"{count} object{'s' * (count != 1)} ({format_size(self.backlog.bytes)})")
        if self.records:
            parts.append("the record of what this machine refers to")
        return " and ".join(parts) or "nothing"


def _left(tx: Tx) -> Left:
    return Left(journal.backlog(tx), len(unrecorded.shards(tx)))


def wait_for_uploads(mountpoint: Path) -> None:
    """Returns when nothing of the store that is mounted there waits for its upload."""

    async def wait(store: Store) -> None:
        if store.remote is not None:
            await _sync(store, wait=True, seconds=None)

    with_store_at(chosen_store(mountpoint), wait)


async def _sync(store: Store, *, wait: bool, seconds: float | None) -> Left:
    remote = _remote(store)
    if store.index.view(lambda tx: tx.count("unpacked")):
        await store.embeddings.pack()  # what lies in the index only cannot be uploaded
    await store.index.update(journal.ask_for_retry)
    if wait:
        with daemon_of(store.layout.path) as daemon, trio.move_on_after(seconds or float("inf")) as limit:
            first = store.index.view(journal.backlog).bytes
            async with bar(
                "upload", lambda: (max(0, first - store.index.view(journal.backlog).bytes), first)
            ):
                if daemon is None:
                    await remote.drain()
                else:
                    await _until_drained(store, remote)
        if limit.cancelled_caught:
            left = store.index.view(_left)
            raise Unavailable(f"after {seconds:.0f} s S3 still has not got: {left}. `lfsfs status` says why")
    return store.index.view(_left)


async def _until_drained(store: Store, remote: Remote) -> None:
    """Waits for the daemon; goes on by itself where that has ended meanwhile."""
    shown = 0.0
    while not remote.is_drained():
        if time.monotonic() - shown > 1:
            shown = time.monotonic()
            if not is_served(store.layout):
                await remote.drain()
                break
        await trio.sleep(POLL_SECONDS)


def run_prefetch(arguments: argparse.Namespace) -> int:
    """Fetches objects; the mount does it, where there is one, so that its cache has them."""

    async def fetch(store: Store) -> tuple[int, list[str]]:
        oids = await _chosen(store, arguments)
        return len(oids), await _bring(store, oids)

    number, failed = with_store(arguments, fetch)
    return _tell(arguments, "fetched", number - len(failed), failed)


def run_pin(arguments: argparse.Namespace) -> int:
    """Pins objects, then fetches them."""

    async def pin(store: Store) -> tuple[int, list[str]]:
        oids = await _chosen(store, arguments)
        await store.index.update(lambda tx: residents.pin(tx, oids))
        return len(oids), await _bring(store, oids)

    number, failed = with_store(arguments, pin)
    return _tell(arguments, "pinned", number - len(failed), failed)


def run_unpin(arguments: argparse.Namespace) -> int:
    """Takes pins away."""

    async def unpin(store: Store) -> int:
        oids = await _chosen(store, arguments)
        return await store.index.update(lambda tx: sum(residents.unpin(tx, oid) for oid in oids))

    return _tell(arguments, "unpinned", with_store(arguments, unpin), [])


def _tell(arguments: argparse.Namespace, what: str, number: int, failed: list[str]) -> int:
    if arguments.json:
        output.as_json({what: number, "failed": failed})
    else:
        output.line(f"{what}: {number} object{'' if number == 1 else 's'}")
        for text in failed:
            output.note(text)
    return output.FAILED if failed else output.DONE


def _remote(store: Store) -> Remote:
    if store.remote is None:
        raise InvalidConfig(
            f"{store.layout.path} has no S3: `lfsfs mount --s3 s3://BUCKET/PREFIX` gives it one"
        )
    return store.remote


async def _chosen(store: Store, arguments: argparse.Namespace) -> list[Oid]:
    _remote(store)
    if not arguments.oids and arguments.repo is None:
        raise InvalidConfig("which objects? Give OIDs, or --repo NAME")
    found = [await store.find(text) for text in arguments.oids]
    if arguments.repo is not None:
        repository = store.repository(arguments.repo)
        found += store.index.view(lambda tx: references.all_oids(tx, repository.id))
    return list(dict.fromkeys(found))


async def _bring(store: Store, oids: list[Oid]) -> list[str]:
    """Fetches each; what could not be brought, in words."""
    mounted = mounts.mounts_of_store(Path(os.path.realpath(store.layout.path)))
    mountpoint = mounted[0].mountpoint if mounted else None
    failed = []
    sizes = [row.size if (row := store.lookup(oid)) is not None else 0 for oid in oids]
    total, done, counted = sum(sizes), 0, _remote(store).moved
    coming = _Coming(counted)
    async with bar("fetch", lambda: (done + coming.bytes, total)):
        for oid, size in zip(oids, sizes, strict=True):
            try:
                coming = _Coming(counted)
                if not await _bring_one(store, oid, mountpoint, coming):
                    failed.append(f"{oid}: the cache has no room for it (--cache-size)")
            except (LfsfsError, OSError) as error:
                failed.append(f"{oid}: {output.told(error)}")
            done, coming = done + size, _Coming(counted)
    return failed


class _Coming:
    """How much of one object has come: what the mount had of it was read here, what it had not was fetched here."""

    def __init__(self, counted: Moved) -> None:
        self.read = 0
        self._counted = counted
        self._before = counted.fetched_bytes

    @property
    def bytes(self) -> int:
        return max(self.read, self._counted.fetched_bytes - self._before)


async def _bring_one(store: Store, oid: Oid, mountpoint: Path | None, coming: _Coming) -> bool:
    remote = _remote(store)
    row = await store.stat(oid)
    if row.size == 0 or remote.cache.has(oid):
        return True
    if isinstance(row, RenderedStat):
        return await _bring_one(store, store.embeddings.pack_of_npz(oid), mountpoint, coming)
    if mountpoint is None:
        return await remote.fetches.prefetch(row)
    await trio.to_thread.run_sync(_read, mountpoint / "objects" / oid.path(), coming)
    with trio.move_on_after(PROMOTION_SECONDS):
        while not remote.cache.has(oid):  # noqa: ASYNC110 - the daemon does it
            await trio.sleep(POLL_SECONDS)
    return remote.cache.has(oid)


PROMOTION_SECONDS = 5.0  # what the daemon gets to compare a whole object with its oid


def _read(path: Path, coming: _Coming) -> None:
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                coming.read += len(piece)
    except FileNotFoundError as error:
        raise NotFound(f"no object at {path}") from error
