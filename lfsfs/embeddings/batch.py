"""Batch: the vectors of one call, checked, hashed, and each told apart from the others."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lfsfs.embeddings import rows
from lfsfs.embeddings.collecting import uncollected
from lfsfs.embeddings.forms import Array, Form, checked, form_of, raw_bytes
from lfsfs.embeddings.pack import digest_of
from lfsfs.errors import InvalidEmbedding

Vectors = Mapping[str, ArrayLike] | tuple[Sequence[str], ArrayLike]


@dataclass(frozen=True, slots=True)
class Batch:
    """Content hashes, ascending, each once; and for each its form, its bytes in C order and their digest."""

    hashes: list[bytes]
    forms: list[Form]
    raws: list[bytes | memoryview]
    digests: list[bytes]

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.raws))

    def __len__(self) -> int:
        return len(self.hashes)


@uncollected()
def prepare(vectors: Vectors) -> Batch:
    """InvalidEmbedding, InvalidOid: then nothing of the batch is written."""
    if isinstance(vectors, Mapping):
        hashes, forms, raws = _from_mapping(vectors)
    else:
        hashes, forms, raws = _from_matrix(*vectors)
    keys = [rows.hash_bytes(text) for text in hashes]
    digests = [digest_of(raw, key) for raw, key in zip(raws, _keys(forms), strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    _check_once(keys, digests, order)
    kept = [at for place, at in enumerate(order) if not place or keys[at] != keys[order[place - 1]]]
    return Batch(
        [keys[at] for at in kept], [forms[at] for at in kept], [raws[at] for at in kept],
        [digests[at] for at in kept],
    )  # fmt: skip


def _from_mapping(vectors: Mapping[str, ArrayLike]) -> tuple[list[str], list[Form], list[bytes | memoryview]]:
    known: dict[tuple[object, tuple[int, ...]], Form] = {}
    forms: list[Form] = []
    raws: list[bytes | memoryview] = []
    for content_hash, vector in vectors.items():
        try:
            form, raw = _one(vector, known)
        except InvalidEmbedding as error:
            raise InvalidEmbedding(f"{content_hash}: {error}") from error
        forms.append(form)
        raws.append(raw)
    return list(vectors), forms, raws


def _one(vector: ArrayLike, known: dict[tuple[object, tuple[int, ...]], Form]) -> tuple[Form, bytes]:
    if type(vector) is np.ndarray and vector.flags.c_contiguous:
        form = known.get((vector.dtype, vector.shape))
        if form is not None:
            return form, vector.tobytes()
    form, array = checked(vector)
    known[array.dtype, array.shape] = form
    return form, array.tobytes()


def _from_matrix(
    hashes: Sequence[str], matrix: ArrayLike
) -> tuple[list[str], list[Form], list[bytes | memoryview]]:
    _, array = checked_matrix(matrix)
    if len(array) != len(hashes):
        raise InvalidEmbedding(f"{len(hashes)} content hashes for {len(array)} vectors")
    form = form_of(array.dtype, array.shape[1:])
    raw, size = raw_bytes(array), form.nbytes
    return (
        list(hashes),
        [form] * len(array),
        [raw[at * size : (at + 1) * size] for at in range(len(array))],
    )


def checked_matrix(matrix: ArrayLike) -> tuple[Form, Array]:
    """The form of its rows, and the matrix in C order. InvalidEmbedding."""
    if isinstance(matrix, np.ma.MaskedArray):
        raise InvalidEmbedding("a masked array cannot be stored: its mask would be lost")
    array = np.asarray(matrix)
    if array.ndim == 0:
        raise InvalidEmbedding("a matrix has a row for each content hash; this is a single number")
    form = form_of(array.dtype, array.shape[1:])
    return form, array if array.flags.c_contiguous else np.array(array, order="C", copy=True)


def _keys(forms: Iterable[Form]) -> Iterable[bytes]:
    known: dict[int, bytes] = {}
    for form in forms:
        key = known.get(id(form))
        if key is None:
            key = known[id(form)] = form.key
        yield key


def _check_once(keys: list[bytes], digests: list[bytes], order: list[int]) -> None:
    """The same content hash may come twice only with the same vector."""
    for before, after in itertools.pairwise(order):
        if keys[before] == keys[after] and digests[before] != digests[after]:
            raise InvalidEmbedding(f"{keys[after].hex()} has two different vectors in one batch")
