"""Pointers: embeddings whose files in a work tree are the pointers of git-lfs, read right through them.

The object that a pointer names is made of a vector, or is a file: in the store, or else in the clone's own storage,
where `git lfs fetch` brings it.
"""

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from lfsfs import mounts
from lfsfs.embeddings import codec, reading, rows
from lfsfs.embeddings.fetching import Clone, fetch, find_clone
from lfsfs.embeddings.forms import Array
from lfsfs.errors import Corrupt, InvalidEmbedding, InvalidPointer, LfsfsError, NotFound, Unavailable
from lfsfs.oid import Oid
from lfsfs.pointer import POINTER_LIMIT_BYTES, Pointer
from lfsfs.store import rendered
from lfsfs.store.index import Tx
from lfsfs.store.store import Store

ROOT = "embeddings"
SUFFIX = ".npz"
_BEGIN = b"version "


@dataclass(slots=True)
class Through:
    """What was read by way of pointers, and what was not, by the path."""

    vectors: dict[str, Array] = field(default_factory=dict)
    errors: dict[str, LfsfsError] = field(default_factory=dict)


def find(paths: Iterable[str]) -> dict[str, Pointer]:
    """Those of the paths at which a pointer lies. Nothing is asked of a directory that is not there, or is a view."""
    folders: dict[str, bool] = {}
    found: dict[str, Pointer] = {}
    for path in paths:
        pointer = _pointer_at(path) if _is_file_path(path, folders) else None
        if pointer is not None:
            found[path] = pointer
    return found


def read_files(paths: Iterable[str]) -> Through:
    """The vectors of those of the paths at which an npz file lies: what git-lfs has checked out."""
    folders: dict[str, bool] = {}
    through = Through()
    for path in paths:
        if not _is_file_path(path, folders):
            continue
        try:
            with open(path, "rb") as file:
                through.vectors[path] = codec.parse(file)
        except InvalidEmbedding as failed:
            _put(through, path, failed)
        except OSError:
            continue
    return through


def _is_file_path(path: str, folders: dict[str, bool]) -> bool:
    """Whether it may be a file's path; `folders`: what is known of its directory."""
    folder, slash, _ = path.rpartition("/")
    if not slash and not path.endswith(SUFFIX):
        return False  # a content hash
    there = folders.get(folder)
    if there is None:
        folder_path = Path(folder or (slash or "."))
        there = folders[folder] = not _is_view(folder_path) and folder_path.is_dir()
    return there


def _is_view(folder: Path) -> bool:
    """Whether it shows a collection: what lies there is in the store, and each look would be a request to a daemon."""
    place = mounts.located(folder)
    shown = [entry.mountpoint for entry in mounts.views()]
    shown += [entry.mountpoint / ROOT for entry in mounts.lfsfs_mounts()]
    return any(place == view or view in place.parents for view in shown)


def _pointer_at(path: str) -> Pointer | None:
    try:
        if os.stat(path).st_size > POINTER_LIMIT_BYTES:
            return None
        with open(path, "rb") as file:
            text = file.read(POINTER_LIMIT_BYTES + 1)
        return Pointer.parse(text) if text.startswith(_BEGIN) else None
    except (OSError, InvalidPointer):
        return None


async def read(store: Store, pointed: dict[str, Pointer]) -> Through:
    """The vectors that the pointers name: of the store, of the clone, or fetched, by one fetch for each clone."""
    through = Through()
    for path in [path for path, pointer in pointed.items() if pointer.size > codec.FILE_LIMIT_BYTES]:
        size = pointed.pop(path).size
        _put(through, path, InvalidEmbedding(f"a file of {size} bytes is no embedding"))
    known = await _from_store(store, {pointer.oid for pointer in pointed.values()})
    missing = {path: pointer for path, pointer in pointed.items() if pointer.oid not in known}
    for path, pointer in pointed.items():
        if path not in missing:
            _put(through, path, known[pointer.oid])
    await _from_clones(missing, through)
    return through


def _put(through: Through, path: str, found: Array | LfsfsError) -> None:
    if isinstance(found, LfsfsError):
        through.errors[path] = type(found)(f"embedding {path}: {found}")
    else:
        through.vectors[path] = found


async def _from_store(store: Store, oids: set[Oid]) -> dict[Oid, Array | LfsfsError]:
    """What the store has of them: those made of vectors all at once, the others one by one."""

    def look(tx: Tx) -> dict[int, list[tuple[Oid, bytes]]]:
        by_form: dict[int, list[tuple[Oid, bytes]]] = {}
        for oid in sorted(oids):
            value = tx.get("vectors", rendered.key(oid))
            if value is not None:
                by_form.setdefault(rows.decode(value).form, []).append((oid, value))
        return by_form

    found: dict[Oid, Array | LfsfsError] = {}
    for number, made in (await trio.to_thread.run_sync(store.index.view, look)).items():
        form = store.index.view(lambda tx, number=number: rows.find_form(tx, number))  # type: ignore[misc]
        table = rows.table(value for _, value in made)
        wanted = store.index.view(lambda tx, table=table, form=form: reading.look_up(tx, table, form))  # type: ignore[misc]
        out = await reading.gather(store, wanted)
        for at, (oid, _) in enumerate(made):
            found[oid] = wanted.errors.get(at) or form.array(out[at].tobytes())
    for oid in sorted(oids - found.keys()):
        await _from_object(store, oid, found)
    return found


async def _from_object(store: Store, oid: Oid, found: dict[Oid, Array | LfsfsError]) -> None:
    try:
        if not await store.exists(oid):
            return
        content = b"".join([piece async for piece in store.download(oid)])
        found[oid] = await trio.to_thread.run_sync(codec.parse, io.BytesIO(content))
    except (NotFound, Unavailable):
        return  # the clone may have it
    except LfsfsError as failed:
        found[oid] = failed


async def _from_clones(missing: dict[str, Pointer], through: Through) -> None:
    by_folder: dict[str, dict[str, Pointer]] = {}
    for path, pointer in missing.items():
        by_folder.setdefault(os.path.dirname(os.path.abspath(path)), {})[path] = pointer
    clones: dict[Clone, dict[str, Pointer]] = {}
    for folder, some in by_folder.items():
        try:
            clones.setdefault(await find_clone(Path(folder)), {}).update(some)
        except LfsfsError as failed:
            for path in some:
                _put(through, path, failed)
    for clone, some in clones.items():
        failure: LfsfsError | None = None
        try:
            await fetch(clone, {pointer.oid: pointer for pointer in some.values()}.values())
        except LfsfsError as failed:
            failure = failed
        for path, pointer in some.items():
            here = clone.has(pointer)
            _put(through, path, await trio.to_thread.run_sync(_load, clone, pointer) if here else failure or
                 NotFound(f"no object {pointer.oid}"))  # fmt: skip


def _load(clone: Clone, pointer: Pointer) -> Array | LfsfsError:
    """The vector of an object in the clone's storage."""
    try:
        content = clone.file(pointer.oid).read_bytes()
        if Oid.of(content) != pointer.oid:
            return Corrupt(f"{clone.file(pointer.oid)} is damaged: `git lfs fsck` there")
        return codec.parse(io.BytesIO(content))
    except InvalidEmbedding as failed:
        return failed
    except OSError as failed:
        return LfsfsError(f"{clone.file(pointer.oid)}: {failed.strerror}")
