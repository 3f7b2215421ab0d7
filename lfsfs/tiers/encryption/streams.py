"""The sealed form of an object on its way: made while it is sent, opened while it comes. None of it is on a disk."""

from functools import lru_cache

from lfsfs.errors import Corrupt
from lfsfs.oid import Oid
from lfsfs.tiers.encryption.frames import (
    FRAME_BYTES,
    HEAD_BYTES,
    SEALED_FRAME_BYTES,
    TAG_BYTES,
    Frames,
    frame_count,
    offset_of,
    sealed_size,
)
from lfsfs.tiers.remote import Sink, Source

REMEMBERED = 8  # frames of one object: what is read next begins within the last one


class SealedSource:
    """The sealed form of another source. Read twice, it is the same both times, as the other one is."""

    sha256 = None

    def __init__(self, plain: Source, frames: Frames, head: bytes) -> None:
        self.size = sealed_size(plain.size)
        self.exact = plain.exact
        self.over = plain.over
        self._plain = plain
        self._frames = frames
        self._head = head
        self._count = frame_count(plain.size)
        self._sealed = lru_cache(REMEMBERED)(self._seal)

    def read_at(self, offset: int, size: int) -> bytes:
        end = offset + size
        sealed = bytearray(self._head[offset:end])
        first = max(0, offset - HEAD_BYTES) // SEALED_FRAME_BYTES
        if end <= HEAD_BYTES:
            return bytes(sealed)
        last = (end - HEAD_BYTES - 1) // SEALED_FRAME_BYTES
        for number in range(first, last + 1):
            start = offset_of(number)
            sealed += self._sealed(number)[max(0, offset - start) : end - start]
        return bytes(sealed)

    def _seal(self, number: int) -> bytes:
        start = number * FRAME_BYTES
        plain = self._plain.read_at(start, min(FRAME_BYTES, self._plain.size - start))
        return self._frames.seal(number, plain, last=number == self._count - 1)


class Opening:
    """A sink for the sealed frames of one object from `first` on, of which it hands `size` plain bytes on.

    `skip`: plain bytes of the first frame that nobody wants. `delivered`: what has been handed on so far.
    """

    def __init__(self, oid: Oid, frames: Frames, first: int, skip: int, size: int, sink: Sink) -> None:
        self.delivered = 0
        self._oid = oid
        self._frames = frames
        self._number = first
        self._skip = skip
        self._size = size
        self._sink = sink
        self._waiting = bytearray()

    def __call__(self, piece: bytes) -> None:
        self._waiting += piece
        while len(self._waiting) > SEALED_FRAME_BYTES:  # what has another one behind it is not the last
            self._hand_on(self._frames.open(self._number, self._taken(SEALED_FRAME_BYTES), last=False))

    def end(self, *, ended: bool) -> None:
        """Nothing follows, because the object has `ended`, or because nothing else was asked for. Corrupt."""
        if not self._waiting and self._number:
            return
        if len(self._waiting) < TAG_BYTES:  # the first frame is always there
            raise Corrupt(f"object {self._oid}: its sealed form is cut short: not served")
        number, sealed = self._number, self._taken(SEALED_FRAME_BYTES)
        self._hand_on(self._open_either(number, sealed, ended=ended or len(sealed) < SEALED_FRAME_BYTES))

    def _open_either(self, number: int, sealed: bytes, *, ended: bool) -> bytes:
        """A whole frame at the end of what was asked for may be the object's last one, or not."""
        if ended:
            return self._frames.open(number, sealed, last=True)
        try:
            return self._frames.open(number, sealed, last=False)
        except Corrupt:
            return self._frames.open(number, sealed, last=True)

    def _taken(self, size: int) -> bytes:
        taken = bytes(self._waiting[:size])
        del self._waiting[:size]
        self._number += 1
        return taken

    def _hand_on(self, plain: bytes) -> None:
        wanted = plain[self._skip : self._skip + self._size - self.delivered]
        self._skip = max(0, self._skip - len(plain))
        if wanted:
            self._sink(wanted)
            self.delivered += len(wanted)
