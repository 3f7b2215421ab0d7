"""Tensors: a collection as a safetensors file, written from its beginning to its end.

The library's own writer wants all tensors in memory. Its reader takes a header of at most 100 MB, and so no more than
about 800,000 vectors. Format: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from lfsfs.embeddings.collection import Collection
from lfsfs.embeddings.forms import Array, Form
from lfsfs.errors import InvalidEmbedding, LfsfsError

HEADER_LIMIT_BYTES = 100_000_000
_ALIGN = 8
_PAGE = 2_000
_NAMES = {
    "b1": "BOOL", "u1": "U8", "i1": "I8", "u2": "U16", "i2": "I16", "f2": "F16",
    "u4": "U32", "i4": "I32", "f4": "F32", "u8": "U64", "i8": "I64", "f8": "F64",
}  # fmt: skip


class Writer:
    """First `head`, then `add` for each vector in the order of the content hashes, then `end`."""

    def __init__(self, collection: Collection, file: BinaryIO) -> None:
        self._collection = collection
        self._file = file
        self._announced = hashlib.sha256()
        self._written = hashlib.sha256()

    def head(self) -> None:
        """InvalidEmbedding where a vector has a dtype that safetensors has not, or there are too many."""
        with tempfile.TemporaryFile() as header:
            header.write(b"{")
            at = 0
            for number, (content_hash, form) in enumerate(self._listed()):
                end = at + form.nbytes
                entry = {"dtype": _name(content_hash, form), "shape": form.shape, "data_offsets": (at, end)}
                text = json.dumps({content_hash: entry}, separators=(",", ":"))[1:-1]
                header.write(("," * bool(number) + text).encode())
                self._announced.update(content_hash.encode() + form.descriptor)
                at = end
            header.write(b"}")
            size = header.tell()
            header.write(b" " * (-size % _ALIGN))
            size = header.tell()
            if size > HEADER_LIMIT_BYTES:
                raise InvalidEmbedding(
                    "too many vectors for one safetensors file: export to an npz or a directory"
                )
            self._file.write(size.to_bytes(8, "little"))
            header.seek(0)
            while piece := header.read(1 << 20):
                self._file.write(piece)

    def add(self, content_hash: str, form: Form, vector: Array) -> None:
        self._file.write(vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes())
        self._written.update(content_hash.encode() + form.descriptor)

    def end(self) -> None:
        """An error where these were not the vectors that `head` announced."""
        if self._written.digest() != self._announced.digest():
            raise LfsfsError(f"{self._collection.name} was written to while it was exported: try again")

    def _listed(self) -> Iterator[tuple[str, Form]]:
        after: str | None = None
        while page := self._collection.page(after, _PAGE):
            yield from ((stat.content_hash, stat.form) for stat in page)
            after = page[-1].content_hash


def _name(content_hash: str, form: Form) -> str:
    name = _NAMES.get(f"{form.dtype.kind}{form.dtype.itemsize}")
    if name is None:
        raise InvalidEmbedding(
            f"{content_hash}: safetensors has no {form.dtype}: export to a directory or an npz"
        )
    return name
