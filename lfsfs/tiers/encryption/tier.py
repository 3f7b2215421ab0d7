"""EncryptedTier: a LocalTier whose files are sealed: whoever reads through it has the objects' own bytes all the same.

What lies there from before, plain, stays readable; `is_sealed` tells, `seal` converts one object, and `unseal` back. A
range is still a range: only the frames that it touches are read. The file is opened before its head is looked at, so
what another process puts in its place meanwhile is read as it was, or as it is.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from lfsfs import durable
from lfsfs.errors import Corrupt, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.tiers.encryption import frames
from lfsfs.tiers.encryption.frames import FRAME_BYTES
from lfsfs.tiers.encryption.keys import Keys
from lfsfs.tiers.encryption.sealed_file import SealedFile, SealedPart, head_of, seal_frames
from lfsfs.tiers.local import LocalTier, translated
from lfsfs.tiers.local_file import LocalFile, Part

PIECE_BYTES = 16 * FRAME_BYTES


class EncryptedTier(LocalTier):
    """`seals`: whether what is put is sealed; False: while a store is decrypted."""

    plain = False

    def __init__(
        self, root: Path, keys: Keys, *, temp: Path | None = None, durable: bool = True, seals: bool = True
    ) -> None:
        super().__init__(root, temp=temp, durable=durable)
        self._keys = keys
        self.seals = seals

    def quick(self, temp: Path) -> "EncryptedTier":
        return EncryptedTier(self.root, self._keys, temp=temp, durable=False, seals=self.seals)

    def stored_size(self, size: int) -> int:
        return frames.sealed_size(size)

    def new_part(self, path: Path, oid: Oid, size: int) -> Part:
        return SealedPart(path, oid, size, *self._keys.new(oid)) if self.seals else Part(path, size)

    def place_bytes(self, oid: Oid, content: bytes, mode: int, temporary: Path) -> None:
        super().place_bytes(oid, self.encoded(oid, content), mode, temporary)

    def encoded(self, oid: Oid, content: bytes) -> bytes:
        if not self.seals:
            return content
        head, sealing = self._keys.new(oid)
        return head + seal_frames(sealing, content, 0, frames.frame_count(len(content)))

    def decoded(self, oid: Oid, content: bytes) -> bytes:
        descriptor = os.memfd_create("lfsfs", os.MFD_CLOEXEC)
        try:
            _write_all(descriptor, content)
            opened = self._opened(descriptor, oid)
            return opened.read_at(0, opened.size)
        finally:
            os.close(descriptor)

    def bring_out(self, file: Path, oid: Oid, target: Path) -> None:
        with translated(f"cannot copy {file}"), self._open_at(file, oid) as opened:
            if not isinstance(opened, SealedFile):
                super().bring_out(file, oid, target)
                return
            with target.open("xb", buffering=0) as writer:
                for piece in opened.pieces():
                    writer.write(piece)
                _like(opened, writer.fileno())

    async def is_sealed(self, oid: Oid) -> bool:
        """NotFound if there is no such object; Corrupt."""
        return await self._blocking(self._readers, f"cannot read {oid}", self._is_sealed, oid)

    async def seal(self, oid: Oid) -> bool:
        """Seals an object that lies there plain; whether it did. Corrupt, and nothing changed, where it is not whole.

        May be cut off at any point: the object is there, plain or sealed.
        """
        return await self._convert(oid, seals=True)

    async def unseal(self, oid: Oid) -> bool:
        """The other way round."""
        return await self._convert(oid, seals=False)

    async def _convert(self, oid: Oid, *, seals: bool) -> bool:
        def convert() -> bool:
            with self._temporary() as fresh:
                return self._convert_file(oid, Path(self._file(oid)), fresh, seals)

        async with self._turns.of(oid):
            return await self._blocking(self._writers, f"cannot convert {oid}", convert)

    # Everything below runs in a thread.

    def convert_moved(self, file: Path, oid: Oid, *, seals: bool) -> bool:
        """As `seal` and `unseal`, of a file that was moved out. NotFound if it is not there."""
        fresh = f"{file}.new"
        with translated(f"cannot convert {file}"):
            try:
                return self._convert_file(oid, file, fresh, seals)
            finally:
                Path(fresh).unlink(missing_ok=True)

    def _convert_file(self, oid: Oid, file: Path, fresh: str, seals: bool) -> bool:
        with self._open_at(file, oid) as found:
            if isinstance(found, SealedFile) == seals:
                return False
            digest = hashlib.sha256()
            self._write(oid, found, fresh, digest.update, seals=seals)
            if digest.digest() != oid.to_bytes():
                raise Corrupt(f"object {oid} is damaged: not converted")
        self._sync(fresh, "fsync-object")
        if not os.path.lexists(file):
            raise NotFound(f"no object {oid}")  # it went meanwhile, and does not come back
        durable.rename(fresh, file, "rename-object")
        self._sync(os.path.dirname(file), "fsync-directory")
        return True

    def _put(self, oid: Oid, source: str) -> None:
        """An object that is there already, sealed, stays as it is; one that is there plain is sealed."""
        if not self.seals:
            super()._put(oid, source)
            return
        target = self._file(oid)
        if self._has(oid, os.stat(source).st_size):
            self._sync(target, "fsync-object")  # whoever put it there may not have been durable
            self._ensure(os.path.dirname(target))
            self._sync(os.path.dirname(target), "fsync-directory")
            return
        with self._temporary() as sealed:
            with LocalFile(os.open(source, os.O_RDONLY | os.O_CLOEXEC)) as plain:
                self._write(oid, plain, sealed, _unseen, seals=True)
            self._place(sealed, target, _rename, over=True)

    def _has(self, oid: Oid, size: int) -> bool:
        """Whether it is there, sealed, as long as it should be."""
        try:
            with self.open(oid) as found:
                return isinstance(found, SealedFile) and found.size == size
        except (NotFound, Corrupt):
            return False

    def _is_sealed(self, oid: Oid) -> bool:
        with self.open(oid) as found:
            return isinstance(found, SealedFile)

    def _length(self, oid: Oid) -> int:
        with self.open(oid) as found:
            return found.size

    def length(self, oid: Oid) -> int | None:
        try:
            return super().length(oid)
        except Corrupt:
            return -1

    def _open_at(self, file: Path, oid: Oid) -> LocalFile:
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise NotFound(f"no object {oid}") from error
        try:
            return self._opened(descriptor, oid)
        except BaseException:
            os.close(descriptor)
            raise

    def _opened(self, descriptor: int, oid: Oid) -> LocalFile:
        head = head_of(descriptor)
        if head is None:
            return LocalFile(descriptor)
        try:
            return SealedFile(descriptor, oid, self._keys.frames(oid, head))
        except Corrupt:
            if _is_plain(descriptor, oid):  # somebody has stored a sealed object of another store, plain
                return LocalFile(descriptor)
            raise

    def _write(
        self, oid: Oid, source: LocalFile, target: str, see: Callable[[bytes], None], *, seals: bool
    ) -> None:
        """Writes the object in the form that is wanted, with the mode and times of its source; `see` gets its bytes.

        Stops where whoever waits for it is cancelled.
        """
        copied, count = 0, frames.frame_count(source.size)
        head, sealing = self._keys.new(oid)
        with open(target, "xb", buffering=0) as writer:
            if seals:
                _write_all(writer.fileno(), head)
            for piece in _pieces(source):
                trio.from_thread.check_cancelled()
                see(piece)
                first = copied // FRAME_BYTES
                _write_all(writer.fileno(), seal_frames(sealing, piece, first, count) if seals else piece)
                copied += len(piece)
            if copied != source.size:
                raise LfsfsError(f"object {oid}: its file changed while it was stored")
            if seals and not copied:
                _write_all(writer.fileno(), seal_frames(sealing, b"", 0, count))
            _like(source, writer.fileno())


def _unseen(_: bytes) -> None:
    """Bytes that were hashed already."""


def _pieces(source: LocalFile) -> Iterator[bytes]:
    """All of it, each but the last of the same length: of so many whole frames."""
    offset = 0
    while piece := source.read_at(offset, PIECE_BYTES):
        offset += len(piece)
        yield piece


def _like(source: LocalFile, descriptor: int) -> None:
    """Gives the other file the mode and the times of the source."""
    found = os.fstat(source.descriptor)
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o777)
    os.utime(descriptor, ns=(found.st_atime_ns, found.st_mtime_ns))


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _rename(source: str, target: str) -> None:
    durable.rename(source, target, "rename-object")


def _is_plain(descriptor: int, oid: Oid) -> bool:
    digest, offset = hashlib.sha256(), 0
    while piece := os.pread(descriptor, PIECE_BYTES, offset):
        digest.update(piece)
        offset += len(piece)
    return digest.digest() == oid.to_bytes()
