"""The npz file of one vector: what np.load reads, the same bytes for the same vector everywhere and for ever.

The file is a ZIP of three .npy members, `vector`, `dtype` (the dtype as text) and `shape`, stored without compression:
a compressed one would depend on the build of zlib that made it, and the oid of the file with it. Times and flags are
fixed. Nothing here depends on numpy's or zipfile's own writers, whose output has changed between versions.

Reading accepts what np.savez and np.savez_compressed write: the three members, or `vector` alone. A file is looked
through before memory is spent: names, sizes and headers must agree with one another and keep to the limits.
"""

import ast
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

import numpy as np

from lfsfs.embeddings.forms import (
    VECTOR_LIMIT_BYTES,
    Array,
    Form,
    checked,
    descr_of,
    dtype_of,
    form_of,
    raw_bytes,
)
from lfsfs.errors import InvalidEmbedding

VECTOR, DTYPE, SHAPE = "vector.npy", "dtype.npy", "shape.npy"
MEMBERS = (VECTOR, DTYPE, SHAPE)
FILE_LIMIT_BYTES = VECTOR_LIMIT_BYTES + (4 << 20)
SMALL_MEMBER_LIMIT_BYTES = 1 << 20  # of dtype and shape
HEADER_LIMIT_BYTES = 64 << 10
DEFLATE_RATIO = 1_032  # deflate cannot do better: https://zlib.net/zlib_tech.html
PIECE_BYTES = 1 << 20
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_VERSION = 20
_DATE = (1 << 5) | 1  # 1980-01-01, the first day of ZIP
_MODE = 0o100644 << 16
_UNIX = 3 << 8
_NPY_MAGIC = b"\x93NUMPY"
_NPY_ALIGN = 64


# Writing.


def npy_header(form: Form, count: int | None = None) -> bytes:
    """The header of a .npy file that holds a C-ordered array of this form, or so many of them as the rows of one array.

    Its length is a multiple of 64.
    """
    shape = form.shape if count is None else (count, *form.shape)
    text = f"{{'descr': {descr_of(form.dtype)!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    try:
        version, encoded = 1, text.encode("latin-1")
    except UnicodeEncodeError:
        version, encoded = 3, text.encode("utf-8")
    width = 2 if version == 1 and len(encoded) < 65_000 else 4
    version = version if width == 2 else max(2, version)
    head = len(_NPY_MAGIC) + 2 + width
    length = -(-(head + len(encoded) + 1) // _NPY_ALIGN) * _NPY_ALIGN - head
    return (
        _NPY_MAGIC + bytes((version, 0)) + length.to_bytes(width, "little")
        + encoded.ljust(length - 1) + b"\n"
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """What surrounds the bytes of a vector in its npz file: the same for all vectors of one form."""

    form: Form
    header: bytes
    """Of the .npy member that holds the vector."""
    others: tuple[bytes, bytes]
    """The members `dtype` and `shape`, whole."""

    @property
    def size(self) -> int:
        """The size of the file in bytes, exactly."""
        names = sum(len(name) for name in MEMBERS)
        members = len(self.header) + self.form.nbytes + sum(map(len, self.others))
        return members + len(MEMBERS) * (_LOCAL.size + _CENTRAL.size) + 2 * names + _END.size

    def render(self, raw: bytes | memoryview) -> bytes:
        """The npz file of the vector with these bytes, in C order."""
        contents: list[list[bytes | memoryview]] = [[self.header, raw], [self.others[0]], [self.others[1]]]
        parts: list[bytes | memoryview] = []
        directory, offset = [], 0
        for name, content in zip(MEMBERS, contents, strict=True):
            local, central = _entry(name, content, offset)
            parts += [local, *content]
            directory.append(central)
            offset += len(local) + sum(map(len, content))
        length = sum(map(len, directory))
        count = len(MEMBERS)
        end = _END.pack(b"PK\5\6", 0, 0, count, count, length, offset, 0)
        return b"".join([*parts, *directory, end])


@lru_cache(maxsize=1024)
def frame_of(form: Form) -> Frame:
    """Costs some 100 µs, once."""
    label = np.array(str(form.dtype)).astype("<U")
    lengths = np.array(form.shape, "<i8")
    return Frame(form, npy_header(form), (_npy(label), _npy(lengths)))


def npz_size(form: Form) -> int:
    """The size of the npz file of any vector of this form."""
    return frame_of(form).size


def render(vector: Array) -> bytes:
    """The npz file of a vector. InvalidEmbedding where it cannot be stored."""
    form, array = checked(vector)
    return frame_of(form).render(raw_bytes(array))


def _npy(array: Array) -> bytes:
    form, ordered = checked(array)
    return npy_header(form) + ordered.tobytes()


def _entry(name: str, content: list[bytes | memoryview], offset: int) -> tuple[bytes, bytes]:
    """The local header and the directory entry of a member."""
    crc, size = 0, 0
    for piece in content:
        crc = zlib.crc32(piece, crc)
        size += len(piece)
    encoded = name.encode()
    local = _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, crc, size, size, len(encoded), 0)
    central = _CENTRAL.pack(
        b"PK\1\2", _UNIX | _VERSION, _VERSION, 0, 0, 0, _DATE, crc, size, size, len(encoded), 0, 0, 0, 0,
        _MODE, offset,
    )  # fmt: skip
    return local + encoded, central + encoded


# Reading.


def parse(file: IO[bytes]) -> Array:
    """The vector of an npz file. InvalidEmbedding if the file is not one, or lies about what it holds."""
    size = file.seek(0, 2)
    if size > FILE_LIMIT_BYTES:
        raise InvalidEmbedding(f"a file of {size} bytes: an embedding's has at most {FILE_LIMIT_BYTES}")
    try:
        with zipfile.ZipFile(file) as archive:
            return _read(archive, size)
    except InvalidEmbedding:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
        raise InvalidEmbedding(f"not an npz file, or a damaged one: {error}") from error
    except (ValueError, RuntimeError, NotImplementedError, OverflowError, KeyError, IndexError) as error:
        raise InvalidEmbedding(f"not an npz file of one vector: {error}") from error


def _read(archive: zipfile.ZipFile, size: int) -> Array:
    members = {member.filename: member for member in _checked_members(archive, size)}
    vector = read_member(archive, members[VECTOR], VECTOR_LIMIT_BYTES)
    if DTYPE in members:
        _check_dtype(read_member(archive, members[DTYPE], SMALL_MEMBER_LIMIT_BYTES), vector)
    if SHAPE in members:
        _check_shape(read_member(archive, members[SHAPE], SMALL_MEMBER_LIMIT_BYTES), vector)
    return vector


def _checked_members(archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    names = [member.filename for member in members]
    if VECTOR not in names:
        raise InvalidEmbedding("an npz file without the member 'vector'")
    if len(set(names)) != len(names) or not set(names) <= set(MEMBERS):
        unknown = next((name for name in names if name not in MEMBERS), "twice the same")
        raise InvalidEmbedding(f"an npz file with more than one vector: it also holds {unknown[:80]!r}")
    if sum(member.compress_size for member in members) > size:
        raise InvalidEmbedding("an npz file whose members overlap")
    for member in members:
        check_member(member)
    return members


def check_member(member: zipfile.ZipInfo) -> None:
    """InvalidEmbedding where it cannot hold as much as it says, or in a way that is not read."""
    if member.flag_bits & 1:
        raise InvalidEmbedding("an encrypted npz file")
    if member.compress_type == zipfile.ZIP_STORED:
        possible = member.compress_size
    elif member.compress_type == zipfile.ZIP_DEFLATED:
        possible = member.compress_size * DEFLATE_RATIO
    else:
        raise InvalidEmbedding(f"an npz file with compression method {member.compress_type}")
    if member.file_size > possible:
        raise InvalidEmbedding(
            f"{member.filename}: {member.file_size} bytes are announced, at most {possible} can be there"
        )


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> Array:
    """The array of a .npy member. Memory is taken when header, size and limit agree."""
    if member.file_size > limit + HEADER_LIMIT_BYTES:
        raise InvalidEmbedding(f"{member.filename}: {member.file_size} bytes: at most {limit} are read")
    with archive.open(member) as stream:
        form, fortran, length = _read_header(stream, member.filename)
        if length + form.nbytes != member.file_size or form.nbytes > limit:
            raise InvalidEmbedding(
                f"{member.filename}: its header announces {form.nbytes} bytes,"
                f" the file {max(0, member.file_size - length)}"
            )
        array = np.empty(form.shape[::-1] if fortran else form.shape, form.dtype)
        _fill(stream, raw_bytes(array), member.filename)
        if stream.read(1):  # also makes zipfile compare the checksum
            raise InvalidEmbedding(f"{member.filename}: longer than its header says")
    return np.ascontiguousarray(array.T) if fortran and array.ndim else array


def _fill(stream: IO[bytes], target: memoryview, name: str) -> None:
    done = 0
    while done < len(target):
        piece = stream.read(min(PIECE_BYTES, len(target) - done))
        if not piece:
            raise InvalidEmbedding(f"{name}: cut short after {done} of {len(target)} bytes")
        target[done : done + len(piece)] = piece
        done += len(piece)


def _read_header(stream: IO[bytes], name: str) -> tuple[Form, bool, int]:
    """The form that a .npy header announces, whether the array is in Fortran order, and the header's length."""
    head = stream.read(8)
    if len(head) < 8 or head[:6] != _NPY_MAGIC or head[6] not in (1, 2, 3) or head[7]:
        raise InvalidEmbedding(f"{name}: not a .npy file of a known version")
    width = 2 if head[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > HEADER_LIMIT_BYTES:
        raise InvalidEmbedding(f"{name}: a header of {length} bytes")
    text = stream.read(length)
    if len(text) != length:
        raise InvalidEmbedding(f"{name}: cut short in its header")
    try:
        said = ast.literal_eval(text.decode("utf-8" if head[6] == 3 else "latin-1").strip())
        descr, fortran, shape = said["descr"], said["fortran_order"], said["shape"]
        dtype = dtype_of(descr) if not isinstance(descr, list) else np.lib.format.descr_to_dtype(descr)
    except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError) as error:
        raise InvalidEmbedding(f"{name}: its header makes no sense: {error}") from error
    if len(said) != 3 or not isinstance(fortran, bool) or not _is_shape(shape):
        raise InvalidEmbedding(f"{name}: its header makes no sense")
    return form_of(dtype, shape), fortran, 8 + width + length


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple)
        and len(shape) <= 32
        and all(type(length) is int and length >= 0 for length in shape)
        and math.prod(length for length in shape if length) <= VECTOR_LIMIT_BYTES
    )


def _check_dtype(said: Array, vector: Array) -> None:
    text = str(said) if said.ndim == 0 and said.dtype.kind == "U" else None
    if said.ndim == 0 and said.dtype.kind == "S":
        text = bytes(said[()]).decode("ascii", "replace")
    if text is None or not _means(text, vector.dtype):
        raise InvalidEmbedding(f"'dtype' says {str(said)[:80]!r}, the vector is {vector.dtype}")


def _means(text: str, dtype: "np.dtype[Any]") -> bool:
    """Whether people write this dtype so: float32, <f4, f4, or the text of a structured one."""
    if text in (str(dtype), dtype.str, dtype.name):
        return True
    try:
        return np.dtype(text) == dtype
    except (TypeError, ValueError, SyntaxError):
        return False


def _check_shape(said: Array, vector: Array) -> None:
    lengths = said.reshape(-1).tolist()
    if said.ndim > 1 or (lengths and said.dtype.kind not in "iu") or tuple(lengths) != vector.shape:
        raise InvalidEmbedding(f"'shape' says {str(said)[:80]}, the vector has {vector.shape}")
