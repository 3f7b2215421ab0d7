"""Tree: what lies at the paths of the store, as below a mountpoint."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from lfsfs.client.client import BUFFER_BYTES, Client
from lfsfs.client.reading import ReaderFile
from lfsfs.embeddings.contents import HASHES, MATRIX, SUFFIX, VectorStat
from lfsfs.embeddings.snapshot import Snapshot, snapshot_of
from lfsfs.errors import LfsfsError, NotFound
from lfsfs.oid import OID_HEX_DIGITS, Oid
from lfsfs.store import references
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.names import Inode, IsDirectory
from lfsfs.store.query import ListQuery
from lfsfs.store.store import Store

Kind = Literal["directory", "file", "other"]
ROOTS = ("embeddings", "incoming", "objects", "repos")


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies at a path. `size`: bytes; times in nanoseconds since 1970, 0 where there is none."""

    path: str
    kind: Kind
    size: int = 0
    oid: Oid | None = None
    created: int = 0
    modified: int = 0


class Tree:
    """Of one open store. Paths have no slash at either end. NotFound, NotDirectory."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._store = client._store

    def entry(self, path: str) -> Entry:
        """What lies there."""
        root, _, rest = path.partition("/")
        if root == "incoming":
            return _of_inode(path, self._store.incoming.stat(rest))
        if not rest and (not root or root in ROOTS):
            return Entry(path, "directory")
        if root == "objects":
            return self._object_entry(path, rest.split("/"), None)
        if root == "repos":
            name, _, inner = rest.partition("/")
            repository = self._store.repository(name)
            if inner in ("", "objects"):
                return Entry(path, "directory")
            if inner.startswith("objects/"):
                return self._object_entry(path, inner.split("/")[1:], repository.id)
        if root == "embeddings":
            return self._embedding_entry(path, rest)
        raise NotFound(f"no {path!r}: at the top are {', '.join(ROOTS)}")

    def entries(self, path: str) -> list[Entry]:
        """What lies in the directory there, which is one."""
        root, _, rest = path.partition("/")
        if not root:
            return [Entry(name, "directory") for name in ROOTS]
        if root == "incoming":
            return [_of_inode(f"{path}/{name}", inode) for name, inode in self._store.incoming.list(rest)]
        if root == "objects":
            return self._digits(path, rest.replace("/", ""), None)
        if root == "repos":
            return self._repository(path, rest)
        return list(self._embeddings(path, rest))

    def open(self, path: str) -> BinaryIO:
        """The file there, to be read."""
        root, _, rest = path.partition("/")
        if root == "embeddings" and "/" in rest:
            return self._open_embedding(rest)
        found = self.entry(path)
        if found.oid is None:
            raise IsDirectory(f"{path!r} is no file")
        return self._client.open(found.oid)

    # Objects, of the store or of a repository root.

    def _object_entry(self, path: str, parts: list[str], repository: int | None) -> Entry:
        name = parts[-1]
        if len(name) == OID_HEX_DIGITS and parts[:-1] in ([], [name[:2], name[2:4]]):
            row = self._client.stat(Oid(name))
            if repository is None or self._store.references.has(repository, row.oid):
                return _of_row(path, row)
        elif (
            {len(part) for part in parts} == {2}
            and len(parts) <= 2
            and self._next(path, "".join(parts), repository)
        ):
            return Entry(path, "directory")
        raise NotFound(f"no {path!r}")

    def _digits(self, path: str, prefix: str, repository: int | None) -> list[Entry]:
        if len(prefix) < 4:
            return [Entry(f"{path}/{two}", "directory") for two in self._next(path, prefix, repository)]
        name = None if repository is None else self._store.repository_name(repository)
        found = self._client.list(ListQuery(prefix=prefix, repository=name))
        return [_of_row(f"{path}/{row.oid}", row) for row in found]

    def _next(self, path: str, prefix: str, repository: int | None) -> list[str]:
        """The next two digits of the oids that begin with these: what a directory of objects holds."""
        if prefix.strip("0123456789abcdef"):
            raise NotFound(f"no {path!r}")
        if repository is not None:
            return self._store.references.directories(repository, prefix)
        return self._store.index.view(lambda tx: list(_next_digits(tx, prefix)))

    def _repository(self, path: str, rest: str) -> list[Entry]:
        if not rest:
            return [Entry(f"repos/{found.name}", "directory") for found in self._client.repositories()]
        name, _, inner = rest.partition("/")
        if not inner:
            return [Entry(f"{path}/objects", "directory")]
        prefix = inner.removeprefix("objects").replace("/", "")
        return self._digits(path, prefix, self._store.repository(name).id)

    # Vectors.

    def vector_place(self, rest: str) -> tuple[str, str]:
        """Collection and content hash of COLLECTION/HASH.npz. NotFound for any other path."""
        collection, _, file = rest.partition("/")
        if not file.endswith(SUFFIX) or "/" in file:
            raise NotFound(f"not a vector: embeddings/{rest!r}: they are COLLECTION/HASH{SUFFIX}")
        return collection, file.removesuffix(SUFFIX)

    def _embedding_entry(self, path: str, rest: str) -> Entry:
        name, _, file = rest.partition("/")
        collection = self._store.embeddings.collection(name)
        if not collection.exists():
            raise NotFound(f"no collection {name!r}")
        if not file:
            return Entry(path, "directory")
        if file == MATRIX:
            return Entry(path, "file", self._snapshot(name).size, created=collection.changed())
        if file == HASHES:
            return Entry(path, "file", len(self._hashes(name)), created=collection.changed())
        found = collection.stat(self.vector_place(rest)[1])
        if found is None:
            raise NotFound(f"no vector {rest!r}")
        return _of_vector(path, found)

    def _embeddings(self, path: str, name: str) -> Iterator[Entry]:
        if not name:
            yield from (
                Entry(f"embeddings/{found}", "directory") for found in self._store.embeddings.collections()
            )
            return
        for file in (MATRIX, HASHES):
            try:
                yield self._embedding_entry(f"{path}/{file}", f"{name}/{file}")
            except LfsfsError:  # vectors of several forms make no matrix
                break
        collection, after = self._store.embeddings.collection(name), None
        while page := collection.page(after):
            after = page[-1].content_hash
            yield from (_of_vector(f"{path}/{found.content_hash}{SUFFIX}", found) for found in page)

    def _open_embedding(self, rest: str) -> BinaryIO:
        name, _, file = rest.partition("/")
        if file == MATRIX:
            return io.BufferedReader(ReaderFile(self._client, self._snapshot(name)), BUFFER_BYTES)
        if file == HASHES:
            return io.BytesIO(self._hashes(name))
        collection, content_hash = self.vector_place(rest)
        return io.BytesIO(
            self._client.call(lambda store: store.embeddings.collection(collection).render(content_hash))
        )

    def _snapshot(self, name: str) -> Snapshot:
        async def take(store: Store) -> Snapshot:
            return snapshot_of(store, name)

        return self._client.call(take)

    def _hashes(self, name: str) -> bytes:
        async def take(store: Store) -> bytes:
            return "".join(f"{one}\n" for one in await snapshot_of(store, name).hashes()).encode()

        return self._client.call(take)


def _next_digits(tx: Tx, prefix: str) -> Iterator[str]:
    return references.next_digits(tx, "objects", b"", prefix)


def _of_row(path: str, row: ObjectStat) -> Entry:
    return Entry(path, "file", row.size, row.oid, row.created, row.created)


def _of_vector(path: str, found: VectorStat) -> Entry:
    return Entry(path, "file", found.npz_size, created=found.created, modified=found.created)


def _of_inode(path: str, inode: Inode) -> Entry:
    if inode.kind != "file":
        kind: Kind = "directory" if inode.kind == "directory" else "other"
        return Entry(path, kind, created=inode.ctime, modified=inode.mtime)
    return Entry(path, "file", inode.size, inode.oid, inode.ctime, inode.mtime)
