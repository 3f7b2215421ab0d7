"""Packs: many vectors in one immutable object that says by itself what lies in it. Layout: docs/FORMAT.md.

A pack holds *vectors* (each once, under its digest) and *records*: what was written under which content hash of which
collection, or deleted. A record may name a vector of another pack. All of the index can be made from packs alone; of
two records for the same content hash the later one holds.
"""

import json
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import zstandard
from blake3 import blake3
from numpy.typing import NDArray

from lfsfs.embeddings.forms import Form, read_form
from lfsfs.errors import Corrupt, InvalidEmbedding
from lfsfs.store.packs import MAGIC

Codec = Literal["raw", "zstd"]
Integers = Sequence[int] | NDArray[Any]
CODECS: tuple[Codec, ...] = ("raw", "zstd")
DIGEST_BYTES = 16
DELETED = 0xFFFFFFFF
ALIGN_BYTES = 64
ZSTD_LEVEL = 3
HEAD_BYTES = 96  # the same bytes twice never: a pack that is written anew is another object
_HEAD = struct.Struct(">16s6I3Q")  # then the BLAKE3 of all the directory but these 32 bytes
_COLUMNS: tuple[tuple[str, str], ...] = (
    ("form", ">u4"), ("codec", "u1"), ("size", ">u4"),
    ("collection", ">u4"), ("hash_size", "u1"), ("vector", ">u4"), ("created", ">u8"),
)  # fmt: skip
_OF_VECTORS = 3  # so many of the columns have a row for each vector, the others for each record
DIRECTORY_LIMIT_BYTES = 1 << 30
PIECE_BYTES = 4 << 20  # what is written at once


class Record(NamedTuple):
    """One content hash of one collection got the vector with this digest, or (None) lost what it had."""

    collection: str
    content_hash: bytes
    digest: bytes | None
    created: int


class Vector(NamedTuple):
    """A vector as it is stored: `stored` is its bytes in C order, or those compressed by `codec`."""

    digest: bytes
    form: Form
    codec: Codec
    stored: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Columns:
    """What makes the directory of a pack: `form` to `digests` of each vector, `collection` to `created` of a record.

    `form` counts in `forms`, `collection` in the sorted `settings`, `vector` in `digests` (or is DELETED), which go on
    with those of vectors in other packs. `settings`: of each collection that has a record, as JSON can hold them.
    """

    forms: list[Form]
    form: Integers
    codec: Integers
    size: Integers
    digests: list[bytes]
    settings: dict[str, dict[str, Any]]
    collection: Integers
    hashes: list[bytes]
    vector: Integers
    created: Integers


@dataclass(slots=True)
class Contents:
    """What goes into a pack, vector by vector. `settings`: of each collection that has a record in it."""

    vectors: list[Vector] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def columns(self) -> Columns:
        forms: dict[Form, int] = {}
        numbers = {vector.digest: number for number, vector in enumerate(self.vectors)}
        names = {name: number for number, name in enumerate(sorted(self.settings))}
        return Columns(
            form=[forms.setdefault(vector.form, len(forms)) for vector in self.vectors],
            codec=[CODECS.index(vector.codec) for vector in self.vectors],
            size=[len(vector.stored) for vector in self.vectors],
            collection=[names[record.collection] for record in self.records],
            hashes=[record.content_hash for record in self.records],
            vector=[
                DELETED if record.digest is None else numbers.setdefault(record.digest, len(numbers))
                for record in self.records
            ],
            created=[record.created for record in self.records],
            forms=list(forms), digests=list(numbers), settings=self.settings,
        )  # fmt: skip

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the vectors, in pieces of some MiB."""
        pieces: list[bytes | memoryview] = []
        size = 0
        for vector in self.vectors:
            pieces.append(vector.stored)
            size += len(vector.stored)
            if size >= PIECE_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        yield b"".join(pieces)


@dataclass(frozen=True, slots=True)
class Placed:
    """Vectors of a pack, a row each: where they lie in it."""

    digests: list[bytes]
    forms: list[Form]
    """The distinct ones; `form` counts in them."""
    form: NDArray[np.uint32]
    codec: NDArray[np.uint8]
    offset: NDArray[np.int64]
    size: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Directory:
    """What a pack says of itself."""

    vectors: Placed
    records: list[Record]
    settings: dict[str, dict[str, Any]]


def digest_of(raw: bytes | memoryview, key: bytes) -> bytes:
    """What tells vectors of one form from one another; `key` is the form's."""
    return blake3(raw, key=key).digest(DIGEST_BYTES)


def digests_of(raws: Iterable[bytes | memoryview], key: bytes) -> list[bytes]:
    """As `digest_of`, of each: a fifth less time."""
    hashed, found = blake3(key=key), []
    for raw in raws:
        hashed.update(raw)
        found.append(hashed.digest(DIGEST_BYTES))
        hashed.reset()
    return found


# Compression of a single vector.


def compress(raw: bytes | memoryview, itemsize: int) -> bytes:
    """zstd over the bytes sorted by their place in the element: exponents with exponents."""
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False).compress(_shuffled(raw, itemsize))


def decompress(stored: bytes | memoryview, form: Form) -> bytes:
    """The vector's bytes. Corrupt where they are not as many as the form has."""
    try:
        if zstandard.frame_content_size(stored) != form.nbytes:  # before memory is spent on it
            raise Corrupt(f"a compressed vector does not have the {form.nbytes} bytes that are due")
        shuffled = zstandard.ZstdDecompressor().decompress(stored, max_output_size=max(1, form.nbytes))
    except zstandard.ZstdError as error:
        raise Corrupt(f"a compressed vector is damaged: {error}") from error
    if len(shuffled) != form.nbytes:
        raise Corrupt(f"a compressed vector has {len(shuffled)} bytes where {form.nbytes} are due")
    itemsize = form.dtype.itemsize
    return np.frombuffer(shuffled, np.uint8).reshape(itemsize, -1).T.tobytes()


def _shuffled(raw: bytes | memoryview, itemsize: int) -> bytes:
    return np.frombuffer(raw, np.uint8).reshape(-1, itemsize).T.tobytes()


# Writing.


def head_of(columns: Columns) -> bytes:
    """All of the pack before its vectors, which follow one after another."""
    sizes = list(map(len, columns.hashes))
    arrays = {
        "form": columns.form, "codec": columns.codec, "size": columns.size, "collection": columns.collection,
        "hash_size": sizes, "vector": columns.vector, "created": columns.created,
    }  # fmt: skip
    packed = zlib.compress(
        b"".join(np.asarray(arrays[name]).astype(dtype).tobytes() for name, dtype in _COLUMNS), 1
    )
    names = json.dumps(
        {
            "forms": [form.descriptor.decode() for form in columns.forms],
            "collections": [{"name": name, **columns.settings[name]} for name in sorted(columns.settings)],
        }
    ).encode()
    counts = (
        len(columns.form),
        len(columns.digests),
        len(columns.hashes),
        len(names),
        sum(sizes),
        len(packed),
    )
    rest = b"".join((names, *columns.digests, *columns.hashes, packed))
    start = HEAD_BYTES + len(rest)
    data = -(-start // ALIGN_BYTES) * ALIGN_BYTES
    rest += bytes(data - start)
    head = _HEAD.pack(MAGIC, *counts, time.time_ns(), data, int(np.sum(columns.size, dtype=np.int64)))
    return head + blake3(head + rest).digest() + rest


# Reading.


def directory_size(head: bytes) -> int:
    """How many bytes from the first on hold the directory, told from the first HEAD_BYTES. Corrupt."""
    if len(head) < HEAD_BYTES or not head.startswith(MAGIC):
        raise Corrupt("not a pack of vectors")
    size = int(_HEAD.unpack_from(head)[-2])
    if not HEAD_BYTES <= size <= DIRECTORY_LIMIT_BYTES:
        raise Corrupt(f"a pack of vectors that says its directory has {size} bytes")
    return size


def vectors_size(head: bytes) -> int:
    """How many bytes the vectors have, told from the first HEAD_BYTES. Corrupt."""
    directory_size(head)
    return int(_HEAD.unpack_from(head)[-1])


def read_directory(content: bytes) -> Directory:
    """The directory, of which `content` is all. Corrupt."""
    if directory_size(content) != len(content):
        raise Corrupt("the directory of a pack of vectors is cut short")
    head, check, rest = content[: _HEAD.size], content[_HEAD.size : HEAD_BYTES], content[HEAD_BYTES:]
    if blake3(head + rest).digest() != check:
        raise Corrupt("the directory of a pack of vectors is damaged")
    try:
        return _decoded(_HEAD.unpack(head), rest)
    except (
        ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, zlib.error, InvalidEmbedding,
    ) as error:  # fmt: skip
        raise Corrupt(f"the directory of a pack of vectors makes no sense: {error}") from error


def _decoded(head: tuple[Any, ...], rest: bytes) -> Directory:
    _, vectors, digests_count, records, names_size, hashes_size, packed_size, _, data, length = head
    lengths = (names_size, digests_count * DIGEST_BYTES, hashes_size, packed_size)
    ends = np.cumsum(lengths)
    names, digests, hashes, packed = (
        rest[end - size : end] for end, size in zip(ends.tolist(), lengths, strict=True)
    )
    said = json.loads(names)
    if vectors > digests_count or records > hashes_size:
        raise ValueError("it has no room for so many")
    columns = _columns(_unpacked(packed, vectors, records), vectors, records)
    keys = [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
    sizes = columns["size"].astype(np.int64)
    if int(sizes.sum()) != length:
        raise ValueError("its vectors do not fill it")
    forms = [read_form(descriptor.encode()) for descriptor in said["forms"]]
    offsets = data + np.cumsum(sizes) - sizes
    placed = Placed(
        keys[:vectors], forms, columns["form"].astype(np.uint32), columns["codec"], offsets,
        columns["size"].astype(np.uint32),
    )  # fmt: skip
    settings = {str(entry.pop("name")): entry for entry in said["collections"]}
    return Directory(placed, _records(columns, keys, hashes, list(settings)), settings)


def _unpacked(packed: bytes, vectors: int, records: int) -> bytes:
    """The columns, and a byte more where there is more: whoever made the pack decides what it unpacks to."""
    widths = [np.dtype(dtype).itemsize for _, dtype in _COLUMNS]
    size = vectors * sum(widths[:_OF_VECTORS]) + records * sum(widths[_OF_VECTORS:])
    return zlib.decompressobj().decompress(packed, size + 1)


def _columns(unpacked: bytes, vectors: int, records: int) -> dict[str, Any]:
    columns, at = {}, 0
    for place, (name, dtype) in enumerate(_COLUMNS):
        count = vectors if place < _OF_VECTORS else records
        columns[name] = np.frombuffer(unpacked, dtype, count, at)
        at += columns[name].nbytes
    if at != len(unpacked):
        raise ValueError("its columns have another length")
    return columns


def _records(columns: dict[str, Any], digests: list[bytes], hashes: bytes, names: list[str]) -> list[Record]:
    ends = np.cumsum(columns["hash_size"].astype(np.int64)).tolist()
    rows = zip(
        columns["collection"].tolist(), columns["hash_size"].tolist(), ends,
        columns["vector"].tolist(), columns["created"].tolist(), strict=True,
    )  # fmt: skip
    return [
        Record(names[name], hashes[end - size : end], None if at == DELETED else digests[at], created)
        for name, size, end, at, created in rows
    ]
