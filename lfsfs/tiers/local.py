"""LocalTier: objects as files of a directory, laid out as git-lfs lays out its own store.

A name in objects/ appears by link(2) or rename(2) of a file that is complete and, in a durable tier, already
on disk. What lies at the name of an object but is no regular file is no object: it is not read, listed or
deleted.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import trio

from lfsfs import durable
from lfsfs.alone import make_held
from lfsfs.errors import LfsfsError, NoSpace, NotFound, ReadOnly, TooLarge
from lfsfs.oid import Oid
from lfsfs.tiers.listing import page_of
from lfsfs.tiers.local_file import LocalFile, LocalSource, Part
from lfsfs.tiers.tier import check_limit, check_range
from lfsfs.tiers.turns import Turns

PAGE = 1_000
BLOCK_BYTES = 1 << 20  # what is copied at once; a cancelled put stops after at most one of these
WRITERS = 16  # puts and deletes at once: concurrent fsyncs share the file system's journal commits
READERS = 16  # a limit of their own: no read waits behind fsyncs
ATTEMPTS = 32  # of a put whose directories are removed while it runs

_ERRORS: dict[int, type[LfsfsError]] = {
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EFBIG: TooLarge,
    errno.EROFS: ReadOnly,
}
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR))
# Another file system, one without links, a file of somebody else's, a file with too many of them.
_NO_LINK = frozenset((errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS))
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not hold us up
T = TypeVar("T")


class LocalTier:
    """The objects below `root`/objects. `root` must exist; the rest is made when it is needed.

    Several tiers, in several processes, may share one root. A put makes a hard link of its source where it
    can, and otherwise a copy in `temp` (default `root`/staging, also where `temp` is on another file system
    than the objects: a rename cannot cross). `durable=False` leaves out every fsync and nothing else.

    A put that fails after its object got its name, in the fsync of the directory, leaves the object there:
    whole, but perhaps not durable. To remove it could take it from another put of the same oid that has
    succeeded.
    """

    plain = True
    """Whether every file is the object's own bytes: they may be shared, and handed to the kernel."""

    def __init__(self, root: Path, *, temp: Path | None = None, durable: bool = True) -> None:
        self.root = root
        self._objects = os.path.join(root, "objects")
        self._temp = temp
        self._durable = durable
        self._known: set[str] = set()  # directories that are there and that a power loss does not take
        self._turns = Turns()
        self._writers = trio.CapacityLimiter(WRITERS)
        self._readers = trio.CapacityLimiter(READERS)

    def quick(self, temp: Path) -> "LocalTier":
        """The same objects, put without waiting for the disk."""
        return LocalTier(self.root, temp=temp, durable=False)

    def path(self, oid: Oid) -> Path:
        """Where the object's file is if it is there. What is in it is the object's bytes only where `plain`."""
        return Path(self._file(oid))

    def open(self, oid: Oid) -> LocalFile:
        """The object's file, for reading. Blocks. NotFound; OSError where it cannot be opened; Corrupt."""
        try:
            descriptor = os.open(self._file(oid), _OPEN_FLAGS)
        except OSError as error:
            if error.errno in _ABSENT or error.errno in (errno.ELOOP, errno.ENXIO):  # a symlink, a socket
                raise NotFound(f"no object {oid}") from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotFound(f"no object {oid}: not a regular file")
            return self._opened(descriptor, oid)
        except BaseException:
            os.close(descriptor)
            raise

    def length(self, oid: Oid) -> int | None:
        """The object's bytes, as its file says; None where there is none. Of one that is damaged, some other number.

        Blocks. OSError.
        """
        try:
            return self._length(oid)
        except NotFound:
            return None

    @contextmanager
    def source(self, oid: Oid, *, over: bool = False) -> Iterator[LocalSource]:
        """The object's bytes for another tier, as long as the block lasts; `over` as Source has it. LfsfsError."""
        with translated(f"cannot store {oid}"):
            file = self.open(oid)
        with file:
            yield LocalSource(file, oid, over=over)

    def stored_size(self, size: int) -> int:
        """The bytes of the file of an object of so many bytes: at most, where there are two forms."""
        return size

    def new_part(self, path: Path, oid: Oid, size: int) -> Part:
        """A new file at `path`, on the objects' file system or not, for an object that comes piece by piece. OSError."""
        return Part(path, size)

    async def keep_part(self, oid: Oid, part: Part) -> None:
        """Puts the object all of whose bytes are in the part; that may be read from on, and still has to be closed."""
        async with self._turns.of(oid):
            await self._blocking(
                self._writers, f"cannot store {oid}", self._place_file, oid, os.fspath(part.path)
            )

    def bring_out(self, file: Path, oid: Oid, target: Path) -> None:
        """Gives a file that was moved out another name as well, or copies it; `target` is the object's bytes. Blocks."""
        with translated(f"cannot copy {file}"):
            try:
                os.link(file, target, follow_symlinks=False)
            except OSError:
                shutil.copy2(file, target)

    def encoded(self, oid: Oid, content: bytes) -> bytes:
        """What is to lie elsewhere in the store in the place of these bytes of an object."""
        return content

    def decoded(self, oid: Oid, content: bytes) -> bytes:
        """The bytes of which `encoded` made this. Corrupt."""
        return content

    async def put(self, oid: Oid, source: Path) -> None:
        async with self._turns.of(oid):  # or each of them would fill the disk with a copy of its own
            await self._blocking(self._writers, f"cannot store {oid}", self._put, oid, os.fspath(source))

    async def read(self, oid: Oid, offset: int, size: int) -> bytes:
        check_range(offset, size)
        return await self._blocking(self._readers, f"cannot read {oid}", self._read, oid, offset, size)

    async def size(self, oid: Oid) -> int:
        return await self._blocking(self._readers, f"cannot read {oid}", self._size, oid)

    async def delete(self, oid: Oid) -> None:
        await self._blocking(self._writers, f"cannot delete {oid}", self._delete, oid)

    async def move_out(self, oid: Oid, target: Path) -> bool:
        """Moves the object's file to `target`, on the same file system, durably; whether it is there now.

        A file there is replaced. Repeating is harmless: what was moved before is there.
        """
        return await self._blocking(
            self._writers, f"cannot move {oid}", self._move_out, oid, os.fspath(target)
        )

    async def scan(self, after: Oid | None, limit: int) -> list[Oid]:
        """As every tier; a page reads the directories that it lists, and at most 512 others' names."""
        check_limit(limit)
        return await self._blocking(
            self._readers, "cannot list objects", page_of, self._objects, after or "", limit
        )

    async def total(self) -> int:
        """Bytes of all objects: what going through them will read."""
        found, after = 0, None
        while page := await self.scan(after, PAGE):
            after = page[-1]
            found += await self._blocking(self._readers, "cannot look at objects", self._total, page)
        return found

    def _total(self, oids: list[Oid]) -> int:
        return sum(self.length(oid) or 0 for oid in oids)

    async def _blocking(
        self, limiter: trio.CapacityLimiter, what: str, work: Callable[..., T], *arguments: object
    ) -> T:
        def run() -> T:
            with translated(what):
                return work(*arguments)

        return await trio.to_thread.run_sync(run, limiter=limiter)

    def _file(self, oid: Oid) -> str:
        return f"{self._objects}/{oid.path()}"

    # Everything below runs in a thread.

    def place_bytes(self, oid: Oid, content: bytes, mode: int, temporary: Path) -> None:
        """As `put`, of bytes in memory, which get these permission bits. Blocks.

        `temporary` is a path where nothing is yet, and nobody else's; nothing is there afterwards.
        """
        with translated(f"cannot store {oid}"):
            write_new(temporary, content, mode)
            if not self._durable and _place_quickly(os.fspath(temporary), self._file(oid)):
                return
            try:
                self._place_by_rename(oid, os.fspath(temporary))
            finally:
                temporary.unlink(missing_ok=True)

    def _place_by_rename(self, oid: Oid, source: str) -> None:
        try:
            self._place(source, self._file(oid), _rename)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._place_file(oid, source)

    def sync(self) -> None:
        """Whatever any tier has placed below this root is durable on return. Blocks."""
        with translated("cannot bring objects to disk"):
            self._ensure(self._objects)
            durable.sync_file_system(self._objects, "sync-objects")

    def _put(self, oid: Oid, source: str) -> None:
        self._place_file(oid, source)

    def _place_file(self, oid: Oid, source: str) -> None:
        """Places a file as it is."""
        target = self._file(oid)
        if stat.S_ISREG(os.lstat(source).st_mode) and self._place_by_link(source, target):
            return
        with self._temporary() as temporary:
            self._copy(source, temporary)
            if not self._place_by_link(temporary, target):
                self._place(temporary, target, _rename)

    def _place_by_link(self, source: str, target: str) -> bool:
        """Whether the object is there now. False: no links from the source to the target."""
        try:
            self._place(source, target, self._link)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            return False
        return True

    def _place(
        self, source: str, target: str, give_name: Callable[[str, str], None], *, over: bool = False
    ) -> None:
        """Gives the source's bytes the target's name, durably; an object that is there and whole stays, unless `over`.

        Goes round again when the directory vanishes, or the target appears, while we are at it.
        """
        directory = os.path.dirname(target)
        size = os.stat(source).st_size
        for attempt in range(1, ATTEMPTS + 1):
            try:
                present = not over and _is_whole(target, size)
                # Whoever put the present one there may not have been durable.
                self._sync(target if present else source, "fsync-object")
                self._ensure(directory)
                if not present:
                    give_name(source, target)
                self._sync(directory, "fsync-directory")
                return
            except FileExistsError:
                if attempt == ATTEMPTS:
                    raise
            except FileNotFoundError:
                if attempt == ATTEMPTS or not (os.path.exists(source) and os.path.isdir(self.root)):
                    raise
                self._known.difference_update((self._objects, os.path.dirname(directory), directory))

    def _ensure(self, directory: str) -> None:
        """Makes the directory, and makes sure of its name.

        One that is there already may have been made a moment ago by somebody who has not come to the fsync:
        so its parent is synced too, the first time this tier meets it.
        """
        if directory in self._known:
            return
        parent = os.path.dirname(directory)
        if directory != self._objects:
            self._ensure(parent)
        if not os.path.isdir(directory):
            with durable.step("make-directory"):
                try:
                    os.mkdir(directory)
                except FileExistsError:
                    pass  # somebody else was quicker
        self._sync(parent, "fsync-parent")
        self._known.add(directory)

    def _link(self, source: str, target: str) -> None:
        """Links; in the place of a damaged object, through a temporary name, so that there is always one."""
        if not os.path.lexists(target):
            durable.link(source, target, "link-object")
            return
        with self._temporary() as temporary:
            os.link(source, temporary, follow_symlinks=False)
            durable.rename(temporary, target, "rename-object")

    @staticmethod
    def _copy(source: str, target: str) -> None:
        """Copies and compares the length. Stops where the put is cancelled."""
        with open(source, "rb", buffering=0) as reader, open(target, "xb", buffering=0) as writer:
            expected = os.fstat(reader.fileno())
            copied = 0
            while piece := reader.read(BLOCK_BYTES):
                if (
                    expected.st_size > BLOCK_BYTES
                ):  # little is copied by the thread that commits, not one of trio's
                    trio.from_thread.check_cancelled()
                rest = memoryview(piece)
                while rest:
                    rest = rest[writer.write(rest) :]
                copied += len(piece)
            if copied != expected.st_size:
                raise LfsfsError(f"{source} changed while it was stored: it had {expected.st_size} bytes")
            os.fchmod(writer.fileno(), stat.S_IMODE(expected.st_mode) & 0o777)

    @contextmanager
    def _temporary(self) -> Iterator[str]:
        """A name for a temporary file on the objects' file system; whatever it names is gone in the end.

        It lies in a directory of its own with a lock that is held, so that nobody sweeps it away.
        """
        place = self._temporary_place()
        os.makedirs(place, exist_ok=True)
        directory, lock = make_held(Path(place), f"{os.getpid()}-put-")
        try:
            yield os.path.join(directory, "object")
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)

    def _temporary_place(self) -> str:
        self._ensure(self._objects)
        if self._temp is not None:
            os.makedirs(self._temp, exist_ok=True)
            if os.stat(self._temp).st_dev == os.stat(self._objects).st_dev:
                return os.fspath(self._temp)
        return os.path.join(self.root, "staging")

    def _sync(self, path: str, name: str) -> None:
        if self._durable:
            durable.fsync_path(path, name)

    def _opened(self, descriptor: int, oid: Oid) -> LocalFile:
        """What reads the object from its file."""
        return LocalFile(descriptor)

    def _read(self, oid: Oid, offset: int, size: int) -> bytes:
        with self.open(oid) as file:
            wanted = min(size, file.size - offset)
            return file.read_at(offset, wanted) if wanted > 0 else b""

    def _size(self, oid: Oid) -> int:
        return self._length(oid)

    def _length(self, oid: Oid) -> int:
        try:
            found = os.lstat(self._file(oid))
        except OSError as error:
            if error.errno in _ABSENT:
                raise NotFound(f"no object {oid}") from error
            raise
        if not stat.S_ISREG(found.st_mode):
            raise NotFound(f"no object {oid}: not a regular file")
        return found.st_size

    def _delete(self, oid: Oid) -> None:
        path = self._file(oid)
        try:
            if stat.S_ISREG(os.lstat(path).st_mode):
                durable.unlink(path, "unlink-object")
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
        try:
            self._sync(os.path.dirname(path), "fsync-directory")
        except OSError as error:
            if error.errno not in _ABSENT:
                raise

    def _move_out(self, oid: Oid, target: str) -> bool:
        path, folder = self._file(oid), os.path.dirname(target)
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                return False
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return os.path.isfile(target)
        if not os.path.isdir(folder):
            os.makedirs(folder, exist_ok=True)
            self._sync(os.path.dirname(folder), "fsync-trash")
            self._sync(os.fspath(self.root), "fsync-trash")
        self._sync(path, "fsync-object")  # a small one may not have reached the disk yet
        try:
            durable.rename(path, target, "rename-to-trash")
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy_out(path, target)
        self._sync(folder, "fsync-trash")
        self._sync(os.path.dirname(path), "fsync-directory")
        return True

    def _copy_out(self, path: str, target: str) -> None:
        """objects/ is on a disk of its own."""
        shutil.copy2(path, f"{target}.new")
        self._sync(f"{target}.new", "fsync-object")
        durable.rename(f"{target}.new", target, "rename-to-trash")
        durable.unlink(path, "unlink-object")


def _is_whole(path: str, size: int) -> bool:
    """Whether there is an object of this size."""
    try:
        found = os.lstat(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def write_new(path: Path, content: bytes, mode: int, *, keep: bool = False) -> int:
    """Makes a file of these bytes and permission bits; FileExistsError. Its descriptor if it is to stay open, or -1."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, mode)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
    except BaseException:
        os.close(fd)
        path.unlink()
        raise
    if keep:
        return fd
    os.close(fd)
    return -1


def _place_quickly(source: str, target: str) -> bool:
    """Moves a file to its place with as few calls as can be. False: it is where it was, and that takes more.

    What is at its place already has the same bytes, or damaged ones: either way this takes its place.
    """
    for _ in range(2):
        try:
            _rename(source, target)
            return True
        except FileNotFoundError:
            if not _make_place(os.path.dirname(target)):
                return False
        except OSError:
            return False
    return False


def _make_place(directory: str) -> bool:
    """Makes one of the directories of objects/aa/bb, or two; whether it is there now."""
    try:
        with durable.step("make-directory"):
            os.mkdir(directory)
    except FileExistsError:
        pass
    except FileNotFoundError:
        parent = os.path.dirname(directory)
        return os.path.basename(parent) != "objects" and _make_place(parent) and _make_place(directory)
    except OSError:
        return False
    return True


def _rename(source: str, target: str) -> None:
    durable.rename(source, target, "rename-object")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns the operating system's errors into ours: NoSpace, TooLarge, ReadOnly, LfsfsError."""
    try:
        yield
    except OSError as error:
        kind = _ERRORS.get(error.errno or 0, LfsfsError)
        raise kind(f"{what}: {error.strerror or error}") from error
