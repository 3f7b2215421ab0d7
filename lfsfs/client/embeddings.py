"""The vectors of a store for programs that know nothing of trio: what Embeddings does, each call made and waited for."""

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING

from numpy.typing import ArrayLike

from lfsfs.embeddings.batch import Vectors
from lfsfs.embeddings.collection import Collection, CollectionStats, Found
from lfsfs.embeddings.forms import Array
from lfsfs.embeddings.pack import Codec
from lfsfs.embeddings.packing import Told
from lfsfs.embeddings.rewriting import Rewritten

if TYPE_CHECKING:
    from lfsfs.client.client import Client


class SyncCollection:
    """As Collection, each call of which it makes and waits for."""

    def __init__(self, client: "Client", collection: Collection) -> None:
        self.name = collection.name
        self._client = client
        self._collection = collection

    def write_embedding(self, content_hash: str, vector: ArrayLike, *, replace: bool = False) -> str:
        """Stores a vector; its path. Again the same one: nothing happens. Exists where there is another one."""
        return self._client.call(
            lambda _: self._collection.write_embedding(content_hash, vector, replace=replace)
        )

    def write_embeddings_batch(
        self, vectors: Vectors, *, replace: bool = False, told: Told | None = None
    ) -> list[str]:
        """Stores all of them or none; their paths, in the order given."""
        return self._client.call(
            lambda _: self._collection.write_embeddings_batch(vectors, replace=replace, told=told)
        )

    def write_npz(self, content_hash: str, file: IO[bytes], *, replace: bool = False) -> str:
        """Stores the vector of an npz file; its path."""
        return self._client.call(lambda _: self._collection.write_npz(content_hash, file, replace=replace))

    def read_embedding(self, content_hash: str) -> Array:
        """The vector. NotFound; Corrupt."""
        return self._client.call(lambda _: self._collection.read_embedding(content_hash))

    def read_embeddings_batch(self, hashes: Iterable[str]) -> Found:
        """The vectors, by what each was asked for as; with what is missing or corrupt."""
        return self._client.call(lambda _: self._collection.read_embeddings_batch(hashes))

    def matrix(self, hashes: Iterable[str] | None = None) -> tuple[list[str], Array]:
        """The content hashes, and an array with the vector of each as a row."""
        return self._client.call(lambda _: self._collection.matrix(hashes))

    def contains(self, hashes: str | Sequence[str]) -> bool | list[bool]:
        """Whether there is a vector; of several, for each."""
        return self._client.call(lambda _: self._collection.contains(hashes))

    def delete(self, hashes: str | Iterable[str]) -> int:
        """Removes vectors; how many there were."""
        return self._client.call(lambda _: self._collection.delete(hashes))

    def cleanup_orphans(self, referenced: Iterable[str], *, dry_run: bool = True) -> list[str]:
        """The content hashes that are not among those referenced; unless `dry_run`, they are removed."""
        return self._client.call(lambda _: self._collection.cleanup_orphans(referenced, dry_run=dry_run))

    def iter(self) -> Iterator[str]:
        """The content hashes, ascending."""
        after: str | None = None
        while page := self._collection.hashes(after):
            yield from page
            after = page[-1]

    __iter__ = iter

    def __len__(self) -> int:
        return self._collection.count()

    def __contains__(self, content_hash: str) -> bool:
        return self._collection.stat(content_hash) is not None

    def stats(self, *, mean: bool = True) -> CollectionStats:
        """Totals."""
        return self._client.call(lambda _: self._collection.stats(mean=mean))


class SyncEmbeddings(SyncCollection):
    """As Embeddings: all collections, and the methods of the one named `default`."""

    def __init__(self, client: "Client", collection: Collection) -> None:
        super().__init__(client, collection)

    def collection(self, name: str) -> SyncCollection:
        """The collection of that name, whether it exists yet or not."""
        return SyncCollection(self._client, self._client._store.embeddings.collection(name))

    def collections(self) -> list[str]:
        """The names of those that exist."""
        return self._client._store.embeddings.collections()

    def create(self, name: str, codec: Codec | None = None) -> SyncCollection:
        """The collection, which exists from now on."""
        return SyncCollection(
            self._client, self._client.call(lambda store: store.embeddings.create(name, codec))
        )

    def remove(self, name: str) -> int:
        """Removes a collection with all its vectors; how many there were."""
        return self._client.call(lambda store: store.embeddings.remove(name))

    def pack(self) -> Rewritten:
        """Puts into packs what lies in the index itself."""
        return self._client.call(lambda store: store.embeddings.pack())

    def vacuum(self) -> Rewritten:
        """Packs what is loose, and rewrites packs that hold much that was deleted or replaced."""
        return self._client.call(lambda store: store.embeddings.vacuum())
