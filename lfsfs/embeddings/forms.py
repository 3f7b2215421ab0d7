"""Form: the dtype and shape of a vector. What may be stored, and how a form is written down."""

import json
import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import ArrayLike, NDArray

from lfsfs.errors import InvalidEmbedding

Array = NDArray[Any]
VECTOR_LIMIT_BYTES = 256 << 20
DESCRIPTOR_LIMIT_BYTES = 16 << 10
_PLAIN_KINDS = frozenset("biufcSUmM")  # V is looked into


@dataclass(frozen=True, slots=True)
class Form:
    """`dtype` keeps its byte order. Two forms are equal if their descriptors are."""

    dtype: "np.dtype[Any]" = field(compare=False)
    shape: tuple[int, ...] = field(compare=False)
    descriptor: bytes
    """JSON of [dtype as numpy's .npy header has it, shape]: what is stored, and what equality goes by."""

    @property
    def nbytes(self) -> int:
        return int(self.dtype.itemsize) * math.prod(self.shape)

    @property
    def key(self) -> bytes:
        """32 bytes that stand for the form: the key of the digests of its vectors."""
        return blake3(self.descriptor).digest()

    def array(self, raw: bytes | memoryview) -> Array:
        """The array of these bytes; a copy of its own, which may be written to."""
        made = np.empty(self.shape, self.dtype)
        if self.nbytes:
            made.reshape(-1).view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
        return made


def form_of(dtype: "np.dtype[Any]", shape: tuple[int, ...]) -> Form:
    """InvalidEmbedding where it is one that cannot be stored."""
    descr = descr_of(dtype)
    shape = tuple(int(length) for length in shape)
    descriptor = json.dumps([descr, shape], separators=(",", ":")).encode()
    if len(descriptor) > DESCRIPTOR_LIMIT_BYTES:
        raise InvalidEmbedding("a dtype or shape whose description is longer than 16 KiB")
    found = Form(dtype, shape, descriptor)
    if found.nbytes > VECTOR_LIMIT_BYTES:
        raise InvalidEmbedding(
            f"a vector of {found.nbytes} bytes: at most {VECTOR_LIMIT_BYTES} can be stored"
        )
    return found


def read_form(descriptor: bytes) -> Form:
    """The form that was written down so. InvalidEmbedding if it is none."""
    try:
        descr, shape = json.loads(descriptor)
        return form_of(dtype_of(descr), tuple(int(length) for length in shape))
    except InvalidEmbedding:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidEmbedding(f"not the description of a vector: {error}") from error


def descr_of(dtype: "np.dtype[Any]") -> Any:
    """The dtype as numpy's .npy header has it. InvalidEmbedding where it would not come back as it was."""
    _check(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            descr = np.lib.format.dtype_to_descr(dtype)
            returned = dtype_of(descr)
        except (UserWarning, ValueError, TypeError) as error:
            raise InvalidEmbedding(f"vectors of dtype {dtype} cannot be stored: {error}") from error
    if returned != dtype:
        raise InvalidEmbedding(f"vectors of dtype {dtype} cannot be stored: a file would lose what they are")
    return descr


def dtype_of(descr: Any) -> "np.dtype[Any]":
    """The dtype that a .npy header means. ValueError, TypeError."""
    return np.lib.format.descr_to_dtype(_as_tuples(descr))


def checked(vector: ArrayLike) -> tuple[Form, Array]:
    """The form of a vector, and its elements in C order. InvalidEmbedding."""
    if isinstance(vector, np.ma.MaskedArray):
        raise InvalidEmbedding("a masked array cannot be stored: its mask would be lost")
    try:
        array = np.asarray(vector)
    except ValueError as error:  # a list of lists of different lengths
        raise InvalidEmbedding(f"not an array: {error}") from error
    found = form_of(array.dtype, array.shape)
    return found, array if array.flags.c_contiguous else np.array(array, order="C", copy=True)


def raw_bytes(array: Array) -> memoryview:
    """The bytes of a C-ordered array."""
    if array.nbytes == 0:
        return memoryview(b"")
    return memoryview(array.reshape(-1).view(np.uint8).data)


def _check(dtype: "np.dtype[Any]") -> None:
    if dtype.hasobject or dtype.isbuiltin == 2 or dtype.itemsize == 0:
        hint = " (view it as an unsigned integer of its size)" if dtype.isbuiltin == 2 else ""
        raise InvalidEmbedding(f"vectors of dtype {dtype} cannot be stored{hint}")
    if dtype.subdtype is not None:
        _check(dtype.subdtype[0])
    elif dtype.fields is not None:
        inner = [dtype.fields[name][0] for name in dtype.names or ()]
        if sum(field.itemsize for field in inner) != dtype.itemsize:
            raise InvalidEmbedding(
                f"vectors of dtype {dtype} cannot be stored: bytes between its fields have no value"
                " (numpy.lib.recfunctions.repack_fields closes the gaps)"
            )
        for field_dtype in inner:
            _check(field_dtype)
    elif dtype.kind not in _PLAIN_KINDS and dtype.kind != "V":
        raise InvalidEmbedding(f"vectors of dtype {dtype} cannot be stored")


def _as_tuples(descr: Any) -> Any:
    """JSON has lists where numpy wants tuples: the fields of a structured dtype, and shapes within."""
    if not isinstance(descr, list):
        return descr
    return [_field(part) for part in descr]


def _field(part: Any) -> tuple[Any, ...]:
    name, inner, *shape = part
    name = tuple(name) if isinstance(name, list) else name
    return (name, _as_tuples(inner), *(tuple(lengths) for lengths in shape))
