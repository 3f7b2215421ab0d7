"""Objects of a clone on their way between its own storage and its repository root in a mount."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lfsfs import durable
from lfsfs.errors import LfsfsError, NoSpace, ReadOnly, Refused
from lfsfs.oid import Oid

COPY_BYTES = 1 << 20

Progress = Callable[[int, int], None]
"""Called with the objects so far and in all."""


def objects_in(folder: Path) -> Iterator[tuple[Oid, Path]]:
    """The objects of a git-lfs storage directory: what lies where git-lfs looks for it, and nothing else."""
    for directory in sorted(folder.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]")):
        for entry in sorted(os.listdir(directory)):
            file = directory / entry
            if (
                len(entry) == 64
                and not entry.strip("0123456789abcdef")
                and file == folder / Oid(entry).path()
            ):
                yield Oid(entry), file


def bring_along(objects: list[tuple[Oid, Path]], root: Path, progress: Progress | None) -> list[Path]:
    """Makes the root refer to each; the files that are not what their names say."""
    corrupt = []
    for number, (oid, file) in enumerate(objects, start=1):
        if not _import_one(oid, file, root):
            corrupt.append(file)
        if progress is not None:
            progress(number, len(objects))
    return corrupt


def _import_one(oid: Oid, file: Path, root: Path) -> bool:
    target = root / "objects" / oid.path()
    if _has(target, file.stat().st_size):  # looking it up is what makes the root refer to it
        return True
    fresh = root / "tmp" / f"{oid}{os.getpid()}"
    try:
        fresh.parent.mkdir(exist_ok=True)
        _copy(file, fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.rename(target)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        if error.errno == errno.EBADMSG:
            return False
        raise as_lfsfs_error(error, f"cannot bring {oid} along") from error
    return True


def bring_back(root: Path, storage: Path, progress: Progress | None) -> tuple[int, int]:
    """Copies what the root refers to, durably; how many were missing, and their bytes.

    Through the mount, so that every byte is verified. A link would share its bytes with the store.
    """
    wanted = [
        (oid, file, file.stat().st_size)
        for oid, file in objects_in(root / "objects")
        if not _has(storage / "objects" / oid.path(), file.stat().st_size)
    ]
    total = sum(size for _, _, size in wanted)
    if wanted:
        (storage / "tmp").mkdir(parents=True, exist_ok=True)
        if total > (free := shutil.disk_usage(storage).free):
            raise NoSpace(f"{storage} has room for {free} bytes, and the objects are {total}")
    for number, (oid, file, _) in enumerate(wanted, start=1):
        _bring_back_one(oid, file, storage)
        if progress is not None:
            progress(number, len(wanted))
    return len(wanted), total


def _bring_back_one(oid: Oid, file: Path, storage: Path) -> None:
    fresh, target = storage / "tmp" / f"{oid}{os.getpid()}", storage / "objects" / oid.path()
    try:
        _copy(file, fresh)
        fresh.chmod(file.stat().st_mode & 0o777)
        durable.fsync_path(fresh, "fsync-brought-back")
        target.parent.mkdir(parents=True, exist_ok=True)
        durable.rename(fresh, target, "rename-brought-back")
        durable.fsync_path(target.parent, "fsync-brought-back-directory")
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise as_lfsfs_error(error, f"cannot bring {oid} back") from error


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing, COPY_BYTES)


def _has(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size
    except OSError:
        return False


def as_lfsfs_error(error: OSError, what: str) -> LfsfsError:
    """The error of a system call as one of ours: what could not be done, and why."""
    kind = {errno.ENOSPC: NoSpace, errno.EROFS: ReadOnly, errno.EACCES: Refused, errno.EPERM: Refused}
    return kind.get(error.errno or 0, LfsfsError)(f"{what}: {error.strerror}")
