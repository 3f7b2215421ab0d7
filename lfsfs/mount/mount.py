"""Mount: one store at one mountpoint, from the kernel's first request to its last."""

import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import trio

from lfsfs.config import MountOptions
from lfsfs.config_policy import PermissionOptions
from lfsfs.errors import LfsfsError, StoreFormat
from lfsfs.fuse import Session
from lfsfs.fuse.device import option_value
from lfsfs.integrity import gauges, scrub_record
from lfsfs.integrity.gauges import Gauge
from lfsfs.mount.access import operations_of
from lfsfs.mount.connection import read_ahead
from lfsfs.mount.embeddings import vectors_changed
from lfsfs.mount.handover import Described, collect
from lfsfs.mount.incoming_file import IncomingFile, IncomingHandle
from lfsfs.mount.nodes import STAT_BLOCK_BYTES, Key, Tree
from lfsfs.mount.object_file import ObjectNode, object_node
from lfsfs.mount.objects import SHARED
from lfsfs.mount.roots import RootDirectory, StorageRoot
from lfsfs.mount.takeover import take_over
from lfsfs.mount.watching import forget_entry, thin, watch
from lfsfs.mount.workspace import WorkspaceHandle, forget_plain, plain_key
from lfsfs.oid import Oid
from lfsfs.store import names, references
from lfsfs.store.events import Event
from lfsfs.store.layout import WORKSPACE_DIRECTORIES
from lfsfs.store.store import Store

log = logging.getLogger("lfsfs.mount")
NO_PERMISSIONS = PermissionOptions()
AGE_SECONDS = 3600.0  # how often abandoned downloads are looked for
SETTLE_STEP_SECONDS = 0.05
HOLD_SECONDS = 1.0  # how long requests wait for those before them to end
HOLD_STEP_SECONDS = 0.002
REMOVED_FROM: dict[str, Key] = {"repository-removed": ("repos",), "collection-removed": ("embeddings",)}


@dataclass(frozen=True)
class Taken:
    """A mount of another daemon: what handover.py says of it, and the descriptors that belong to that."""

    described: Described
    descriptors: list[int]


class Mount:
    """The mount of `store` at `mountpoint`, which must be an empty directory."""

    def __init__(
        self, store: Store, mountpoint: Path, options: MountOptions,
        permissions: PermissionOptions = NO_PERMISSIONS, *, taken: Taken | None = None,
    ) -> None:  # fmt: skip
        """`taken`: what another daemon's mount is, which goes on here; it is that one's until `own`."""
        self._taken = taken
        self.store = store
        self.mountpoint = mountpoint
        self.options = options
        self.permissions = permissions
        self.started = time.time_ns()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Mount"]:
        """Mounts; inside, `run` serves. Unmounts at the end, whatever happened."""
        check_workspace(self.store.layout.path)
        workspace, borrowed = self._workspace()
        self.tree = Tree(self.store, self.options, workspace)
        if not self.store.index.read_only:
            if self.store.index.view(lambda tx: names.get(tx, names.ROOT)) is None:
                await self.store.index.update(lambda tx: names.make_root(tx, self.tree.uid, self.tree.gid))
            if self._taken is None:
                await trio.to_thread.run_sync(clear_committed, workspace)
            self._count_workspace(workspace)
        self.operations = operations_of(self.tree, self.permissions)
        self.root = self.tree.table.intern(
            RootDirectory(self.tree, {"status": self.status, "metrics": self.metrics})
        )
        self.session = Session(self.operations, self.mountpoint)
        taken = self._taken
        if taken is None:
            self.tree.kernel = self.session.mount(self._fuse_options())
        else:
            backing = bool(taken.described["backing"])
            self.tree.kernel = self.session.adopt(taken.descriptors[0], backing=backing)
        self.tree.backing_files = self.session.backing_files
        try:
            if taken is not None:
                await take_over(self, taken.described, taken.descriptors)
            yield self
        finally:
            left = self.session.left
            self.session.close()
            if borrowed and not left:
                shutil.rmtree(workspace, ignore_errors=True)

    async def run(self) -> None:
        """Serves until the mount is taken away or `stop` is called; settles what is still open."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, self.tree, self._changed)
            nursery.start_soon(thin, self.tree)
            nursery.start_soon(self._age)
            nursery.start_soon(self.tree.lent.run)
            nursery.start_soon(
                partial(trio.to_thread.run_sync, read_ahead, self.mountpoint, abandon_on_cancel=True)
            )
            await self.session.run()
            nursery.cancel_scope.cancel()
        if self.session.left:
            self.session.close()
        else:
            await self.settle()

    # Handing over to another daemon (handover.py).

    async def hold(self) -> bool:
        """Has requests wait in the kernel until `release` or `leave`; False: some that are under way take too long."""
        self.session.pause()
        with trio.move_on_after(HOLD_SECONDS):
            while True:
                if self.session.settled:
                    await self.store.index.flush()
                    return True
                await trio.sleep(HOLD_STEP_SECONDS)
        self.release()
        return False

    def described(self) -> Taken:
        """What another daemon needs to go on with. While it is held."""
        return Taken(*collect(self))

    def release(self) -> None:
        """Serves on."""
        self.session.resume()

    def leave(self) -> None:
        """It is another daemon's now: `run` returns when what was begun here is answered."""
        self.session.leave()

    def own(self) -> None:
        """The other daemon has left it."""
        self.session.own()

    def stop(self) -> None:
        """Makes `run` return."""
        self.session.stop()

    async def writers_done(self, seconds: float) -> None:
        """Waits until nobody writes, at most so long."""
        with trio.move_on_after(seconds):
            while True:
                if not any(_writes(handle) for handle in self.operations.open_handles):
                    return
                await trio.sleep(SETTLE_STEP_SECONDS)

    async def settle(self) -> None:
        """Ends what clients left open: a file that was closed is committed, one still being written is dropped."""
        for node in self.tree.table:
            if isinstance(node, IncomingFile) and node.staged is not None:
                await _settle(node)
        await self.store.index.flush()

    async def status(self) -> str:
        """What .lfsfs/status says, JSON."""
        usage = await self.store.usage()
        disk = os.statvfs(self.store.layout.path)
        remote = self.store.remote
        return (
            json.dumps(
                {
                    "pid": os.getpid(),
                    "store": str(self.store.layout.path),
                    "mountpoint": str(self.mountpoint),
                    "started": self.started,
                    "objects": usage.objects,
                    "bytes": usage.bytes,
                    "names": usage.names,
                    "repositories": usage.repositories,
                    "disk_free": disk.f_bavail * disk.f_frsize,
                    "sharing": self.options.sharing,
                    "delete": self.options.delete,
                    "read_only": self.options.read_only,
                    "open_files": len(self.operations.open_handles),
                    "nodes": len(self.tree.table),
                    "traffic": self.operations.traffic.described(),
                    "remote": None if remote is None else asdict(remote.status()),
                    "scrub": asdict(self.store.index.view(scrub_record.load)),
                },
                indent=1,
            )
            + "\n"
        )

    async def metrics(self) -> str:
        """What .lfsfs/metrics says, in Prometheus's text format."""
        return gauges.rendered(await gauges.gauges(self.store)) + self.own_metrics()

    def own_metrics(self) -> str:
        """Those that are the mount's and not the store's."""
        found = [
            Gauge("open_files", "Files open through the mount.", len(self.operations.open_handles)),
            Gauge("nodes", "Inodes that the kernel knows.", len(self.tree.table)),
        ]
        return gauges.rendered(found) + self.session.timings.rendered()

    def _workspace(self) -> tuple[Path, bool]:
        """Where git-lfs's own files lie: in the store, or, where that takes no writes, in a directory of this mount."""
        if self._taken is not None:
            return Path(str(self._taken.described["workspace"])), self.options.read_only
        if self.options.read_only:
            return Path(tempfile.mkdtemp(prefix="lfsfs-")), True
        return self.store.layout.path, False

    def _count_workspace(self, workspace: Path) -> None:
        """What git-lfs left in tmp/ and incomplete/ takes room as well."""
        space = self.store.staging.space
        if space is not None:
            for file in _temporaries(workspace):
                found = file.lstat()
                space.grant(plain_key(found)).adopt(found.st_blocks * STAT_BLOCK_BYTES)

    def _fuse_options(self) -> list[bytes]:
        source = option_value(self.store.layout.path)
        options = [b"fsname=" + source, b"subtype=lfsfs", b"default_permissions"]
        options += [b"allow_other"] if self.options.allow_other else []
        return [*options, b"noexec"] if self.options.noexec else options

    async def _changed(self, happened: list[Event] | None, since: int) -> None:
        """Makes the kernel forget what another process took away."""
        for event in self._all_that_is_gone() if happened is None else happened:
            self._forget(event)
        await vectors_changed(self.tree, happened, since)

    def _all_that_is_gone(self) -> list[Event]:
        """What the kernel may know and the store no longer has: for when more happened than events are kept."""
        self.tree.table.wake()
        nodes = list(self.tree.table)
        there = {found.id for found in self.store.index.view(references.roots)}
        objects = [node.oid for node in nodes if isinstance(node, ObjectNode)]
        roots = [node for node in nodes if isinstance(node, StorageRoot) and node.repository != SHARED]
        return [
            *(Event("object-deleted", oid.to_bytes()) for oid in objects if self.store.lookup(oid) is None),
            *(
                Event("repository-removed", root.path.name.encode())
                for root in roots
                if root.repository not in there
            ),
        ]

    def _forget(self, event: Event) -> None:
        table = self.tree.table
        if event.kind in REMOVED_FROM:
            parent = table.find(REMOVED_FROM[event.kind])
            if parent is not None:
                forget_entry(parent, event.key)
        elif event.kind == "name-changed":
            parent = table.find(("incoming", int.from_bytes(event.key[:8], "big")))
            if parent is not None:
                forget_entry(parent, event.key[8:])
        elif event.kind == "object-deleted":
            self._forget_object(event.key.hex())
        elif event.kind == "object-corrupt" and table.find(("object", event.key.hex())) is not None:
            object_node(self.tree, Oid.from_bytes(event.key))  # which tells the kernel

    def _forget_object(self, oid: str) -> None:
        table = self.tree.table
        for node in table:
            if node.key[0] == "objects" and node.key[2] == oid[:4]:
                forget_entry(node, oid.encode())
        gone = table.find(("object", oid))
        if gone is not None:
            table.rekey(gone, ("deleted", gone.number))

    async def _age(self) -> None:
        """Removes downloads that nobody resumes: git-lfs never cleans incomplete/."""
        while True:
            limit = time.time() - self.options.incomplete_age
            removed = await trio.to_thread.run_sync(remove_abandoned, self.tree.workspace, limit)
            for key in removed:
                forget_plain(self.tree, key)
            if removed:
                log.info("incomplete/: removed %d abandoned downloads", len(removed))
            await trio.sleep(AGE_SECONDS)


async def _settle(node: IncomingFile) -> None:
    if node.writers:
        log.warning("incoming: inode %d was still being written: not committed", node.inode.number)
        node.abandon()
        return
    try:
        await node.commit()
    except (LfsfsError, OSError) as failed:
        log.error("incoming: inode %d: not committed: %s", node.inode.number, failed)
        node.abandon()


def _writes(handle: object) -> bool:
    return isinstance(handle, WorkspaceHandle) or (isinstance(handle, IncomingHandle) and handle.writing)


def _roots(workspace: Path) -> list[Path]:
    repositories = workspace / "repos"
    return [workspace, *(sorted(repositories.iterdir()) if repositories.is_dir() else [])]


def remove_abandoned(workspace: Path, before: float) -> list[Key]:
    """Removes files of incomplete/ last written before this time (seconds since 1970); which."""
    removed = []
    for root in _roots(workspace):
        directory = root / "incomplete"
        for file in list(directory.iterdir()) if directory.is_dir() else []:
            try:
                found = file.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_mtime < before:
                    file.unlink()
                    removed.append(plain_key(found))
            except FileNotFoundError:
                continue  # its client was quicker
    return removed


def check_workspace(path: Path) -> None:
    """StoreFormat where git-lfs's own directories cannot be made, or are symbolic links."""
    for name in WORKSPACE_DIRECTORIES:
        if os.path.lexists(path / name) and ((path / name).is_symlink() or not (path / name).is_dir()):
            raise StoreFormat(f"{path / name} is not a directory: git-lfs keeps files of its own there")


def _temporaries(workspace: Path) -> Iterator[Path]:
    """The regular files of every tmp/ and incomplete/."""
    for root in _roots(workspace):
        for directory in (root / "tmp", root / "incomplete"):
            for path in directory.rglob("*") if directory.is_dir() else []:
                if path.is_file() and not path.is_symlink():
                    yield path


def clear_committed(workspace: Path) -> None:
    """Removes temps that a killed daemon had already made objects of: a second link of an object, still writable."""
    for path in list(_temporaries(workspace)):
        if path.lstat().st_nlink > 1:
            path.unlink(missing_ok=True)
