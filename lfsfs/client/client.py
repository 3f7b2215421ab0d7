"""Client: a store for programs that know nothing of trio: notebooks, scripts, threads, asyncio.

A thread of its own runs trio, and the store; a call hands its work over and waits. So it works in any thread, also in
one where an event loop runs already, as in Jupyter: the call blocks that loop for as long as it takes.
"""

import builtins
import io
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from lfsfs.client.reading import ReaderFile
from lfsfs.client.session import Session, join
from lfsfs.errors import LfsfsError
from lfsfs.oid import Oid
from lfsfs.pointer import Pointer
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.query import ListQuery, Match
from lfsfs.store.references import Repository
from lfsfs.store.store import Durability, Store, Usage
from lfsfs.store.transfers import Progress

if TYPE_CHECKING:
    from lfsfs.client.embeddings import SyncEmbeddings

T = TypeVar("T")
BUFFER_BYTES = 1 << 20


class Client:
    """An open store. A context manager; `close` may be repeated. Any number of threads may use it at once.

    What Store does, each call made and waited for; see there for errors. It does not outlive a fork: processes that a
    program starts are to be spawned (multiprocessing's "spawn"), and open the store themselves.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        durability: Durability = "sync",
        create: bool = False,
        read_only: bool = False,
    ) -> None:
        self._session: Session | None = join(Path(path), durability, create, read_only)
        self._closing = threading.Lock()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for calls under way. Nothing may be called afterwards. The last one of a store closes that."""
        with self._closing:
            session, self._session = self._session, None
        if session is not None:
            session.leave()

    def call(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """What `work` returns, or raises, with the store, in the client's thread: for whatever has no method here."""
        return self._open.call(work)

    def soon(self, work: Callable[[], object]) -> None:
        """Has `work` done in the client's thread, without waiting for it. Of a closed store: nothing happens."""
        session = self._session
        if session is not None:
            session.soon(work)

    @property
    def _open(self) -> Session:
        session = self._session
        if session is None:
            raise LfsfsError("the store is closed")
        return session

    @property
    def _store(self) -> Store:
        return self._open.store

    @property
    def path(self) -> Path:
        """Of the store."""
        return self._store.layout.path

    @cached_property
    def embeddings(self) -> "SyncEmbeddings":
        """The vectors of the store."""
        from lfsfs.client.embeddings import SyncEmbeddings  # brings numpy

        return SyncEmbeddings(self, self._store.embeddings)

    # Objects in.

    def put(
        self,
        source: Path | str | bytes,
        *,
        oid: Oid | None = None,
        repository: str | None = None,
        progress: Progress | None = None,
    ) -> ObjectStat:
        """Stores a file (a Path, or its name as str) or bytes; the object's row. HashMismatch if it is not `oid`.

        `repository`: a root, which then refers to the object; without one, `lfsfs gc` may take it after its grace time.
        `progress` is called in the client's thread, with the bytes so far and in all (None where that is not known).
        """
        what = Path(source) if isinstance(source, str) else source
        return self.call(lambda store: store.put(what, oid=oid, repository=repository, progress=progress))

    def put_many(
        self, items: Iterable[Path | bytes], *, repository: str | None = None
    ) -> Sequence[ObjectStat | LfsfsError]:
        """Stores all of them, some at once; for each its row or its error, in the order given."""
        return self.call(lambda store: store.put_many(items, repository=repository))

    # Objects out. An oid is a str of 64 lower-case hex digits; `find` makes one of its first digits.

    def get(self, oid: str, target: Path | str, *, progress: Progress | None = None) -> None:
        """Writes the object to the file `target`, verified: under its name whole, or not at all. NotFound, Corrupt."""
        return self.call(lambda store: store.get(Oid(oid), Path(target), progress=progress))

    def read(self, oid: str, offset: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from `offset`, verified; fewer only at the end of the object; None: all the rest."""

        async def use(store: Store) -> bytes:
            async with await store.open(Oid(oid)) as reader:
                return await reader.read(offset, max(0, reader.size - offset) if size is None else size)

        return self.call(use)

    def open(self, oid: str) -> io.BufferedReader:
        """The object as a binary file that one can seek in, verified block by block. NotFound, Corrupt, Unavailable."""
        return io.BufferedReader(
            ReaderFile(self, self.call(lambda store: store.open(Oid(oid)))), BUFFER_BYTES
        )

    def stat(self, oid: str) -> ObjectStat:
        """The object's row. NotFound."""
        return self.call(lambda store: store.stat(Oid(oid)))

    def exists(self, oid: str) -> bool:
        """Whether there is such an object."""
        return self.call(lambda store: store.exists(Oid(oid)))

    def find(self, prefix: str) -> Oid:
        """The one object whose oid begins with these digits, at least 4. NotFound; Refused if there are several."""
        return self.call(lambda store: store.find(prefix))

    def pointer(self, oid: str) -> str:
        """The text of the object's Git LFS pointer, which a repository keeps in the place of the file."""
        row = self.stat(oid)
        return Pointer.for_object(row.oid, row.size).encode().decode()

    def list(self, wanted: ListQuery | None = None) -> Iterator[ObjectStat]:
        """All objects that fit, in the order asked for, a page at a time: `wanted.limit` is the size of a page."""
        query: ListQuery | None = wanted or ListQuery()
        while query is not None:
            page = self.call(lambda store, query=query: store.list(query))  # type: ignore[misc]
            yield from page.objects
            query = None if page.cursor is None else replace(query, cursor=page.cursor)

    def search(self, term: str, *, limit: int = 100) -> builtins.list[Match]:
        """Objects whose oid, name in incoming/ or content type begins with `term`."""
        return self.call(lambda store: store.search(term, limit=limit))

    # What refers to them.

    def names_of(self, oid: str) -> builtins.list[str]:
        """The paths below incoming/ whose content the object is."""
        return self.call(lambda store: store.names_of(Oid(oid)))

    def why(self, oid: str) -> builtins.list[str]:
        """What keeps the object alive, a sentence each; empty if nothing does."""
        return self.call(lambda store: store.why(Oid(oid)))

    def repositories(self) -> builtins.list[Repository]:
        """The repository roots."""
        return self.call(lambda store: store.repositories())

    def add_repository(self, name: str) -> Repository:
        """Makes the repository root; the one that is there if there is one."""
        return self.call(lambda store: store.add_repository(name))

    def remove_repository(self, name: str) -> None:
        """Removes the root and its references. Objects stay. NotFound."""
        return self.call(lambda store: store.remove_repository(name))

    def discard(self, oid: str, *, force: bool = False) -> None:
        """Moves the object to the trash. NotFound; InUse while anything refers to it, unless `force`."""
        return self.call(lambda store: store.discard(Oid(oid), force=force))

    def usage(self) -> Usage:
        """Totals of the store."""
        return self.call(lambda store: store.usage())


def connect(
    path: Path | str, *, durability: Durability = "sync", create: bool = False, read_only: bool = False
) -> Client:
    """The store at `path`, also beside a running mount of it, for code that is not trio's.

    Several in one process share the open store: what they want of it must be the same, else InUse.

    with lfsfs.connect("/srv/store") as client:
        row = client.put(b"some bytes")
        client.embeddings.write_embeddings_batch({content_hash: vector})

    `durability`: "sync", what returned survives power loss; "fast", it survives a crash of the process. `create`: makes
    a store where there is none. `read_only`: writes nothing, and may be a store that one may not write to. NotFound;
    StoreFormat where that is no store, or one of a newer lfsfs.
    """
    return Client(path, durability=durability, create=create, read_only=read_only)
