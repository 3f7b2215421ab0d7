"""Index: the LMDB environment, read by `view` and written by `update`; a transaction is never handed out.

The rules that govern this file:

1. A write transaction belongs to the writer thread. `update(fn)` queues fn; the thread runs all that wait in one
   transaction, and commits once: concurrent commits share the fsync. Where one of them raises, all begin anew, each
   in a nested transaction of its own, which costs several times as much.
2. A function given to `update` may run twice: it changes nothing but the transaction.
3. `defer(fn)` is an update that nobody waits for. It is committed with the next update, or within DEFER_SECONDS.
4. Functions run in the order in which they were given, deferred or not.
5. Several processes may have the environment open. The map may grow under us: views stand aside while it is remapped.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import lmdb
import trio

from lfsfs import durable
from lfsfs.errors import LfsfsError, ReadOnly, StoreFormat
from lfsfs.store import page_sums, trimming
from lfsfs.store.changes import Changes
from lfsfs.store.environment import NONSENSE, open_environment, translated
from lfsfs.store.transaction import IndexFile, WriteTx
from lfsfs.store.transaction import Tx as Tx

T = TypeVar("T")
log = logging.getLogger("lfsfs.index")

TABLES = (
    "objects", "digests", "by_created", "by_accessed", "by_size", "by_type",
    "repositories", "references", "references_by_oid",
    "inodes", "entries", "parents", "names_by_oid", "by_name",
    "residents", "by_used", "pins", "pending",
    "collections", "vectors", "vector_digests", "vector_forms", "loose_vectors", "unpacked",
    "packs", "packs_by_oid",
    "locks", "locks_by_id", "feeds", "activity",
    "write_ahead", "meta", "events",
    "unreferenced", "trash", "withdrawn",
    "verdicts", "unscanned",
)  # fmt: skip
DEFER_SECONDS = 0.5
BATCH_LIMIT = 2_000
_TRIMMED = b"trimmed"
PREPARERS = 16  # threads: concurrent fsyncs share the file system's journal commits


Told = Callable[[T | None, BaseException | None], None]
_Waiter = tuple[trio.lowlevel.TrioToken, trio.lowlevel.Task | Told[Any]]


@dataclass(slots=True)
class _Job(Generic[T]):
    fn: Callable[[Tx], T]
    waiter: "_Waiter | None"  # is told after the commit; None for deferred work
    after: Callable[[], None] | None = None
    first: Callable[[], None] | None = None
    result: T | None = None
    error: BaseException | None = None


class Index:
    """The store's LMDB environment.

    `durable` False leaves out the fsync of each commit: a commit then survives this process, not the power.
    """

    def __init__(self, path: Path, *, durable: bool = True, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self.durable = durable
        self._opened = time.monotonic()
        self._lock = threading.Lock()
        self._gate = threading.Condition(self._lock)
        self._views = 0
        self._remapping = 0  # how many threads wait for the last view to end
        self._trimmable = True
        if read_only and os.access(path, os.W_OK):
            _bring_up_to_date(path)
        self._env = open_environment(path, tables=len(TABLES), synchronous=durable, read_only=read_only)
        try:
            self._tables = self._open_tables()
            data = os.open(path / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)
            self._file = IndexFile(data, self._env.stat()["psize"], self._env.open_db(None))
        except BaseException:
            self._env.close()
            raise
        self._queue: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._preparers = ThreadPoolExecutor(PREPARERS, thread_name_prefix="lfsfs-prepare")
        self._closed = False
        self.commits = 0
        """How many this process has made, or had made."""
        self.changes = Changes(path, self.last_transaction)
        self._writer = threading.Thread(target=self._write_loop, name="lfsfs-index", daemon=True)
        if not read_only:
            self._writer.start()

    def close(self) -> None:
        """Commits what is queued, deferred work too, and closes. Nothing may use the index afterwards."""
        if self._closed:
            return
        self._closed = True
        self._preparers.shutdown()
        if not self.read_only:
            self._queue.put(None)
            self._writer.join()
            self._leave_sums()
        self.changes.close()
        os.close(self._file.fd)
        self._env.close()

    def _leave_sums(self) -> None:
        try:
            if not self.durable:
                self._env.sync(True)
            with self._env.begin(write=True):  # nobody writes meanwhile
                page_sums.leave(self.path / "data.mdb", time.monotonic() - self._opened)
        except (lmdb.Error, OSError) as error:  # what was acknowledged is committed
            log.warning("the index at %s is closed without sums of its pages: %s", self.path, error)

    def look_over(self) -> None:
        """Compares the pages with their sums, and puts right a bit that flipped; where there are no sums, leaves some.

        For whoever has the index open for long, while nobody commits. StoreFormat where it is damaged. Blocks.
        """
        data = self.path / "data.mdb"
        try:
            if page_sums.exist(data):
                if not page_sums.agree(data):
                    with self._viewing(), self._env.begin(write=True):  # nobody writes meanwhile
                        page_sums.mend(data)
                return
            if not self.durable:
                self._env.sync(True)
            taken = page_sums.take(data)
            with self._viewing(), self._env.begin(write=True):
                if taken is not None and page_sums.are_of_now(data, taken):
                    page_sums.write(data, taken)
        except (lmdb.Error, page_sums.Differs) as damaged:
            raise StoreFormat(f"the index at {data} is damaged: {damaged}") from damaged

    def view(self, fn: Callable[[Tx], T]) -> T:
        """Runs `fn` over a consistent snapshot, from any thread. Short: it holds up the growth of the map."""
        while True:
            try:
                self._enter()
                try:
                    with self._env.begin() as txn:
                        return fn(Tx(txn, self._tables, self._file))
                finally:
                    self._leave()
            except lmdb.MapResizedError:
                self._remap(0)
            except (lmdb.Error, *NONSENSE) as error:
                raise translated(error, self.path) from error

    async def update(
        self, fn: Callable[[Tx], T], *, first: Callable[[], None] | None = None, waits: bool = True
    ) -> T:
        """Runs `fn` in a write transaction; returns when it is committed. An exception of `fn` undoes only fn.

        `first` is run before that in a thread; where it raises, that is raised, and `fn` does not run. The two
        together cost one way through the threads, not two. `waits`: whether `first` waits for the disk.
        """
        self._check_open()
        job: _Job[T] = _Job(fn, (trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()))
        if first is None:
            self._queue.put(job)
        else:
            job.first = first
            self._prepare(job, waits)
        # Not to be cancelled: the transaction takes place. Cheaper than an event in a shielded scope.
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    def submit(self, fn: Callable[[Tx], T], told: Told[T]) -> None:
        """As `update`, and nobody waits: `told` gets the result or the error, in the thread of this event loop.

        It must not raise.
        """
        self._check_open()
        self._queue.put(_Job(fn, (trio.lowlevel.current_trio_token(), told)))

    def apply(self, fns: Sequence[Callable[[Tx], T]]) -> "list[T | BaseException]":
        """Runs all of them in one transaction, here and now; the result or the error of each.

        For a process without an event loop, in which nobody else writes.
        """
        jobs: list[_Job[T]] = [_Job(fn, None) for fn in fns]
        self._commit(jobs)
        return [job.result if job.error is None else job.error for job in jobs]  # type: ignore[misc]

    def committed_elsewhere(self) -> None:
        """Another process has committed something on behalf of this one."""
        self.commits += 1

    def _check_open(self) -> None:
        if self.read_only:
            raise ReadOnly("the store is open read-only")
        if self._closed:
            raise LfsfsError("the index is closed")

    def defer(self, fn: Callable[[Tx], Any], after: Callable[[], None] | None = None) -> None:
        """Queues an update that nobody waits for; `after` is called in the writer thread once it is committed."""
        if not self.read_only:
            self._queue.put(_Job(fn, None, after))

    async def flush(self) -> None:
        """Returns when all that was deferred before is committed."""
        if not self.read_only:
            await self.update(lambda tx: None)

    async def trim(self) -> None:
        """Gives free pages back to the file system, where they are many. Nobody writes meanwhile."""
        data = self.path / "data.mdb"
        due = self._trimmable and trimming.is_due(data, self.view(lambda tx: tx.used_bytes()))
        if due and not self.read_only:
            await self.update(lambda tx: tx.put("meta", _TRIMMED, time.time_ns().to_bytes(8, "big")))
            self._trimmable = await trio.to_thread.run_sync(self._trim, data)

    def _trim(self, data: Path) -> bool:
        try:
            with self._viewing():
                self._env.sync(True)
                return trimming.trim(self._env, data)
        except lmdb.Error as error:
            raise translated(error, self.path) from error

    def last_transaction(self) -> int:
        """The number of the newest commit that a view sees, whichever process made it.

        Not what `info` says: that counts a commit while its last page is still on its way to the disk. Whoever looked
        then would see nothing new, and not look again.
        """
        return self.view(lambda tx: tx.number)

    def check_readers(self) -> int:
        """Clears readers of dead processes; how many there were."""
        return self._env.reader_check()

    def _prepare(self, job: _Job[Any], waits: bool) -> None:
        """Where there is an fsync to wait for, several wait at once; else the writer does it on the way."""
        if not waits or not self.durable:
            self._queue.put(job)
            return

        def run() -> None:
            if _run_first(job):
                self._queue.put(job)
            else:
                _tell([job])

        self._preparers.submit(run)

    # The writer thread.

    def _write_loop(self) -> None:
        open_end = True
        while open_end:
            batch, open_end = self._collect()
            if batch:
                self._commit(batch)

    def _collect(self) -> tuple[list[_Job[Any]], bool]:
        """All jobs that wait, at least one; lingers while there are only deferred ones. False: no more will come."""
        first = self._queue.get()
        if first is None:
            return [], False
        batch = [first]
        deadline = time.monotonic() + DEFER_SECONDS
        urgent = first.waiter is not None
        while len(batch) < BATCH_LIMIT:
            try:
                job = (
                    self._queue.get_nowait()
                    if urgent
                    else self._queue.get(timeout=max(0, deadline - time.monotonic()))
                )
            except queue.Empty:
                break
            if job is None:
                return batch, False
            batch.append(job)
            urgent = urgent or job.waiter is not None
        return batch, True

    def _commit(self, batch: list[_Job[Any]]) -> None:
        try:
            ready = [job for job in batch if _run_first(job)]
            if ready:
                self._commit_growing(ready)
        except BaseException as error:  # the writer thread must answer every caller, whatever happened
            for job in batch:
                job.error = job.error or error
        for job in batch:
            if job.after is not None and job.error is None:
                job.after()
        _tell(batch)

    def _commit_growing(self, batch: list[_Job[Any]]) -> None:
        while True:
            try:
                return self._commit_once(batch)
            except lmdb.MapFullError:
                self._remap(self._env.info()["map_size"] * 2)
            except lmdb.MapResizedError:
                self._remap(0)
            except (lmdb.Error, OSError) as error:
                raise translated(error, self.path) from error

    def _commit_once(self, batch: list[_Job[Any]]) -> None:
        with self._viewing():  # a view that finds the map too small must not remap under a write transaction
            self._run_and_commit(batch)

    def _run_and_commit(self, batch: list[_Job[Any]]) -> None:
        if not self._attempt(batch, self._run_plain) and len(batch) > 1:
            self._attempt(batch, self._run_nested)

    def _attempt(
        self, batch: list[_Job[Any]], run: "Callable[[_Job[Any], lmdb.Transaction[bytes], WriteTx], bool]"
    ) -> bool:
        """One transaction for all; False, and nothing done, where `run` says that it cannot go on."""
        txn = self._env.begin(write=True)
        try:
            page_sums.take_away(self.path / "data.mdb")
            tx = WriteTx(txn, self._tables)
            for job in batch:
                if not run(job, txn, tx):
                    txn.abort()
                    return False
            tx.settle()
            with durable.step("commit-index"):
                txn.commit()
            self.commits += 1
        except BaseException:
            txn.abort()
            raise
        return True

    def _run_plain(self, job: _Job[Any], txn: "lmdb.Transaction[bytes]", tx: WriteTx) -> bool:
        """All jobs of the transaction share `tx`, and what it keeps of the rows that they read and write."""
        return self._run(job, tx)

    def _run_nested(self, job: _Job[Any], parent: "lmdb.Transaction[bytes]", tx: WriteTx) -> bool:
        child = self._env.begin(write=True, parent=parent)
        try:
            own = WriteTx(child, self._tables)
            if self._run(job, own):
                own.settle()
                child.commit()
            else:
                child.abort()
        except BaseException:
            child.abort()
            raise
        return True

    def _run(self, job: _Job[Any], tx: WriteTx) -> bool:
        job.error = None
        try:
            job.result = job.fn(tx)
        except (lmdb.MapFullError, lmdb.MapResizedError):
            raise
        except Exception as error:
            foreign = isinstance(error, (lmdb.Error, *NONSENSE))
            job.error = translated(error, self.path) if foreign else error
        return job.error is None

    # The map.

    def _enter(self) -> None:
        with self._lock:
            self._views += 1

    def _leave(self) -> None:
        with self._lock:
            self._views -= 1
            if self._views == 0 and self._remapping:
                self._gate.notify_all()

    @contextmanager
    def _viewing(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _remap(self, size: int) -> None:
        """Sets the size of the map (0: as another process left it) while no transaction runs."""
        with self._gate:
            self._remapping += 1
            self._gate.wait_for(lambda: self._views == 0)
            self._remapping -= 1
            with durable.step("grow-index" if size else "follow-index"):
                self._env.set_mapsize(size)

    def _open_tables(self) -> dict[str, Any]:
        try:
            if self.read_only:
                return {name: self._env.open_db(name.encode(), create=False) for name in TABLES}
            with self._env.begin(write=True) as txn:
                return {name: self._env.open_db(name.encode(), txn=txn) for name in TABLES}
        except lmdb.Error as error:
            raise translated(error, self.path) from error


def _tell(jobs: list[_Job[Any]]) -> None:
    """Wakes those who wait for the jobs, each event loop once."""
    waiting: dict[trio.lowlevel.TrioToken, list[_Job[Any]]] = {}
    for job in jobs:
        if job.waiter is not None:
            waiting.setdefault(job.waiter[0], []).append(job)
    for token, told in waiting.items():
        token.run_sync_soon(_resume, told)


def _resume(jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        assert job.waiter is not None
        who = job.waiter[1]
        if isinstance(who, trio.lowlevel.Task):
            trio.lowlevel.reschedule(who)
        else:
            who(job.result, job.error)


def _run_first(job: _Job[Any]) -> bool:
    """Whether the job's transaction is to run."""
    if job.first is not None:
        try:
            job.first()
            job.first = None
        except Exception as error:
            job.error = error
    return job.error is None


def _bring_up_to_date(path: Path) -> None:
    """Gives an older lfsfs's index the tables that came later, so that it can be opened to be read."""
    if not (path / "data.mdb").exists():
        return
    env = open_environment(path, tables=len(TABLES), synchronous=True, read_only=True)
    try:
        with env.begin() as txn:
            present = env.open_db(None, txn=txn)
            complete = all(txn.get(name.encode(), db=present) is not None for name in TABLES)
    finally:
        env.close()
    if not complete:
        Index(path).close()
