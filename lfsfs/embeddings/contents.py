"""Contents: what the index says of one collection, told without waiting: for whoever shows it as files."""

from dataclasses import dataclass

from lfsfs.embeddings import codec, pointers, rows
from lfsfs.embeddings.forms import Form
from lfsfs.embeddings.rows import Row
from lfsfs.errors import LfsfsError
from lfsfs.store.index import Index, Tx

ROOT, SUFFIX = pointers.ROOT, pointers.SUFFIX
MATRIX, HASHES = "_matrix.npy", "_hashes.txt"
"""The files of a whole collection: its vectors as one array, and the content hash of each row."""


@dataclass(frozen=True, slots=True)
class VectorStat:
    """What the store knows of a vector. `created`: nanoseconds since 1970; `npz_size`: of its file, exactly."""

    content_hash: str
    form: Form
    created: int
    npz_size: int
    row: Row


class Forms:
    """The forms of an index, which never change once they have a number."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Form, int]] = {}

    def get(self, tx: Tx, number: int) -> Form:
        return self._entry(tx, number)[0]

    def npz_size(self, tx: Tx, number: int) -> int:
        return self._entry(tx, number)[1]

    def _entry(self, tx: Tx, number: int) -> tuple[Form, int]:
        found = self._known.get(number)
        if found is None:
            form = rows.find_form(tx, number)
            found = self._known[number] = (form, codec.npz_size(form))
        return found


class Contents:
    """Of the collection of this name, which need not exist yet. In any thread."""

    def __init__(self, index: Index, name: str, forms: Forms) -> None:
        self.name = rows.check_name(name)
        self._index = index
        self._forms = forms

    def path(self, content_hash: str) -> str:
        """Where it is below a mountpoint."""
        return f"{ROOT}/{self.name}/{content_hash}{SUFFIX}"

    def hash_of(self, text: str) -> bytes:
        """The content hash that is meant by a content hash or a path. InvalidOid."""
        return rows.hash_bytes(text.rpartition("/")[2].removesuffix(SUFFIX))

    def exists(self) -> bool:
        return self._index.view(lambda tx: rows.find_collection(tx, self.name)) is not None

    def generation(self) -> int:
        """Another number after every change; 0 before the first."""

        def look(tx: Tx) -> int:
            collection = rows.find_collection(tx, self.name)
            return 0 if collection is None else rows.generation(tx, collection)

        return self._index.view(look)

    def prefix(self) -> bytes | None:
        """What the keys of its rows begin with; None as long as there is no such collection."""
        found = self._index.view(lambda tx: rows.find_collection(tx, self.name))
        return None if found is None else found.prefix

    def changed(self) -> int:
        """When something was last written to, or deleted from, any collection; nanoseconds since 1970."""
        return self._index.view(rows.last_time)

    def count(self) -> int:
        return sum(self._index.view(self._form_counts).values())

    def forms(self) -> dict[Form, int]:
        """How many vectors there are of each form."""
        return self._index.view(
            lambda tx: {self._forms.get(tx, form): count for form, count in self._form_counts(tx).items()}
        )

    def _form_counts(self, tx: Tx) -> dict[int, int]:
        collection = rows.find_collection(tx, self.name)
        return {} if collection is None else rows.form_counts(tx, collection)

    def stat(self, content_hash: str) -> VectorStat | None:
        """None if there is no such vector."""
        try:
            key = rows.hash_bytes(content_hash)
        except LfsfsError:
            return None

        def look(tx: Tx) -> VectorStat | None:
            collection = rows.find_collection(tx, self.name)
            row = None if collection is None else rows.get(tx, collection, key)
            return None if row is None else self._stat(tx, key, row)

        return self._index.view(look)

    def stats_of(self, content_hashes: list[str]) -> dict[str, VectorStat]:
        """Those of the vectors that are there."""

        def look(tx: Tx) -> dict[str, VectorStat]:
            collection = rows.find_collection(tx, self.name)
            if collection is None:
                return {}
            keys = [collection.prefix + bytes.fromhex(text) for text in content_hashes]
            found = tx.get_many("vectors", keys)
            return {
                key[4:].hex(): self._stat(tx, key[4:], rows.decode(value)) for key, value in found.items()
            }

        return self._index.view(look)

    def page(self, after: str | None = None, limit: int = 1_000) -> list[VectorStat]:
        """The next vectors by their content hashes, ascending."""

        def look(tx: Tx) -> list[VectorStat]:
            collection = rows.find_collection(tx, self.name)
            if collection is None:
                return []
            start = b"" if after is None else bytes.fromhex(after)
            found = next(rows.pages(tx, collection, start, limit), [])
            return [self._stat(tx, key[4:], rows.decode(value)) for key, value in found]

        return self._index.view(look)

    def _stat(self, tx: Tx, key: bytes, row: Row) -> VectorStat:
        form, size = self._forms.get(tx, row.form), self._forms.npz_size(tx, row.form)
        return VectorStat(key.hex(), form, row.created, size, row)

    def waiting(self) -> int:
        """How many rows, of all collections, no pack tells of yet."""
        return self._index.view(rows.unpacked_count)

    def hashes(self, after: str | None = None) -> list[str]:
        """The next content hashes, ascending; none after the last."""

        def look(tx: Tx) -> list[str]:
            collection = rows.find_collection(tx, self.name)
            if collection is None:
                return []
            start = b"" if after is None else bytes.fromhex(after)
            return [key[4:].hex() for key, _ in next(rows.pages(tx, collection, start), [])]

        return self._index.view(look)
