"""Files: vectors out of the store and into it: directories of npz files, one big npz, safetensors, npy with its hashes.

An import goes in batches, each of which is stored whole: one that fails in the middle has stored the batches before, and
may be repeated. An export writes a file under a name beside its own, and renames it when it is complete.
"""

import itertools
import os
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import trio
from safetensors import SafetensorError, safe_open

from lfsfs.embeddings import codec, tensors
from lfsfs.embeddings.archive import Archive
from lfsfs.embeddings.collection import Collection
from lfsfs.embeddings.contents import SUFFIX
from lfsfs.embeddings.forms import VECTOR_LIMIT_BYTES, Array, checked
from lfsfs.errors import InvalidEmbedding, LfsfsError, NotFound

Kind = Literal["dir", "npz", "safetensors"]
BATCH_BYTES = 64 << 20
BATCH_COUNT = 20_000
BLOCK_BYTES = 16 << 20
Told = Callable[[int, int | None], None]
"""Called with how many are done, and of how many where that is known."""


def kind_of(path: Path) -> Kind:
    """What a file or directory of this name is."""
    if path.suffix == SUFFIX:
        return "npz"
    return "safetensors" if path.suffix == ".safetensors" else "dir"


# Into the store.


async def import_all(
    collection: Collection, source: Path, *, replace: bool = False, told: Told | None = None
) -> tuple[int, list[str]]:
    """Stores the vectors of a file or of all npz files of a directory; how many, and what was wrong with the others.

    InvalidEmbedding where nothing in it is one; Exists where another vector is there, unless `replace`.
    """
    errors: list[str] = []
    batch: dict[str, Array] = {}
    done = size = 0
    vectors = _vectors(source, errors)
    while (found := await trio.to_thread.run_sync(next, vectors, None)) is not None:
        batch[found[0]] = found[1]
        size += found[1].nbytes
        if size >= BATCH_BYTES or len(batch) >= BATCH_COUNT:
            await collection.write_embeddings_batch(batch, replace=replace)
            done += len(batch)
            batch, size = {}, 0
            if told is not None:
                told(done, None)
    if batch:
        await collection.write_embeddings_batch(batch, replace=replace)
    return done + len(batch), errors


def _vectors(source: Path, errors: list[str]) -> Iterator[tuple[str, Array]]:
    """Content hashes and vectors; what is wrong with one goes to `errors`."""
    if source.is_dir():
        yield from _from_directory(source, errors)
    elif not source.exists():
        raise NotFound(f"{source}: no such file or directory")
    elif kind_of(source) == "safetensors":
        yield from _from_safetensors(source, errors)
    elif source.suffix == ".npy":
        yield from _from_npy(source)
    else:
        yield from _from_npz(source, errors)


def _from_directory(source: Path, errors: list[str]) -> Iterator[tuple[str, Array]]:
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(name for name in names if name.endswith(SUFFIX)):
            path = os.path.join(folder, name)
            try:
                with open(path, "rb") as file:
                    yield name.removesuffix(SUFFIX), codec.parse(file)
            except (LfsfsError, OSError) as error:
                errors.append(f"{path}: {error}")


def _from_npz(source: Path, errors: list[str]) -> Iterator[tuple[str, Array]]:
    """The npz of one vector, named by its content hash; or one big npz, a member for each."""
    try:
        with zipfile.ZipFile(source) as archive:
            if codec.VECTOR not in archive.namelist():
                yield from _members(archive, source, errors)
                return
    except zipfile.BadZipFile as error:
        raise InvalidEmbedding(f"{source}: not an npz file: {error}") from error
    with source.open("rb") as file:
        yield source.name.removesuffix(SUFFIX), codec.parse(file)


def _members(archive: zipfile.ZipFile, source: Path, errors: list[str]) -> Iterator[tuple[str, Array]]:
    for member in archive.infolist():
        try:
            codec.check_member(member)
            vector = codec.read_member(archive, member, VECTOR_LIMIT_BYTES)
        except (LfsfsError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            errors.append(f"{source}: {member.filename}: {error}")
            continue
        yield member.filename.removesuffix(".npy"), vector


def _from_safetensors(source: Path, errors: list[str]) -> Iterator[tuple[str, Array]]:
    try:
        with safe_open(source, "numpy") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                try:
                    yield name, file.get_tensor(name)
                except (SafetensorError, TypeError, ValueError) as error:  # bfloat16, which numpy has not
                    errors.append(f"{source}: {name}: {error}")
    except SafetensorError as error:
        raise InvalidEmbedding(f"{source}: not a safetensors file: {error}") from error


def _from_npy(source: Path) -> Iterator[tuple[str, Array]]:
    """A matrix, and beside it FILE.txt (or _hashes.txt for _matrix.npy) with a content hash a line for its rows."""
    beside = source.with_suffix(".txt")
    if source.name == "_matrix.npy":
        beside = source.with_name("_hashes.txt")
    try:
        matrix = np.load(source, mmap_mode="r", allow_pickle=False)
        hashes = beside.read_text().split()
    except FileNotFoundError as error:
        raise NotFound(
            f"{beside}: a line with the content hash of each row of {source.name} is needed"
        ) from error
    except (ValueError, EOFError) as error:
        raise InvalidEmbedding(f"{source}: not a .npy file: {error}") from error
    if matrix.ndim == 0 or len(matrix) != len(hashes):
        raise InvalidEmbedding(f"{source} has shape {matrix.shape}, {beside.name} has {len(hashes)} lines")
    for text, row in zip(hashes, matrix, strict=True):
        yield text, np.array(row)


# Out of the store.


async def export_all(collection: Collection, target: Path, kind: Kind, *, told: Told | None = None) -> int:
    """Writes all vectors of the collection; how many. Corrupt where one cannot be read: then no file appears."""
    if not collection.exists():
        raise NotFound(f"no collection {collection.name!r} of embeddings")
    total = collection.count()

    def tell(done: int) -> None:
        if told is not None:
            told(done, total)

    if kind == "dir":
        return await _to_directory(collection, target, tell)
    with _complete_or_not(target) as fresh:
        write = _to_npz if kind == "npz" else _to_safetensors
        return await write(collection, fresh, tell)


async def _blocks(collection: Collection) -> AsyncIterator[dict[str, Array]]:
    """All vectors, ascending by their content hashes, some MiB at once."""
    after: str | None = None
    while page := collection.page(after, 2_000):
        sizes = itertools.accumulate(stat.form.nbytes for stat in page)
        count = max(1, sum(size <= BLOCK_BYTES for size in sizes))
        after = page[count - 1].content_hash
        hashes = [stat.content_hash for stat in page[:count]]
        found = await collection.read_embeddings_batch(hashes)
        for error in found.corrupt.values():
            raise error
        yield {text: found[text] for text in hashes if text in found}


async def _to_directory(collection: Collection, target: Path, tell: Callable[[int], None]) -> int:
    """A file each, byte for byte as in the mount. Files that are there are replaced."""
    await trio.to_thread.run_sync(lambda: target.mkdir(parents=True, exist_ok=True))
    done = 0
    async for block in _blocks(collection):
        await trio.to_thread.run_sync(_write_files, target, block)
        done += len(block)
        tell(done)
    return done


def _write_files(target: Path, block: dict[str, Array]) -> None:
    for text, vector in block.items():
        with _complete_or_not(target / f"{text}{SUFFIX}") as fresh:
            fresh.write_bytes(codec.render(vector))


async def _to_npz(collection: Collection, target: Path, tell: Callable[[int], None]) -> int:
    """One npz, a member for each vector, named by its content hash."""
    done = 0
    with target.open("wb") as file, Archive(file) as archive:
        async for block in _blocks(collection):
            await trio.to_thread.run_sync(_add_members, archive, block)
            done += len(block)
            tell(done)
    return done


def _add_members(archive: Archive, block: dict[str, Array]) -> None:
    for text, vector in block.items():
        form, array = checked(vector)
        archive.add(f"{text}.npy", codec.npy_header(form), array.tobytes())


async def _to_safetensors(collection: Collection, target: Path, tell: Callable[[int], None]) -> int:
    """One safetensors file. InvalidEmbedding for dtypes that it has not."""
    done = 0
    with target.open("wb") as file:
        writer = tensors.Writer(collection, file)
        await trio.to_thread.run_sync(writer.head)
        async for block in _blocks(collection):
            await trio.to_thread.run_sync(_add_tensors, writer, block)
            done += len(block)
            tell(done)
        writer.end()
    return done


def _add_tensors(writer: tensors.Writer, block: dict[str, Array]) -> None:
    for text, vector in block.items():
        writer.add(text, *checked(vector))


@contextmanager
def _complete_or_not(target: Path) -> Iterator[Path]:
    fresh = target.with_name(f".{target.name[:200]}.{os.getpid()}.lfsfs")
    try:
        yield fresh
        os.replace(fresh, target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


# Single vectors.


def read_vector(source: Path) -> Array:
    """The vector of an npz or a .npy file. InvalidEmbedding, NotFound."""
    try:
        if source.suffix == ".npy":
            return checked(np.load(source, allow_pickle=False))[1]
        with source.open("rb") as file:
            return codec.parse(file)
    except FileNotFoundError as error:
        raise NotFound(f"{source}: no such file") from error
    except (ValueError, EOFError) as error:
        raise InvalidEmbedding(f"{source}: {error}") from error


def write_vector(target: Path, vector: Array) -> None:
    """An npz file, byte for byte as in the mount, or (by its name) a .npy."""
    with _complete_or_not(target) as fresh:
        if target.suffix == ".npy":
            form, array = checked(vector)
            fresh.write_bytes(codec.npy_header(form) + array.tobytes())
        else:
            fresh.write_bytes(codec.render(vector))
