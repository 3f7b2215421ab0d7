"""LfsfsFileSystem: the store as an fsspec filesystem, `lfsfs://`, for pandas, xarray, pyarrow, zarr and the like.

The paths are those below a mountpoint, and no mount is needed:

    lfsfs://incoming/any/path           the names; to be read and written
    lfsfs://objects/<oid>               an object, by its oid; also objects/aa/bb/<oid>, as it is listed
    lfsfs://repos/NAME/objects/…        what a repository root refers to
    lfsfs://embeddings/COLLECTION/…     <content hash>.npz, to be read and written; _matrix.npy and _hashes.txt of all

    pandas.read_parquet("lfsfs://incoming/a.parquet", storage_options={"store": "/srv/store"})
"""

import errno
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from fsspec.spec import AbstractFileSystem

from lfsfs import mounts
from lfsfs.client.client import Client, connect
from lfsfs.client.tree import Entry, Tree
from lfsfs.client.writing import NpzSink, UploadSink, WrittenFile
from lfsfs.errors import Exists, InvalidConfig, LfsfsError
from lfsfs.store.names import NotDirectory
from lfsfs.store.store import Durability
from lfsfs.units import SECOND_NS

WRITABLE = "incoming"


class LfsfsFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec is not typed
    """`store`: the store, or where it is mounted; None: LFSFS_STORE, or the store of the only mount. The others as of
    `connect`.

    Errors are OSError's, as of files: FileNotFoundError, and what lfsfs raised as their __cause__.
    """

    protocol: ClassVar[str] = "lfsfs"
    root_marker: ClassVar[str] = ""
    cachable: ClassVar[bool] = True

    def __init__(
        self,
        store: str | Path | None = None,
        read_only: bool = False,
        durability: Durability = "sync",
        **options: Any,
    ) -> None:
        super().__init__(**{**options, "use_listings_cache": False})
        self._given = store
        self._read_only = read_only
        self._durability: Durability = durability
        self._opening = threading.Lock()
        self._opened: tuple[int, Client] | None = None

    @property
    def client(self) -> Client:
        """The open store: one of each process, from the first call on that needs it."""
        with self._opening:
            if self._opened is None or self._opened[0] != os.getpid():
                path = store_of(self._given)
                read_only = self._read_only or not os.access(path, os.W_OK)
                self._opened = os.getpid(), connect(path, durability=self._durability, read_only=read_only)
            return self._opened[1]

    def close(self) -> None:
        """Closes the store; the next call opens it again."""
        with self._opening:
            if self._opened is not None and self._opened[0] == os.getpid():
                self._opened[1].close()
            self._opened = None

    @property
    def _tree(self) -> Tree:
        return Tree(self.client)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = os.fspath(path)
        text = text.removeprefix("lfsfs://") if text.startswith("lfsfs://") else text.removeprefix("lfsfs::")
        return "/".join(part for part in text.split("/") if part and part != ".")

    # Looking.

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What lies in a directory; of a file, the file itself."""
        path = self._strip_protocol(path)
        with as_os_error(path):
            entry = self._tree.entry(path)
            found = [entry] if entry.kind != "directory" else self._tree.entries(path)
        described = [_described(one) for one in found]
        return described if detail else [one["name"] for one in described]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """name, size, type, and of an object or a name its `oid` and times (`created`, `mtime`: datetime, UTC)."""
        path = self._strip_protocol(path)
        with as_os_error(path):
            return _described(self._tree.entry(path))

    def created(self, path: str) -> datetime:
        return self._time(path, "created")

    def modified(self, path: str) -> datetime:
        return self._time(path, "mtime")

    def _time(self, path: str, which: str) -> datetime:
        found = self.info(path).get(which)
        if not isinstance(found, datetime):
            raise OSError(errno.ENOTSUP, "has no time", path)
        return found

    def checksum(self, path: str) -> int:
        """A number that is another one when the content is."""
        info = self.info(path)
        return int(info["oid"], 16) if "oid" in info else super().checksum(path)

    def ukey(self, path: str) -> str:
        """The oid, where there is one: what a cache may take for the content."""
        info = self.info(path)
        return str(info["oid"]) if "oid" in info else super().ukey(path)

    # Reading and writing.

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **_: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        with as_os_error(path):
            if mode == "rb":
                return self._tree.open(path)
            if mode not in ("wb", "xb", "ab"):
                raise ValueError(f"mode {mode!r}: lfsfs has rb, wb, xb and ab")
            return self._open_to_write(path, mode, autocommit)

    def _open_to_write(self, path: str, mode: str, autocommit: bool) -> Any:
        root, _, rest = path.partition("/")
        if root == "embeddings" and mode != "ab":
            collection, content_hash = self._tree.vector_place(rest)
            return WrittenFile(NpzSink(self.client, collection, content_hash), autocommit=autocommit)
        name = _writable(path)
        incoming = self.client._store.incoming
        self._make_parent(name)
        upload = incoming.create_upload(name, exclusive=mode == "xb")
        before = self.cat_file(path) if mode == "ab" and self.exists(path) else b""
        file = WrittenFile(UploadSink(self.client, upload), autocommit=autocommit)
        file.write(before)
        return file

    def _make_parent(self, name: str) -> None:
        parent = name.rpartition("/")[0]
        if parent and not self.isdir(f"{WRITABLE}/{parent}"):
            try:
                self.client.call(lambda store: store.incoming.make_directory(parent, parents=True))
            except Exists as error:
                raise NotDirectory(f"{parent!r} is not a directory") from error

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes from `start` to `end`, as a slice has them."""
        path = self._strip_protocol(path)
        with as_os_error(path):
            file: BinaryIO = self._tree.open(path)
            with file:
                size = file.seek(0, io.SEEK_END)
                first, last, _step = slice(start, end).indices(size)
                file.seek(first)
                return file.read(max(0, last - first))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        with self.open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")

    # The names of incoming/.

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        path = self._strip_protocol(path)
        with as_os_error(path):
            name = _writable(path)
            parent = name.rpartition("/")[0]
            if create_parents and parent:
                self.client.call(lambda store: store.incoming.make_directory(parent, parents=True))
            self.client.call(lambda store: store.incoming.make_directory(name))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        path = self._strip_protocol(path)
        if self.exists(path):
            if not exist_ok or not self.isdir(path):
                raise FileExistsError(errno.EEXIST, "is there already", path)
            return
        with as_os_error(path):
            name = _writable(path)
            self.client.call(lambda store: store.incoming.make_directory(name, parents=True))

    def rmdir(self, path: str) -> None:
        path = self._strip_protocol(path)
        with as_os_error(path):
            name = _writable(path)
            self.client.call(lambda store: store.incoming.remove_directory(name))

    def rm_file(self, path: str) -> None:
        """Takes the name away. The object stays until gc takes it, where nothing else refers to it."""
        path = self._strip_protocol(path)
        with as_os_error(path):
            root, _, rest = path.partition("/")
            if root == "embeddings":
                collection, content_hash = self._tree.vector_place(rest)
                if not self.client.embeddings.collection(collection).delete(content_hash):
                    raise FileNotFoundError(errno.ENOENT, "no such vector", path)
                return
            name = _writable(path)
            self.client.call(lambda store: store.incoming.remove(name))

    _rm = rm_file

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        for one in reversed(self.expand_path(path, recursive=recursive, maxdepth=maxdepth)):
            if self.isdir(one):
                if not recursive:
                    raise IsADirectoryError(errno.EISDIR, "is a directory", one)
                self.rmdir(one)
            else:
                self.rm_file(one)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copies no bytes where both are names: the copy names the same object."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        with as_os_error(path2):
            if path1.partition("/")[0] == WRITABLE == path2.partition("/")[0]:
                old, new = _writable(path1), _writable(path2)
                self._make_parent(new)
                self.client.call(lambda store: store.incoming.link(old, new))
                return
        with self.open(path1) as source, self.open(path2, "wb") as target:
            while piece := source.read(1 << 20):
                target.write(piece)

    def mv(
        self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **_: Any
    ) -> None:
        """Renames: no byte moves. A directory only with `recursive`; into `path2`, if that is a directory."""
        old, new = self._strip_protocol(path1), self._strip_protocol(path2)
        directory = self.isdir(old)
        if directory and not recursive:
            raise IsADirectoryError(errno.EISDIR, "is a directory: give recursive=True", old)
        if self.isdir(new):
            new = f"{new}/{old.rpartition('/')[2]}"
        with as_os_error(old):
            here, there = _writable(old), _writable(new)
            self._make_parent(there)
            self.client.call(lambda store: store.incoming.rename(here, there))


def store_of(given: str | Path | None) -> Path:
    """The store given, of LFSFS_STORE, or of the only mount. A mountpoint stands for its store. InvalidConfig."""
    named = given or os.environ.get("LFSFS_STORE")
    if named is not None:
        mounted = mounts.mount_of(Path(named))
        return mounted.store if mounted is not None else Path(named)
    stores = sorted({entry.store for entry in mounts.lfsfs_mounts()})
    if len(stores) != 1:
        raise InvalidConfig('which store? Give storage_options={"store": "/srv/store"}, or set LFSFS_STORE')
    return stores[0]


def _writable(path: str) -> str:
    """The path below incoming/. PermissionError elsewhere."""
    root, _, rest = path.partition("/")
    if root != WRITABLE or not rest:
        raise PermissionError(errno.EPERM, "only what is below incoming/ can be changed by name", path)
    return rest


def _described(entry: Entry) -> dict[str, Any]:
    described: dict[str, Any] = {"name": entry.path, "size": entry.size, "type": entry.kind}
    if entry.oid is not None:
        described["oid"] = str(entry.oid)
    if entry.created:
        described["created"] = _datetime(entry.created)
        described["mtime"] = _datetime(entry.modified or entry.created)
    return described


def _datetime(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / SECOND_NS, UTC)


@contextmanager
def as_os_error(path: str) -> Iterator[None]:
    """What lfsfs raises, as the OSError that Python's own files would raise."""
    try:
        yield
    except LfsfsError as error:
        raise OSError(error.errno, str(error), path) from error
