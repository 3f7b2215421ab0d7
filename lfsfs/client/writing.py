"""Files being written: whole and under their name when they are closed; nothing, where what wrote them failed."""

import io
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import trio

from lfsfs.client.client import Client
from lfsfs.store.store import Store
from lfsfs.store.transfers import Upload

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BUFFER_BYTES = 4 << 20


class Sink(Protocol):
    """Where the bytes go."""

    def add(self, content: bytes) -> None: ...

    def finish(self) -> None:
        """Makes them what their name says."""

    def drop(self) -> None:
        """As if they had never come. In any thread, also while the garbage collector runs: it waits for nothing."""


class WrittenFile(io.RawIOBase):
    """Commits when it is closed; with `autocommit` off, when it is told to (fsspec's transactions)."""

    def __init__(self, sink: Sink, *, autocommit: bool) -> None:
        self._sink = sink
        self._autocommit = autocommit
        self._size = 0
        self._ended = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, piece: "ReadableBuffer") -> int:
        content = bytes(memoryview(piece).cast("B"))
        self._sink.add(content)
        self._size += len(content)
        return len(content)

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._autocommit:
                self.commit()
        finally:
            super().close()

    def commit(self) -> None:
        """A repeat is harmless."""
        if not self._ended:
            self._ended = True
            self._sink.finish()

    def discard(self) -> None:
        """Drops it. A repeat is harmless."""
        if not self._ended:
            self._ended = True
            self._sink.drop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What failed on the way is half a file: it becomes nothing."""
        if kind is not None:
            self.discard()
        self.close()

    def __del__(self) -> None:
        """Nobody closed it, so nobody takes it for done."""
        if not self.closed:
            self.discard()
            super().close()


class UploadSink:
    """An upload, in pieces of BUFFER_BYTES."""

    def __init__(self, client: Client, upload: Upload) -> None:
        self._client = client
        self._upload = upload
        self._buffer = bytearray()

    def add(self, content: bytes) -> None:
        self._buffer += content
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        piece, self._buffer = bytes(self._buffer), bytearray()
        if piece:
            self._client.call(lambda _: self._upload.write(piece))

    def finish(self) -> None:
        try:
            self._flush()
            self._client.call(lambda _: self._upload.finalize())
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        self._client.soon(lambda: trio.lowlevel.spawn_system_task(self._upload.abort))


class NpzSink:
    """The npz file of a vector."""

    def __init__(self, client: Client, collection: str, content_hash: str) -> None:
        self._client = client
        self._collection = collection
        self._hash = content_hash
        self._content = io.BytesIO()

    def add(self, content: bytes) -> None:
        self._content.write(content)

    def finish(self) -> None:
        self._content.seek(0)

        async def write(store: Store) -> None:
            collection = store.embeddings.collection(self._collection)
            await collection.write_npz(self._hash, self._content, replace=True)

        self._client.call(write)

    def drop(self) -> None:
        self._content = io.BytesIO()
