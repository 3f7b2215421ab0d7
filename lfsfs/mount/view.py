"""View: one collection, alone at a mountpoint of its own, for a work tree of git.

A directory of npz files and nothing else that a listing shows: `_matrix.npy` and `_hashes.txt` open all the same, and
`.lfsfs` says how the view does. A process of its own serves it, beside the daemon of the store if there is one. What
stat(2) says of a file depends on the row alone, so it is the same after a remount, and git need not read it again; the
kernel keeps it until a watcher sees that some process has changed the row.
"""

import json
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import trio

from lfsfs.config import MountOptions
from lfsfs.embeddings.collection import Collection
from lfsfs.embeddings.contents import VectorStat
from lfsfs.embeddings.embeddings import Embeddings
from lfsfs.errors import LfsfsError
from lfsfs.fuse import EntryAttributes, FileInfo, Session
from lfsfs.fuse.device import option_value
from lfsfs.mount.control import ReportNode
from lfsfs.mount.embeddings import CollectionDirectory, vectors_changed
from lfsfs.mount.nodes import Key, Node, TextHandle, Tree
from lfsfs.mount.operations import Operations
from lfsfs.mount.vector_file import VectorFile
from lfsfs.mount.watching import thin, watch
from lfsfs.mounts import VIEW
from lfsfs.store.opening import open_store
from lfsfs.store.store import Store

log = logging.getLogger("lfsfs.view")
STATUS = b".lfsfs"
_REPORT: Key = ("report", STATUS)
DERIVE_SECONDS = 1.0
SHARE = 10  # looking through a large collection takes at most one part in so many of the time
AHEAD = 256  # files that are made at once, at most
AHEAD_BYTES = 4 << 20
COUNTED = ("lookup", "getattr", "open", "read", "readdir", "create", "write", "unlink")


class ViewedFile(VectorFile):
    """A vector, whose file is made together with those that come next."""

    async def content(self) -> bytes:
        if self.found is None or not isinstance(self.directory, ViewDirectory):
            return await super().content()
        return await self.directory.ahead.content(self.found)


class Ahead:
    """The files that come next where they are read in order, as git does: made together, which is much cheaper."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._made: dict[tuple[str, int], bytes] = {}
        self._count = 1
        self._reading = trio.Lock()

    async def content(self, wanted: VectorStat) -> bytes:
        """The npz file. NotFound, Corrupt."""
        async with self._reading:
            made = self._made.pop((wanted.content_hash, wanted.created), None)
            if made is None:
                made = await self._make(wanted)
            return made

    async def _make(self, wanted: VectorStat) -> bytes:
        """Twice as many as the last time if all of those were asked for; else this one alone."""
        most = max(1, AHEAD_BYTES // wanted.npz_size)
        self._count = 1 if self._made else min(self._count * 2, AHEAD, most)
        if self._count == 1:
            self._made.clear()
            return await self._collection.render(wanted.content_hash)
        stats = [wanted, *self._collection.page(after=wanted.content_hash, limit=self._count - 1)]
        found = await self._collection.render_batch([stat.content_hash for stat in stats])
        after = self._collection.stats_of(list(found))
        made = {
            (stat.content_hash, stat.created): found[stat.content_hash]
            for stat in stats
            if stat.content_hash in after and after[stat.content_hash].created == stat.created
        }
        first = made.pop((wanted.content_hash, wanted.created), None)
        if first is None:  # replaced meanwhile, or damaged: whoever reads it is told
            return await self._collection.render(wanted.content_hash)
        self._made = made
        return first


class ViewDirectory(CollectionDirectory):
    """The mountpoint."""

    attribute_seconds: ClassVar[float] = 1.0
    file_kind: ClassVar[type[VectorFile]] = ViewedFile
    listed_whole: ClassVar[tuple[bytes, ...]] = ()  # git would add them

    def __init__(self, tree: Tree, collection: Collection, status: "Callable[[], str]") -> None:
        super().__init__(tree, collection)
        self.key = ("root",)
        self.ahead = Ahead(collection)
        self._status = status

    def attributes(self) -> EntryAttributes:
        """Its time is that of the last change, by which git may tell whether to list it again."""
        changed = max(self.tree.born, self.collection.changed())
        answer = super().attributes()
        answer.st_atime_ns = answer.st_mtime_ns = answer.st_ctime_ns = changed
        return answer

    async def lookup(self, name: bytes) -> Node | None:
        if name == STATUS:
            known = self.tree.table.find(_REPORT)
            return known or self.tree.table.intern(ReportNode(self.tree, _REPORT, self._report))
        return await super().lookup(name)

    async def _report(self) -> str:
        return self._status()


class CountingOperations(Operations):
    """Counts what the kernel asks for, but not of the file that tells it."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree)
        self.counts: Counter[str] = Counter()

    def open_at_once(self, inode: int, flags: int) -> FileInfo | None:
        opened = super().open_at_once(inode, flags)
        if opened is not None:
            self.count("open", inode)
        return opened

    def count(self, name: str, target: object) -> None:
        """`target`: the number of an inode, or, of a read or write, of a handle."""
        if name in ("read", "write"):
            telling = isinstance(self._handles.get(target), TextHandle) if isinstance(target, int) else False
        else:
            report = self._tree.table.find(_REPORT)
            telling = report is not None and report.number == target
        if not telling:
            self.counts[name] += 1


def _counted(name: str) -> Callable[..., Any]:
    handler = getattr(Operations, name)

    async def count(self: CountingOperations, *arguments: Any) -> Any:
        self.count(name, arguments[0])
        return await handler(self, *arguments)

    return count


for _name in COUNTED:
    setattr(CountingOperations, _name, _counted(_name))


class View:
    """The view of one collection of `store` at `mountpoint`, which must be an empty directory."""

    def __init__(self, store: Store, collection: str, mountpoint: Path, options: MountOptions) -> None:
        self._store = store
        self._embeddings: Embeddings = store.embeddings
        self._collection = self._embeddings.collection(collection)
        self._mountpoint = mountpoint
        self._options = options

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["View"]:
        """Mounts; inside, `run` serves. Unmounts at the end, whatever happened."""
        await self._embeddings.settle()
        if self._collection.waiting() and not self._store.index.read_only:
            await self._embeddings.pack()
        self.tree = Tree(self._store, self._options, self._store.layout.path)
        self.operations = CountingOperations(self.tree)
        self.root = self.tree.table.intern(ViewDirectory(self.tree, self._collection, self.status))
        self.session = Session(self.operations, self._mountpoint)
        source = option_value(self._store.layout.path)
        self.tree.kernel = self.session.mount(
            [b"fsname=" + source, b"subtype=" + VIEW.encode(), b"default_permissions"]
        )
        try:
            yield self
        finally:
            self.session.close()

    async def run(self) -> None:
        """Serves until the mount is taken away, or SIGTERM or SIGINT come."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, self.tree, partial(vectors_changed, self.tree))
            nursery.start_soon(thin, self.tree)
            if not self._store.index.read_only:
                nursery.start_soon(self._derive)
            nursery.start_soon(self._until_signalled)
            await self.session.run()
            nursery.cancel_scope.cancel()
        for draft in list(self.root.drafts.values()):
            draft.drop()

    def status(self) -> str:
        """What `.lfsfs` says, JSON. `requests`: how often the kernel has asked for what."""
        return (
            json.dumps(
                {
                    "pid": os.getpid(),
                    "store": str(self._store.layout.path),
                    "collection": self._collection.name,
                    "vectors": self._collection.count(),
                    "read_only": self._options.read_only,
                    "requests": {name: self.operations.counts[name] for name in COUNTED},
                },
                indent=1,
            )
            + "\n"
        )

    async def _derive(self) -> None:
        """Has the store know which objects the files are before git-lfs asks for them."""
        seen: tuple[int, bool] | None = None
        while True:
            begun = trio.current_time()
            now = self._collection.generation(), self._collection.waiting() > 0
            if now != seen:
                seen = now
                try:
                    await self._embeddings.derive_npz_of(self._collection.name)
                except (LfsfsError, OSError) as failed:
                    log.warning("git-lfs will have to bring each file, since this failed: %s", failed)
            await trio.sleep(max(DERIVE_SECONDS, SHARE * (trio.current_time() - begun)))

    async def _until_signalled(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                self.session.stop()


def run(
    store: Path, collection: str, mountpoint: Path, options: MountOptions, ready: Callable[[], None]
) -> None:
    """Opens the store, mounts the view and serves it; returns when it is unmounted. `ready`: it answers."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO", force=True)

    async def main() -> None:
        async with (
            open_store(store, read_only=options.read_only and not os.access(store, os.W_OK)) as opened,
            View(opened, collection, mountpoint, options).serving() as view,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_announce, mountpoint, ready)
            await view.run()
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    except BaseExceptionGroup as group:
        failed: BaseException = group
        while isinstance(failed, BaseExceptionGroup):
            failed = failed.exceptions[0]
        raise failed from group


async def _announce(mountpoint: Path, ready: Callable[[], None]) -> None:
    """A read through the kernel, in a thread: whoever serves it must not wait for itself."""
    await trio.to_thread.run_sync((mountpoint / os.fsdecode(STATUS)).read_bytes, abandon_on_cancel=True)
    log.info("a view is mounted at %s", mountpoint)
    ready()
