"""Incoming: the names below incoming/ for who has the store open and no mount of it, also beside one.

A name that is written gets an inode of its own, in the transaction that commits its object: whoever has the former file
open keeps it, as after a rename. The mount's kernel learns of every change (lfsfs.store.events).
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from lfsfs.errors import Exists, NotFound
from lfsfs.store import catalog, events, names
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.names import Inode, IsDirectory, NotDirectory
from lfsfs.store.staged_file import Sealed
from lfsfs.store.transfers import Upload

if TYPE_CHECKING:
    from lfsfs.store.store import Store

FILE_MODE, DIRECTORY_MODE = 0o644, 0o755


class Incoming:
    """Paths are relative to incoming/, with slashes; "" is incoming/ itself. Bytes that are no UTF-8 as surrogates."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    def stat(self, path: str) -> Inode:
        """The inode of a path; of a symbolic link, that itself. NotFound, NotDirectory."""
        return self._store.index.view(lambda tx: _resolve(tx, _parts(path)))

    def list(self, path: str = "") -> list[tuple[str, Inode]]:
        """The names in a directory with their inodes, in the order of the names' bytes. NotFound, NotDirectory."""

        def look(tx: Tx) -> list[tuple[str, Inode]]:
            directory = _resolve(tx, _parts(path))
            if directory.kind != "directory":
                raise NotDirectory(f"{path!r} is not a directory")
            found = ((name, names.get(tx, number)) for name, number in names.children(tx, directory.number))
            return [(os.fsdecode(name), inode) for name, inode in found if inode is not None]

        return self._store.index.view(look)

    def create_upload(self, path: str, *, exclusive: bool = False) -> Upload:
        """A stream that becomes an object, and gets the name, at its `finalize`; a file that has the name loses it then.

        NotFound, NotDirectory, IsDirectory; Exists where there is one already and it is to be `exclusive`.
        """
        self._store.index.view(lambda tx: self._check(tx, path, exclusive))

        async def commit(sealed: Sealed) -> ObjectStat:
            def enter(tx: Tx) -> None:
                _make_root(tx)
                parent, name = self._check(tx, path, exclusive)
                self._check_room(tx, parent, name)
                inode = _new(tx, "file", FILE_MODE)
                names.enter(tx, parent, name, inode._replace(oid=sealed.oid, size=sealed.size))
                _record(tx, parent, name)

            return await self._store.commit(sealed, enter)

        return Upload(self._store.staging, commit, oid=None, size=None, progress=None)

    async def make_directory(self, path: str, *, parents: bool = False) -> None:
        """Makes a directory. Exists where the name is taken; with `parents`, one that is there is success."""

        def make(tx: Tx) -> None:
            _make_root(tx)
            parts = _parts(path)
            for depth in range(1 if parents else len(parts), len(parts) + 1):
                parent = _resolve(tx, parts[: depth - 1])
                present = names.find(tx, parent.number, parts[depth - 1])
                if present is not None:
                    if depth < len(parts) and present.kind != "directory":
                        raise NotDirectory(f"{path!r}: a part of the path is not a directory")
                    if not parents or present.kind != "directory":
                        raise Exists(f"{path!r} is there already")
                    continue
                self._check_room(tx, parent.number, parts[depth - 1])
                names.enter(tx, parent.number, parts[depth - 1], _new(tx, "directory", DIRECTORY_MODE))
                _record(tx, parent.number, parts[depth - 1])

        await self._store.index.update(make)

    async def link(self, old: str, new: str) -> None:
        """Makes `new` a file of its own with what `old` holds: no byte is copied. Errors of `create_upload`."""

        def enter(tx: Tx) -> None:
            source = _resolve(tx, _parts(old))
            if source.kind == "directory":
                raise IsDirectory(f"{old!r} is a directory")
            parent, name = self._check(tx, new, False)
            present = names.find(tx, parent, name)
            if present is not None and present.number == source.number:
                return
            self._check_room(tx, parent, name)
            inode = _new(tx, "file", source.mode)
            copied = inode._replace(kind=source.kind, oid=source.oid, size=source.size, target=source.target)
            names.enter(tx, parent, name, copied)
            _record(tx, parent, name)

        await self._store.index.update(enter)

    async def rename(self, old: str, new: str) -> None:
        """As rename(2)."""

        def move(tx: Tx) -> None:
            here = self._place(tx, old)
            there = self._place(tx, new)
            names.rename(tx, here, there)
            _record(tx, *here)
            _record(tx, *there)

        await self._store.index.update(move)

    async def remove(self, path: str) -> None:
        """Takes a file's name away. Its object stays, as everything that nothing refers to. NotFound, IsDirectory."""
        await self._drop(path, names.unlink)

    async def remove_directory(self, path: str) -> None:
        """Removes an empty directory. NotFound, NotDirectory, NotEmpty."""
        await self._drop(path, names.rmdir)

    async def _drop(self, path: str, drop: Callable[[Tx, int, bytes], Inode]) -> None:
        def write(tx: Tx) -> None:
            parent, name = self._place(tx, path)
            drop(tx, parent, name)
            _record(tx, parent, name)

        await self._store.index.update(write)

    @staticmethod
    def _place(tx: Tx, path: str) -> tuple[int, bytes]:
        """The directory's number, and the name in it."""
        *above, name = _parts(path) or [b""]
        parent = _resolve(tx, above)
        if parent.kind != "directory":
            raise NotDirectory(f"{path!r}: a part of the path is not a directory")
        return parent.number, names.check_name(name)

    def _check(self, tx: Tx, path: str, exclusive: bool) -> tuple[int, bytes]:
        if not _parts(path):
            raise IsDirectory("incoming/ is a directory")
        parent, name = self._place(tx, path)
        present = names.find(tx, parent, name)
        if present is not None and present.kind == "directory":
            raise IsDirectory(f"{path!r} is a directory")
        if present is not None and exclusive:
            raise Exists(f"{path!r} is there already")
        return parent, name

    def _check_room(self, tx: Tx, parent: int, name: bytes) -> None:
        limits = self._store.limits
        if limits is not None:
            limits.check_names(tx)
            limits.check_path(tx, parent, name)


def _parts(path: str) -> list[bytes]:
    return [part for part in os.fsencode(path).split(b"/") if part]


def _resolve(tx: Tx, parts: list[bytes]) -> Inode:
    """NotFound, NotDirectory. incoming/ itself is there before anybody has made it."""
    inode = names.get(tx, names.ROOT) or Inode(
        names.ROOT, "directory", 0o777, os.getuid(), os.getgid(), 1, 0, 0, 0, 0
    )
    for part in parts:
        if inode.kind != "directory":
            raise NotDirectory(f"{part!r}: what it is to be in is not a directory")
        found = names.find(tx, inode.number, part)
        if found is None:
            raise NotFound(f"no {os.fsdecode(b'/'.join(parts))!r} in incoming/")
        inode = found
    return inode


def _make_root(tx: Tx) -> None:
    names.make_root(tx, os.getuid(), os.getgid())


def _new(tx: Tx, kind: names.Kind, mode: int) -> Inode:
    return names.new_inode(names.reserve(tx, 1), kind, mode, os.getuid(), os.getgid())


def _record(tx: Tx, parent: int, name: bytes) -> None:
    events.record(tx, events.Event("name-changed", catalog.u64(parent) + name))
