"""Batch: the vectors of one call, checked, hashed, and each told apart from the others.

It holds no object for each vector but its hash and its digest: with 100,000 of them, making objects is what takes time.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfsfs.embeddings import rows
from lfsfs.embeddings.collecting import uncollected
from lfsfs.embeddings.forms import Array, Form, checked, form_of, raw_bytes
from lfsfs.embeddings.pack import digest_of, digests_of
from lfsfs.embeddings.strings import Cut, Strings, Whole
from lfsfs.errors import InvalidEmbedding

Vectors = Mapping[str, ArrayLike] | tuple[Sequence[str], ArrayLike]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Batch:
    """Content hashes, ascending, each once; for each its vector's bytes in C order, and their digest.

    `form` says of each which of the `forms` it has.
    """

    hashes: list[bytes]
    digests: list[bytes]
    forms: list[Form]
    form: Places
    raws: Strings

    @property
    def nbytes(self) -> int:
        return int(self.raws.sizes.sum())

    def __len__(self) -> int:
        return len(self.hashes)


@uncollected()
def prepare(vectors: Vectors) -> Batch:
    """InvalidEmbedding, InvalidOid: then nothing of the batch is written."""
    made = _from_mapping(vectors) if isinstance(vectors, Mapping) else _from_matrix(*vectors)
    order = sorted(range(len(made)), key=made.hashes.__getitem__)
    _check_once(made, order)
    kept = [
        at for place, at in enumerate(order) if not place or made.hashes[at] != made.hashes[order[place - 1]]
    ]
    chosen = np.array(kept, np.intp)
    return Batch(
        [made.hashes[at] for at in kept], [made.digests[at] for at in kept],
        made.forms, made.form[chosen], made.raws.chosen(chosen),
    )  # fmt: skip


def _from_mapping(vectors: Mapping[str, ArrayLike]) -> Batch:
    hashes = rows.hashes_bytes(list(vectors))
    known: dict[tuple[object, tuple[int, ...]], int] = {}
    forms: dict[Form, int] = {}
    numbers: list[int] = []
    raws: list[bytes] = []
    for content_hash, vector in vectors.items():
        try:
            number, raw = _one(vector, known, forms)
        except InvalidEmbedding as error:
            raise InvalidEmbedding(f"{content_hash}: {error}") from error
        numbers.append(number)
        raws.append(raw)
    keys = [form.key for form in forms]
    digests = (
        digests_of(raws, keys[0])
        if len(keys) == 1
        else [digest_of(raw, keys[number]) for raw, number in zip(raws, numbers, strict=True)]
    )
    return Batch(hashes, digests, list(forms), np.array(numbers, np.intp), Whole(raws))


def _one(
    vector: ArrayLike, known: dict[tuple[object, tuple[int, ...]], int], forms: dict[Form, int]
) -> tuple[int, bytes]:
    """The place of its form among the forms, and its bytes."""
    if type(vector) is np.ndarray and vector.flags.c_contiguous:
        number = known.get((vector.dtype, vector.shape))
        if number is not None:
            return number, vector.tobytes()
    form, array = checked(vector)
    number = known[array.dtype, array.shape] = forms.setdefault(form, len(forms))
    return number, array.tobytes()


def _from_matrix(hashes: Sequence[str], matrix: ArrayLike) -> Batch:
    form, array = checked_matrix(matrix)
    if len(array) != len(hashes):
        raise InvalidEmbedding(f"{len(hashes)} content hashes for {len(array)} vectors")
    raws = Cut(np.frombuffer(raw_bytes(array), np.uint8).reshape(len(array), form.nbytes))
    return Batch(
        rows.hashes_bytes(hashes), digests_of(raws, form.key), [form], np.zeros(len(array), np.intp), raws
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


def _check_once(made: Batch, order: list[int]) -> None:
    """The same content hash may come twice only with the same vector."""
    for before, after in itertools.pairwise(order):
        if made.hashes[before] == made.hashes[after] and made.digests[before] != made.digests[after]:
            raise InvalidEmbedding(f"{made.hashes[after].hex()} has two different vectors in one batch")
