"""The npz file of a vector: numpy reads it, numpy's own are accepted, the same vector gives the same bytes for ever."""

import hashlib
import io
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lfsfs.embeddings.codec import FILE_LIMIT_BYTES, npz_size, parse, render
from lfsfs.embeddings.forms import form_of, read_form
from lfsfs.errors import InvalidEmbedding

DTYPES = [
    "?", "i1", "u1", "<i2", ">i2", "<u2", "<i4", ">u4", "<i8", ">i8", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8",
    "<c8", ">c16", "S5", "<U3", ">U3", "V6", "<M8[ns]", "<m8[s]",
]  # fmt: skip
STRUCTURED = np.dtype([("a", ">f4"), ("b", "<i2", (3,)), ("c", [("d", "u1"), ("é", "<U2")])])


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def golden(dtype: Any, shape: tuple[int, ...], order: str = "C") -> np.ndarray[Any, Any]:
    """An array with every byte set, where any byte makes a valid element."""
    dtype = np.dtype(dtype)
    size = dtype.itemsize * int(np.prod(shape))
    base = np.arange(size, dtype=np.uint8) % (2 if dtype.kind in "b?" else 100)
    if "U" in str(dtype) or dtype.kind == "U":
        base[:] = 0  # not every number is a character
    return np.array(base.view(dtype).reshape(shape), order=order)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("dtype", [*DTYPES, STRUCTURED], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 4), (2, 0, 3), (2, 3, 4)], ids=str)
def test_what_numpy_writes_is_read_and_what_is_written_numpy_reads(
    dtype: Any, shape: tuple[int, ...]
) -> None:
    for order in "CF":
        vector = golden(dtype, shape, order)
        file = render(vector)
        assert len(file) == npz_size(form_of(vector.dtype, vector.shape))
        loaded = np.load(io.BytesIO(file), allow_pickle=False)
        assert same(loaded["vector"], np.ascontiguousarray(vector).reshape(shape))
        assert str(loaded["dtype"]) == str(vector.dtype)
        assert tuple(loaded["shape"]) == shape
        for write in (np.savez, np.savez_compressed):
            for others in ({}, {"dtype": str(vector.dtype), "shape": shape}):
                from_numpy = io.BytesIO()
                write(from_numpy, vector=vector, **others)
                read = parse(from_numpy)
                assert same(read, loaded["vector"])
                assert render(read) == file


@settings(max_examples=200)
@given(
    hnp.arrays(
        dtype=hnp.scalar_dtypes().filter(lambda dtype: dtype.str[1:] not in ("f16", "c32")),
        shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_any_array_comes_back_to_the_last_bit(vector: np.ndarray[Any, Any]) -> None:
    file = render(vector)
    assert same(parse(io.BytesIO(file)), vector)
    form = form_of(vector.dtype, vector.shape)
    assert len(file) == npz_size(form)
    assert read_form(form.descriptor) == form


def test_special_floats_keep_their_bits() -> None:
    bits = np.array([0x7FC00001, 0xFFC12345, 0x7F800000, 0xFF800000, 0x80000000, 1], np.uint32)
    assert parse(io.BytesIO(render(bits.view(np.float32)))).view(np.uint32).tolist() == bits.tolist()


def test_the_bytes_of_a_file_are_pinned() -> None:
    """They are what git-lfs hashes: any change here changes the oid of every embedding that is tracked."""
    pinned = {
        "<f4 (4,)": np.arange(4, dtype="<f4"),
        ">f2 (2, 2)": np.arange(4, dtype=">f2").reshape(2, 2),
        "structured ()": np.zeros((), STRUCTURED),
    }
    assert {name: hashlib.sha256(render(vector)).hexdigest() for name, vector in pinned.items()} == PINNED


PINNED = {
    "<f4 (4,)": "d66d1507662be19d9623e5afccc14287d4bc5a13018ae5dd928f559d32407e52",
    ">f2 (2, 2)": "50cd88344f488772d345fcc0004baa5ab21e18ee6c1b92eb4394d78d5c00eeac",
    "structured ()": "ef8e0389c3571544d5ab01b79ed87cd72a06cd967d045c19f3fc88aa49432915",
}


def test_the_same_vector_gives_the_same_bytes_in_another_process() -> None:
    program = (
        "import hashlib, numpy as np; from lfsfs.embeddings.codec import render;"
        "print(hashlib.sha256(render(np.arange(384, dtype='<f4'))).hexdigest())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == hashlib.sha256(render(np.arange(384, dtype="<f4"))).hexdigest()


@pytest.mark.parametrize(
    "vector",
    [
        np.array([None]), np.array([{}, 1], dtype=object), np.array(["a"], dtype=np.dtypes.StringDType()),
        np.ma.masked_array([1, 2], [True, False]), np.zeros(3, "V0"), [[1], [1, 2]],
        np.zeros(2, [("a", object), ("b", "f4")]),
        np.zeros(2, np.dtype([("a", "u1"), ("b", "<f8")], align=True)),
    ],
    ids=["None", "object", "StringDType", "masked", "no bytes", "ragged", "structured with object", "gaps"],
)  # fmt: skip
def test_what_would_not_come_back_is_refused(vector: Any) -> None:
    with pytest.raises(InvalidEmbedding):
        render(vector)


# Files that are not what they say.


def npz(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(header: str, content: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode("latin-1") + content


def plain(vector: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, vector)
    return file.getvalue()


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"
GOOD = plain(np.arange(3, dtype="<f4"))
BAD: dict[str, Callable[[], bytes]] = {
    "empty file": lambda: b"",
    "text": lambda: b"version https://git-lfs.github.com/spec/v1\n",
    "an npy": lambda: GOOD,
    "no vector": lambda: npz({"dtype.npy": plain("float32")}),
    "a member too many": lambda: npz({"vector.npy": GOOD, "more.npy": GOOD}),
    "a path": lambda: npz({"vector.npy": GOOD, "../x": GOOD}),
    "lying header, more": lambda: npz({"vector.npy": npy(HEADER % "1000,", b"\0" * 12)}),
    "lying header, less": lambda: npz({"vector.npy": npy(HEADER % "1,", b"\0" * 12)}),
    "huge shape": lambda: npz({"vector.npy": npy(HEADER % "1000000000000,", b"\0" * 12)}),
    "overflowing shape": lambda: npz({"vector.npy": npy(HEADER % "4294967296, 4294967296,", b"")}),
    "zero times huge": lambda: npz({"vector.npy": npy(HEADER % "0, 999999999999999999999,", b"")}),
    "negative shape": lambda: npz({"vector.npy": npy(HEADER % "-1,", b"")}),
    "shape of floats": lambda: npz({"vector.npy": npy(HEADER % "1.0,", b"\0" * 4)}),
    "no such dtype": lambda: npz({"vector.npy": npy((HEADER % "1,").replace("<f4", "<q9"), b"\0" * 4)}),
    "object": lambda: npz({"vector.npy": npy((HEADER % "1,").replace("<f4", "|O"), b"\0" * 8)}),
    "no header": lambda: npz({"vector.npy": b"\x93NUMPY\1\0\xff\xff"}),
    "header is code": lambda: npz({"vector.npy": npy("__import__('os').abort()")}),
    "deep header": lambda: npz({"vector.npy": npy("[" * 5000)}),
    "version 9": lambda: npz({"vector.npy": npy(HEADER % "1,", b"\0" * 4, b"\x09\0")}),
    "pickle": lambda: npz({"vector.npy": b"\x80\x04N."}),
    "dtype says otherwise": lambda: npz({"vector.npy": GOOD, "dtype.npy": plain("float64")}),
    "dtype no text": lambda: npz({"vector.npy": GOOD, "dtype.npy": plain(3)}),
    "shape says otherwise": lambda: npz({"vector.npy": GOOD, "shape.npy": plain([4])}),
    "shape of text": lambda: npz({"vector.npy": GOOD, "shape.npy": plain(["3"])}),
    "lzma": lambda: npz({"vector.npy": GOOD}, zipfile.ZIP_LZMA),
    "truncated": lambda: render(np.arange(100, dtype="f4"))[:-40],
    "truncated in the middle": lambda: render(np.arange(100, dtype="f4"))[:300],
    "a flipped bit": lambda: flipped(render(np.arange(100, dtype="f4")), 300),
    "a flipped bit, deflated": lambda: flipped(
        npz({"vector.npy": plain(np.arange(9000))}, zipfile.ZIP_DEFLATED), 700
    ),
}


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_words(name: str) -> None:
    with pytest.raises(InvalidEmbedding, match=r"\w+ \w+"):
        parse(io.BytesIO(BAD[name]()))


def test_encrypted_and_doubled_members_are_refused() -> None:
    encrypted = bytearray(render(np.arange(3)))
    for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[encrypted.index(magic) + at] |= 1
    with pytest.raises(InvalidEmbedding, match="encrypted"):
        parse(io.BytesIO(bytes(encrypted)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("vector.npy", GOOD)
        archive.writestr("vector.npy", GOOD)
    with pytest.raises(InvalidEmbedding):
        parse(file)


@pytest.mark.parametrize("bomb", ["zeros", "lying size", "large file"])
def test_a_bomb_is_refused_before_memory_is_spent(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    huge = 400 << 20
    if bomb == "zeros":
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("vector.npy", "w") as member,
        ):
            member.write(npy(HEADER % f"{huge // 4},"))
            for _ in range(huge >> 20):
                member.write(bytes(1 << 20))
    elif bomb == "lying size":
        content = bytearray(npz({"vector.npy": npy(HEADER % f"{50_000_000},")}))
        struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, 200 << 20)
        path.write_bytes(content)
    else:
        with path.open("wb") as file:
            file.truncate(FILE_LIMIT_BYTES + 1)
    tracemalloc.start()
    try:
        with path.open("rb") as file, pytest.raises(InvalidEmbedding):
            parse(file)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_gives_the_vector_or_is_refused_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(render(np.arange(50, dtype="f4")))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = parse(io.BytesIO(bytes(content)))
    except InvalidEmbedding:
        return
    assert read.nbytes == 200, "the checksum lets no other content through; a dtype of the same size it may"
