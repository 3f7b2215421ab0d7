"""The pack: read back as it was written, byte by byte as docs/FORMAT.md says, and refused where it is damaged."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from lfsfs.embeddings.forms import form_of
from lfsfs.embeddings.pack import (
    HEAD_BYTES,
    Contents,
    Record,
    Vector,
    compress,
    decompress,
    digest_of,
    directory_size,
    head_of,
    read_directory,
    vectors_size,
)
from lfsfs.errors import Corrupt

GOLDEN = Path(__file__).with_name("golden.lfsfs-vectors")
FLOATS = form_of(np.dtype("<f4"), (4,))
SHORTS = form_of(np.dtype(">i2"), (2, 1))


def contents() -> Contents:
    """Two forms, two collections, a compressed vector, a deletion, a vector that lies in another pack."""
    one = np.arange(4, dtype="<f4").tobytes()
    two = np.arange(2, dtype=">i2").tobytes()
    zeros = bytes(16)
    first, second, third = (
        digest_of(raw, form.key) for raw, form in ((one, FLOATS), (two, SHORTS), (zeros, FLOATS))
    )
    return Contents(
        vectors=[
            Vector(first, FLOATS, "raw", one), Vector(second, SHORTS, "raw", two),
            Vector(third, FLOATS, "zstd", compress(zeros, 4)),
        ],
        records=[
            Record("default", bytes(range(32)), first, 10), Record("default", b"\1" * 20, None, 11),
            Record("other", bytes(range(32)), b"elsewhere.......", 12), Record("other", b"\2" * 64, third, 2**60),
        ],
        settings={
            "default": {"codec": "raw", "created": 1}, "other": {"codec": "zstd", "created": 2},
        },
    )  # fmt: skip


def written(some: Contents) -> bytes:
    return head_of(some.columns()) + b"".join(bytes(vector.stored) for vector in some.vectors)


def test_a_pack_tells_all_that_was_put_into_it() -> None:
    some = contents()
    pack = written(some)
    size = directory_size(pack[:HEAD_BYTES])
    found = read_directory(pack[:size])
    assert found.records == some.records
    assert found.settings == some.settings
    assert size % 64 == 0
    assert vectors_size(pack) == len(pack) - size
    placed = found.vectors
    for at, vector in enumerate(some.vectors):
        assert placed.digests[at] == vector.digest
        assert placed.forms[placed.form[at]] == vector.form
        start = int(placed.offset[at])
        assert pack[start : start + int(placed.size[at])] == vector.stored
    assert decompress(some.vectors[2].stored, FLOATS) == bytes(16)


def test_the_golden_pack_is_read_as_it_always_was() -> None:
    """It was written once, by the first version of the format, and is never written again."""
    pack = GOLDEN.read_bytes()
    size = directory_size(pack)
    found = read_directory(pack[:size])
    some = contents()
    assert (found.records, found.settings) == (some.records, some.settings)
    assert found.vectors.digests == [vector.digest for vector in some.vectors]
    for at, vector in enumerate(some.vectors):
        stored = pack[int(found.vectors.offset[at]) :][: int(found.vectors.size[at])]
        raw = decompress(stored, vector.form) if vector.codec == "zstd" else stored
        assert digest_of(raw, vector.form.key) == vector.digest


def test_the_golden_pack_is_what_the_format_document_says() -> None:
    """Decoded by hand, from docs/FORMAT.md alone."""
    pack = GOLDEN.read_bytes()
    magic, vectors, digests, records, names, hashes, columns, _, data, length = struct.unpack(
        ">16s6I3Q", pack[:64]
    )
    assert (magic, vectors, digests, records, length) == (b"lfsfs-vectors-1\n", 3, 4, 4, len(pack) - data)
    assert blake3(pack[:64] + pack[96:data]).digest() == pack[64:96]
    at = 96
    said = json.loads(pack[at : at + names])
    assert [json.loads(form) for form in said["forms"]] == [["<f4", [4]], [">i2", [2, 1]]]
    assert [entry["name"] for entry in said["collections"]] == ["default", "other"]
    at += names
    keyed = blake3(pack[data : data + 16], key=blake3(said["forms"][0].encode()).digest()).digest(16)
    assert pack[at : at + 16] == keyed
    at += 16 * digests
    assert pack[at : at + 32] == bytes(range(32))
    at += hashes
    table = zlib.decompress(pack[at : at + columns])
    form, codec, size = table[:12], table[12:15], struct.unpack(">3I", table[15:27])
    assert (form, codec, size[:2]) == (struct.pack(">3I", 0, 1, 0), b"\0\0\1", (16, 4))
    rest = table[27:]
    assert struct.unpack(">4I", rest[:16]) == (0, 0, 1, 1)
    assert tuple(rest[16:20]) == (32, 20, 32, 64)
    assert struct.unpack(">4I", rest[20:36]) == (0, 0xFFFFFFFF, 3, 2)
    assert struct.unpack(">4Q", rest[36:]) == (10, 11, 12, 2**60)


@settings(max_examples=300)
@given(at=st.integers(0, 10_000), value=st.integers(1, 255))
def test_any_damage_to_the_directory_is_found(at: int, value: int) -> None:
    pack = bytearray(GOLDEN.read_bytes())
    size = directory_size(bytes(pack))
    pack[at % size] ^= value
    with pytest.raises(Corrupt):
        found = directory_size(bytes(pack))
        read_directory(bytes(pack[:found]))


def test_what_is_no_pack_is_refused() -> None:
    for wrong in (b"", b"lfsfs-vectors-1\n", bytes(200), GOLDEN.read_bytes()[:95]):
        with pytest.raises(Corrupt):
            directory_size(wrong)
    with pytest.raises(Corrupt):
        read_directory(GOLDEN.read_bytes()[:-1])
    for stored in (b"", b"no zstd", compress(bytes(32), 4)):
        with pytest.raises(Corrupt):
            decompress(stored, FLOATS)
