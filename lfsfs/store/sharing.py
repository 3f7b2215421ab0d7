"""Sharing: how many bytes repositories refer to, and how many of them they share. Counted in pages, a view each."""

from collections import Counter
from collections.abc import Collection, Generator
from dataclasses import dataclass, field

from lfsfs.store.growth import sizes_of
from lfsfs.store.index import Index, Tx

PAGE_ROWS = 2_000
GROUPS = 10_000
"""Sets of repositories that are told apart. There is a set for each object at worst."""
_OID_BYTES = 32


@dataclass(frozen=True, slots=True)
class Sharing:
    """The bytes that repositories (by id) refer to. `groups`: by the set of all who refer to the same objects."""

    bytes: Counter[int] = field(default_factory=Counter)
    groups: Counter[tuple[int, ...]] = field(default_factory=Counter)

    @property
    def is_exact(self) -> bool:
        """False where there were too many groups to tell what some repositories share among themselves."""
        return len(self.groups) <= GROUPS

    def add(self, repositories: tuple[int, ...], size: int) -> None:
        """An object that these, ascending, refer to."""
        for repository in repositories:
            self.bytes[repository] += size
        if repositories in self.groups or len(self.groups) <= GROUPS:
            self.groups[repositories] += size

    def saved(self, repositories: Collection[int]) -> int | None:
        """Bytes that these would take more if each had its own copy of what it refers to. None: not known."""
        if not self.is_exact:
            return None
        among = frozenset(repositories)
        return sum(
            max(0, len(among.intersection(group)) - 1) * size
            for group, size in self.groups.items()
            if len(group) > 1
        )


def count(index: Index) -> Generator[None, None, Sharing]:
    """Of all repositories; yields after each page."""
    found = Sharing()
    start = b""

    def page(tx: Tx) -> list[tuple[bytes, tuple[int, ...]]]:
        objects = _objects(tx, start)
        for (_, repositories), size in zip(objects, sizes_of(tx, [oid for oid, _ in objects]), strict=True):
            found.add(repositories, size)
        return objects

    while whole := index.view(page):
        start = whole[-1][0] + b"\xff" * 5  # behind all who refer to the last one
        yield
    return found


def _objects(tx: Tx, start: bytes) -> list[tuple[bytes, tuple[int, ...]]]:
    """Some oids, and who refers to each, all of them."""
    found: dict[bytes, list[int]] = {}
    for rows in tx.pages("references_by_oid", PAGE_ROWS, start):
        for key, _ in rows:
            oid = key[:_OID_BYTES]
            if oid not in found and len(found) == PAGE_ROWS:
                return [(oid, tuple(repositories)) for oid, repositories in found.items()]
            found.setdefault(oid, []).append(int.from_bytes(key[_OID_BYTES:], "big"))
    return [(oid, tuple(repositories)) for oid, repositories in found.items()]
