"""ReaderFile: the verified bytes of an object as a file of Python's."""

import io
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from lfsfs.store.store import Store

T = TypeVar("T")


class Readable(Protocol):
    """What has bytes of a known number: an open object, the matrix of a collection."""

    @property
    def size(self) -> int: ...

    async def read(self, offset: int, size: int) -> bytes: ...


class Caller(Protocol):
    """Runs work in the thread of a store: and waits for it, or not."""

    def call(self, work: "Callable[[Store], Awaitable[T]]") -> T: ...

    def soon(self, work: Callable[[], object]) -> None: ...


class ReaderFile(io.RawIOBase):
    """Reads what is `readable`; for io.BufferedReader."""

    def __init__(self, caller: Caller, readable: Readable) -> None:
        self._caller = caller
        self._readable = readable
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._readable.size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        piece = self._caller.call(lambda _: self._readable.read(self._position, len(view)))
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        """Waits for nothing: the garbage collector may call it, in any thread."""
        close = getattr(self._readable, "close", None)
        if not self.closed and close is not None:
            self._caller.soon(close)
        super().close()
