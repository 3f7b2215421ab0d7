"""The rows of vectors in the index: collections, what lies under which content hash, and where. Over a transaction.

A row says where its vector lies: in a pack, or loose in the index itself (pack 0) until enough has come for a pack.
Vectors that are equal lie in one place, found by their digest: two rows are the same vector if and only if they name the
same place and form. What no pack tells of yet is in the table `unpacked`. Layout of keys and values: docs/FORMAT.md.
"""

import struct
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfsfs.embeddings import leaves, place
from lfsfs.embeddings.forms import Form, read_form
from lfsfs.embeddings.pack import CODECS, Codec
from lfsfs.embeddings.place import Place
from lfsfs.errors import Corrupt, InvalidName, InvalidOid, NotFound
from lfsfs.store import catalog, events
from lfsfs.store.events import Event
from lfsfs.store.index import Tx

LOOSE = 0
"""In the place of the number of a pack: the vector lies in the index."""
HASH_LIMITS_BYTES = (4, 64)
NAME_LIMIT_BYTES = 255
PAGE = 20_000
TOLD_LIMIT = 1_000  # of more rows that change at once it is told that their collection has changed
ROW = np.dtype(
    [
        ("pack", ">u4"),
        ("offset", ">u4"),
        ("size", ">u4"),
        ("form", ">u4"),
        ("check", ">u8"),
        ("created", ">u8"),
    ]
)
_ROW = struct.Struct(">4I2Q")
_COLLECTION = struct.Struct(">IBQ")  # number, codec, created
_RECORDED, _DELETED = b"\1", b"\0"
_LAST_COLLECTION, _LAST_FORM, _LAST_TIME = b"last_collection", b"last_form", b"last_vector_time"
_LOOSE_BYTES = b"loose_bytes"


@dataclass(frozen=True, slots=True)
class CollectionRow:
    """A collection. `codec`: how its vectors lie in packs; `created` in nanoseconds since 1970."""

    number: int
    name: str
    codec: Codec
    created: int

    @property
    def prefix(self) -> bytes:
        return self.number.to_bytes(4, "big")

    @property
    def settings(self) -> dict[str, Any]:
        """What a pack says of it."""
        return {"codec": self.codec, "created": self.created}


class Row(NamedTuple):
    """Where a vector lies, and since when. `size`: as it is stored; `check`: the first 8 bytes of its digest."""

    pack: int
    offset: int
    size: int
    form: int
    check: int
    created: int

    @property
    def place(self) -> Place:
        return self.pack, self.offset, self.size, self.form

    def encode(self) -> bytes:
        return _ROW.pack(self.pack, self.offset, self.size, self.form, self.check, self.created)


def decode(value: bytes) -> Row:
    return Row(*_ROW.unpack(value))


def encode(where: bytes, digest: bytes, created: int) -> bytes:
    """The row of a vector that lies at this encoded place."""
    return where + digest[:8] + created.to_bytes(8, "big")


def has_digest(value: bytes, digest: bytes) -> bool:
    """Whether the row may be of a vector with this digest; by chance it is once in 2**64."""
    return value[16:24] == digest[:8]


def check_of(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


def table(values: Iterable[bytes]) -> NDArray[np.void]:
    """Rows as one array of ROW."""
    return np.frombuffer(b"".join(values), ROW)


# Content hashes.


def hash_bytes(text: str) -> bytes:
    """A content hash: 8 to 128 lower-case hexadecimal digits, two for each byte, of whatever function. InvalidOid."""
    least, most = HASH_LIMITS_BYTES
    try:
        found = bytes.fromhex(text)
    except (ValueError, TypeError):
        found = b""
    if not least <= len(found) <= most or found.hex() != text:
        shown = repr(text) if len(repr(text)) < 150 else repr(text)[:140] + "…"
        raise InvalidOid(
            f"not a content hash: {shown}: it is {2 * least} to {2 * most} lower-case hex digits, two a byte"
        )
    return found


def hashes_bytes(texts: Sequence[str]) -> list[bytes]:
    """As `hash_bytes`, of each; at once where all have one length. InvalidOid."""
    size = len(texts[0]) if texts and isinstance(texts[0], str) else 0
    try:
        joined = "".join(texts)
        found = bytes.fromhex(joined)
    except (ValueError, TypeError):
        return [hash_bytes(text) for text in texts]
    least, most = HASH_LIMITS_BYTES
    alike = least <= size // 2 <= most and not size % 2 and set(map(len, texts)) == {size}
    if not alike or found.hex() != joined:
        return [hash_bytes(text) for text in texts]
    return [found[at : at + size // 2] for at in range(0, len(found), size // 2)]


# Collections.


def check_name(name: str) -> str:
    """A name for embeddings/NAME: one visible path component. InvalidName."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidName("the name of a collection must be valid UTF-8") from error
    if not name or name[0] in "._" or "/" in name or size > NAME_LIMIT_BYTES or not name.isprintable():
        raise InvalidName(
            f"not the name of a collection: {name!r}: it must be 1 to {NAME_LIMIT_BYTES} bytes, printable,"
            " without '/' and not begin with '.' or '_'"
        )
    return name


def find_collection(tx: Tx, name: str) -> CollectionRow | None:
    value = tx.get("collections", name.encode())
    return None if value is None else _decode_collection(name, value)


def collections(tx: Tx) -> list[CollectionRow]:
    return [_decode_collection(key.decode(), value) for key, value in tx.scan("collections")]


def add_collection(
    tx: Tx, name: str, codec: Codec | None = None, created: int | None = None
) -> CollectionRow:
    """The collection of that name; makes it if there is none. `codec`: for what is packed from now on."""
    present = find_collection(tx, check_name(name))
    if present is not None and codec in (None, present.codec):
        return present
    if present is None:
        number = catalog.add(tx, _LAST_COLLECTION, 1)
        made = CollectionRow(number, name, codec or "raw", created or time.time_ns())
    else:
        made = CollectionRow(present.number, name, codec or present.codec, present.created)
    value = _COLLECTION.pack(made.number, CODECS.index(made.codec), made.created)
    tx.put("collections", name.encode(), value)
    touch(tx, made)
    return made


def remove_collection(tx: Tx, collection: CollectionRow) -> None:
    """The name goes; its rows must have gone before."""
    tx.delete("collections", collection.name.encode())
    events.record(tx, Event("collection-removed", collection.name.encode()))
    for key in [key for key, _ in tx.scan("meta", prefix=_form_counter(collection, None))]:
        tx.delete("meta", key)


def _decode_collection(name: str, value: bytes) -> CollectionRow:
    number, codec, created = _COLLECTION.unpack(value)
    return CollectionRow(number, name, CODECS[codec], created)


def touch(tx: Tx, collection: CollectionRow) -> None:
    """Something of the collection has changed."""
    catalog.add(tx, _generation(collection), 1)


def generation(tx: Tx, collection: CollectionRow) -> int:
    """Another number after every change."""
    return catalog.counter(tx, _generation(collection))


def form_counts(tx: Tx, collection: CollectionRow) -> dict[int, int]:
    """How many vectors of each form the collection has."""
    prefix = _form_counter(collection, None)
    counts = {
        int.from_bytes(key[len(prefix) :], "big"): int.from_bytes(value, "big")
        for key, value in tx.scan("meta", prefix=prefix)
    }
    return {form: count for form, count in counts.items() if count}


def count_forms(tx: Tx, collection: CollectionRow, forms: NDArray[Any], sign: int) -> None:
    """So many more (or fewer) vectors of these forms."""
    numbers, counts = np.unique(forms, return_counts=True)
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        catalog.add(tx, _form_counter(collection, number), sign * count)


def _generation(collection: CollectionRow) -> bytes:
    return b"vectors_generation\0" + collection.prefix


def _form_counter(collection: CollectionRow, form: int | None) -> bytes:
    return b"vectors\0" + collection.prefix + (b"" if form is None else form.to_bytes(4, "big"))


# Forms.


def form_number(tx: Tx, form: Form) -> int:
    """The number of the form; gives it one if it has none."""
    value = tx.get("vector_forms", form.key)
    if value is not None:
        return int.from_bytes(value, "big")
    number = catalog.add(tx, _LAST_FORM, 1)
    tx.put("vector_forms", form.key, number.to_bytes(4, "big"))
    tx.put("vector_forms", number.to_bytes(4, "big"), form.descriptor)
    return number


def find_form_number(tx: Tx, form: Form) -> int:
    """0 where it has none."""
    return int.from_bytes(tx.get("vector_forms", form.key) or b"", "big")


def find_form(tx: Tx, number: int) -> Form:
    """Corrupt if there is none of this number."""
    descriptor = tx.get("vector_forms", number.to_bytes(4, "big"))
    if descriptor is None:
        raise Corrupt(f"the index has no form {number} of vectors")
    return read_form(descriptor)


# Times.


def last_time(tx: Tx) -> int:
    return catalog.counter(tx, _LAST_TIME)


def advance(tx: Tx, created: int) -> None:
    """Something was written at this time: what comes later is later, whatever the clock says."""
    if created > last_time(tx):
        tx.put("meta", _LAST_TIME, catalog.u64(created))


def now(tx: Tx) -> int:
    """Nanoseconds since 1970, and later than all that was written."""
    return max(time.time_ns(), last_time(tx) + 1)


# Rows.


def get(tx: Tx, collection: CollectionRow, content_hash: bytes) -> Row | None:
    value = tx.get("vectors", collection.prefix + content_hash)
    return None if value is None else decode(value)


def put_rows(
    tx: Tx, collection: CollectionRow, new: list[tuple[bytes, bytes]], old: Mapping[bytes, bytes]
) -> None:
    """Writes rows, keys and values, ascending; `old`: those that they replace."""
    if new:
        tx.put_many("vectors", new)
        count_forms(tx, collection, table(old.values())["form"], -1)
        count_forms(tx, collection, table(value for _, value in new)["form"], 1)
        touch(tx, collection)
        tell_changed(tx, collection, old)


def tell_changed(tx: Tx, collection: CollectionRow, keys: Collection[bytes]) -> None:
    """These rows were replaced or deleted: whoever lets the kernel keep what they are as files learns of it."""
    if len(keys) > TOLD_LIMIT:
        events.record(tx, Event("collection-changed", collection.prefix))
        return
    for key in keys:
        events.record(tx, Event("vector-changed", key))


def pages(
    tx: Tx, collection: CollectionRow, after: bytes = b"", size: int = PAGE
) -> Iterator[list[tuple[bytes, bytes]]]:
    """Keys and values of the collection's rows, ascending, from the content hash after `after` on."""
    start = collection.prefix + after + b"\0" if after else b""
    yield from tx.pages("vectors", size, start=start, prefix=collection.prefix)


def columns(tx: Tx, collection: CollectionRow) -> tuple[NDArray[np.uint8], NDArray[np.void]] | None:
    """The content hashes of the collection's rows, ascending, and the rows. None: `pages` has them."""
    tree, first = tx.tree("vectors"), tx.seek("vectors", collection.prefix)
    if tree is None or first is None:
        return None
    try:
        hashes, values = leaves.columns(tree, collection.prefix, len(first), ROW.itemsize)
    except leaves.Strange:
        return None
    if len(hashes) != sum(form_counts(tx, collection).values()):
        return None
    return hashes, values.view(ROW).reshape(-1)


def need(tx: Tx, name: str) -> CollectionRow:
    """NotFound if there is no such collection."""
    found = find_collection(tx, name)
    if found is None:
        raise NotFound(f"no collection {name!r} of embeddings")
    return found


# Places.


def places(tx: Tx, digests: list[bytes]) -> dict[bytes, Place]:
    """Where the vectors with these digests lie, those that are known."""
    found = tx.get_many("vector_digests", digests)
    return {digest: place.decode(value) for digest, value in found.items()}


def places_encoded(tx: Tx, digests: list[bytes]) -> dict[bytes, bytes]:
    """As `places`, each as the row of such a vector begins."""
    found = tx.get_many("vector_digests", digests)
    return {digest: place.lengthened(value) for digest, value in found.items()}


def put_places(tx: Tx, placed: Iterable[tuple[bytes, Place]]) -> None:
    put_places_encoded(tx, {digest: place.encode(where) for digest, where in placed})


def put_places_encoded(tx: Tx, placed: dict[bytes, bytes]) -> None:
    short = place.shortened(list(placed.values()))
    tx.put_many("vector_digests", sorted(zip(placed, short, strict=True), key=itemgetter(0)))


def forget_places(tx: Tx, damaged: set[Place]) -> None:
    """What lies there is damaged: whoever writes such a vector again stores it again."""
    for digest, value in list(tx.scan("vector_digests")):
        if place.decode(value) in damaged:
            tx.delete("vector_digests", digest)


def forget_packs(tx: Tx, numbers: set[int]) -> None:
    """No vector lies in these packs any more."""
    for digest, value in list(tx.scan("vector_digests")):
        if place.decode(value)[0] in numbers:
            tx.delete("vector_digests", digest)


def drop_place(tx: Tx, digest: bytes, where: Place) -> None:
    """Forgets where it lies, unless that is elsewhere by now."""
    if places(tx, [digest]).get(digest) == where:
        tx.delete("vector_digests", digest)


# Loose vectors, and what no pack tells of yet.


def put_loose(tx: Tx, form: int, raw: bytes | memoryview) -> Place:
    last = next(tx.scan_back("loose_vectors", None), None)
    number = 1 if last is None else int.from_bytes(last[0], "big") + 1
    tx.put("loose_vectors", number.to_bytes(4, "big"), form.to_bytes(4, "big") + bytes(raw))
    catalog.add(tx, _LOOSE_BYTES, len(raw))
    return LOOSE, number, len(raw), form


def get_loose(tx: Tx, number: int) -> bytes | None:
    value = tx.get("loose_vectors", number.to_bytes(4, "big"))
    return None if value is None else value[4:]


def every_loose(tx: Tx) -> dict[int, tuple[int, bytes]]:
    """By its number: the form and the bytes of each loose vector."""
    return {
        int.from_bytes(key, "big"): (int.from_bytes(value[:4], "big"), value[4:])
        for key, value in tx.scan("loose_vectors")
    }


def drop_loose(tx: Tx, number: int) -> None:
    value = tx.get("loose_vectors", number.to_bytes(4, "big"))
    if value is not None:
        tx.delete("loose_vectors", number.to_bytes(4, "big"))
        catalog.add(tx, _LOOSE_BYTES, 4 - len(value))


def loose_bytes(tx: Tx) -> int:
    return catalog.counter(tx, _LOOSE_BYTES)


def unpacked_count(tx: Tx) -> int:
    return tx.count("unpacked")


def mark_unpacked(tx: Tx, keys: Iterable[bytes]) -> None:
    """No pack tells of these rows yet."""
    tx.put_many("unpacked", [(key, _RECORDED) for key in keys])


def mark_deleted(tx: Tx, keys: Iterable[bytes], when: int) -> None:
    """No pack tells yet that these rows are gone."""
    tx.put_many("unpacked", [(key, _DELETED + catalog.u64(when)) for key in keys])


def unpacked(tx: Tx) -> dict[bytes, int | None]:
    """Keys of rows of which no pack tells; and for those that are deleted, since when."""
    return {key: _deleted_at(value) for key, value in tx.scan("unpacked")}


def deleted_at(tx: Tx, keys: list[bytes]) -> list[int]:
    """When those of the rows were deleted of which no pack tells that they were."""
    found = (_deleted_at(value) for value in tx.get_many("unpacked", keys).values())
    return [when for when in found if when is not None]


def settle_unpacked(tx: Tx, keys: Iterable[bytes]) -> None:
    """A pack tells of them."""
    if unpacked_count(tx):
        for key in keys:
            tx.delete("unpacked", key)


def _deleted_at(value: bytes) -> int | None:
    return int.from_bytes(value[1:], "big") if value[:1] == _DELETED else None
