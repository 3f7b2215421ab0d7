"""Sending: an object's bytes as the body of an answer, each verified before it leaves, compressed where asked."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

import trio
import zstandard
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lfsfs.errors import Corrupt, LfsfsError
from lfsfs.server.connection import ZERO_COPY
from lfsfs.server.ranges import Part
from lfsfs.server.service import Service
from lfsfs.server.turns import Turn
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.object_file import ObjectFile
from lfsfs.store.transfers import Reader

PIECE_BYTES = 1 << 20
SPAN_BYTES = 4 << 20
"""What of a file is compared, and then sent, at once."""
AHEAD = 2
"""Pieces that are read before their turn."""
LEVEL = 3
SMALLEST_COMPRESSED = 1024
_PACKED = ("image/jpeg", "image/png", "image/webp", "video/", "audio/", "application/zip", "application/gzip",
           "application/zstd", "application/x-7z", "application/x-xz", "application/x-bzip2")  # fmt: skip
"""What does not get smaller."""


def encoding_of(headers: Mapping[str, str], row: ObjectStat) -> str | None:
    """ "zstd" where the client asks for it and it may help; None: as it is."""
    if row.size < SMALLEST_COMPRESSED or row.content_type.startswith(_PACKED):
        return None
    for offered in headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = offered.partition(";")
        if name.strip() == "zstd" and weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return "zstd"
    return None


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file that were compared with their digests; `file` is its descriptor."""

    file: int
    offset: int
    size: int


Piece = bytes | Span


class Sending(Response):
    """The answer that has an object, or a part of it, for its body."""

    def __init__(
        self,
        service: Service,
        row: ObjectStat,
        part: Part | None,
        headers: dict[str, str],
        encoding: str | None,
    ) -> None:
        self._service = service
        self._row = row
        self._part = part or Part(0, row.size)
        self._encoding = encoding
        size = self._part.end - self._part.start
        headers |= {"Vary": "Accept-Encoding", "Content-Type": "application/octet-stream"}
        if encoding is not None:
            headers |= {"Content-Encoding": encoding, "ETag": f'"{row.oid}-{encoding}"'}
        else:
            headers["Content-Length"] = str(size)
        if part is not None:
            headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{row.size}"
        super().__init__(status_code=206 if part is not None else 200, headers=headers)
        if encoding is not None:
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await send(self._start())
            return await send({"type": "http.response.body", "body": b""})
        spans = ZERO_COPY in scope.get("extensions", {}) and self._encoding is None
        async with Turn(self._service):
            await self._send_body(send, spans=spans)
        return None

    def _start(self) -> dict[str, object]:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}

    async def _send_body(self, send: Send, *, spans: bool) -> None:
        """The first piece is there before the head goes out: what fails until then can still be told."""
        store, oid = self._service.store, self._row.oid
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(await store.open(oid))
            file = reader.open_file()
            if file is not None:
                stack.enter_context(store.kept(oid))
                stack.callback(file.close)
            pieces = await stack.enter_async_context(_ahead(self._pieces(reader, file, spans=spans)))
            await self._send_pieces(send, pieces)

    async def _send_pieces(self, send: Send, pieces: trio.MemoryReceiveChannel[Piece | LfsfsError]) -> None:
        first = _checked(await anext(pieces, b""))
        await send(self._start())
        sent = 0
        try:
            await send(_message(first))
            sent += _size(first)
            async for next_one in pieces:
                piece = _checked(next_one)
                await send(_message(piece))
                sent += _size(piece)
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._service.metrics.bytes.labels("out").inc(sent)

    async def _pieces(self, reader: Reader, file: ObjectFile | None, *, spans: bool) -> AsyncGenerator[Piece]:
        if spans and file is not None:
            async for each in _spans(reader, file, self._part):
                yield each
            return
        if self._encoding is None:
            async for piece in _read(reader, file, self._part):
                yield piece
            return
        packer = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        async for piece in _read(reader, file, self._part):
            packed = await trio.to_thread.run_sync(packer.compress, piece)
            if packed:
                yield packed
        yield packer.flush()


@asynccontextmanager
async def _ahead(
    pieces: AsyncGenerator[Piece],
) -> AsyncIterator[trio.MemoryReceiveChannel[Piece | LfsfsError]]:
    """The same pieces, each read while the one before is sent; the last is an error where reading failed."""
    into, out = trio.open_memory_channel[Piece | LfsfsError](AHEAD)
    failure: BaseException | None = None

    async def read() -> None:
        async with into, aclosing(pieces):
            try:
                async for piece in pieces:
                    await into.send(piece)
            except LfsfsError as failed:
                await into.send(failed)

    async with trio.open_nursery() as nursery, out:
        nursery.start_soon(read)
        try:
            yield out
        except BaseException as failed:  # taken out of the nursery, which would wrap it in a group
            failure = failed
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _checked(piece: Piece | LfsfsError) -> Piece:
    if isinstance(piece, LfsfsError):
        raise piece
    return piece


def _size(piece: Piece) -> int:
    return piece.size if isinstance(piece, Span) else len(piece)


def _message(piece: Piece) -> dict[str, object]:
    if isinstance(piece, bytes):
        return {"type": "http.response.body", "body": piece, "more_body": True}
    return {
        "type": ZERO_COPY,
        "file": piece.file,
        "offset": piece.offset,
        "count": piece.size,
        "more_body": True,
    }


async def _spans(reader: Reader, file: ObjectFile, part: Part) -> AsyncIterator[Piece]:
    """The part as spans of the file; from where that is damaged, as the reader heals it, or says that it cannot."""
    for offset, size in _steps(part, SPAN_BYTES):
        try:
            await file.verify(offset, size)
        except Corrupt:
            async for piece in _read(reader, None, Part(offset, part.end)):
                yield piece
            return
        yield Span(file.descriptor, offset, size)


async def _read(reader: Reader, file: ObjectFile | None, part: Part) -> AsyncIterator[bytes]:
    """The part as bytes: of the file, while that is whole; else the reader's."""
    for offset, size in _steps(part, PIECE_BYTES):
        if file is not None:
            try:
                yield await file.read(offset, size)
                continue
            except Corrupt:
                file = None
        yield await reader.read(offset, size)


def _steps(part: Part, most: int) -> Iterator[tuple[int, int]]:
    """Offset and size of the pieces of a part, each of which ends where a block does."""
    offset = part.start
    while offset < part.end:
        size = min(most - offset % most, part.end - offset)
        yield offset, size
        offset += size
