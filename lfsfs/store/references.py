"""References: which repository root, and which repository of the HTTP server, refers to which object.

A reference is added by a commit through the root (in the commit's own transaction), or by a lookup. The second kind
must cost the reader nothing: it counts at once, in memory, and reaches the index with the next commit or within
half a second. Drops go the same way. Until then `_recent` holds what the index does not know yet.

But an object that garbage collection may take (it has a row in `unreferenced`) is referred to in the index before the
lookup is answered. What was looked up before it had that row, is in the index when the daemon answers the next epoch;
gc waits for that. So gc, which asks the index in the transaction that marks an object, knows of every reference.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from lfsfs.errors import NotFound
from lfsfs.oid import Oid
from lfsfs.store import activity, catalog, events, quotas, unrecorded, unreferenced
from lfsfs.store.index import Index, Tx
from lfsfs.store.layout import check_any_name, is_server_name


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository root: its name below repos/ and when it was made (nanoseconds since 1970).

    Or a repository of the HTTP server: its name is its path in URLs, and begins with a slash.
    """

    id: int
    name: str
    created: int


def find_repository(tx: Tx, name: str) -> Repository | None:
    value = tx.get("repositories", name.encode())
    if value is None:
        return None
    return Repository(int.from_bytes(value[:4], "big"), name, int.from_bytes(value[4:12], "big"))


def roots(tx: Tx) -> list[Repository]:
    """The repository roots of the mount."""
    return [found for found in repositories(tx) if not is_server_name(found.name)]


def repositories(tx: Tx) -> list[Repository]:
    """The repository roots, and the repositories of the server."""
    return [
        Repository(int.from_bytes(value[:4], "big"), key.decode(), int.from_bytes(value[4:12], "big"))
        for key, value in tx.scan("repositories")
    ]


def add_repository(tx: Tx, name: str) -> Repository:
    """The repository of that name; makes it if there is none."""
    found = find_repository(tx, check_any_name(name))
    if found is not None:
        return found
    made = Repository(catalog.add(tx, b"last_repository", 1), name, time.time_ns())
    tx.put("repositories", name.encode(), made.id.to_bytes(4, "big") + made.created.to_bytes(8, "big"))
    catalog.add(tx, _counter(made.id), 0)
    quotas.begin(tx, made.id, name)
    unrecorded.mark_machine(tx)
    return made


def remove_repository(tx: Tx, repository: Repository) -> None:
    """Removes the root, every reference of it, and what was done there."""
    prefix = repository.id.to_bytes(4, "big")
    for key in [key for key, _ in tx.scan("references", prefix=prefix)]:
        _drop(tx, key)
    tx.delete("meta", _counter(repository.id))
    quotas.forget(tx, repository.id)
    tx.delete("repositories", repository.name.encode())
    activity.forget(tx, repository.name)
    unrecorded.mark_machine(tx)
    events.record(tx, events.Event("repository-removed", repository.name.encode()))


def add(tx: Tx, repository: int, oid: Oid, *, bounded: bool = True) -> None:
    """Repeating is harmless. QuotaExceeded, unless it is not to be `bounded`.

    NotFound if the repository was removed: what it referred to would be kept for ever.

    NotFound for an object that is not there, or is being deleted just now: the reference would not save it.
    """
    if not _is_there(tx, repository):
        raise NotFound("the repository was removed")
    if not is_object(tx, oid):
        raise NotFound(f"no object {oid}")
    key = _key(repository, oid)
    if tx.get("references", key) is None:
        quotas.charge(tx, repository, oid, bounded=bounded)
        catalog.add(tx, _counter(repository), 1)
        tx.put("references", key, catalog.u64(time.time_ns()))
        tx.put("references_by_oid", key[4:] + key[:4], b"")
        unrecorded.mark_oid(tx, key[4:])


def drop(tx: Tx, repository: int, oid: Oid) -> None:
    """Absent is success."""
    _drop(tx, _key(repository, oid))


def count(tx: Tx, repository: int) -> int:
    """How many objects the repository refers to."""
    if not _is_there(tx, repository):  # in an index that no process has opened for writing since lfsfs counts
        return _count(tx, repository)
    return catalog.counter(tx, _counter(repository))


def are_counted(tx: Tx) -> bool:
    """Whether every repository has its counter: an older lfsfs kept none."""
    return all(_is_there(tx, repository.id) for repository in repositories(tx))


def count_all(tx: Tx) -> None:
    """Counts the references of each repository that has no counter yet."""
    for repository in repositories(tx):
        if not _is_there(tx, repository.id):
            catalog.add(tx, _counter(repository.id), _count(tx, repository.id))


def all_oids(tx: Tx, repository: int) -> list[Oid]:
    """The objects that the repository refers to, ascending. Linear in their number."""
    prefix = repository.to_bytes(4, "big")
    return [Oid.from_bytes(key[4:]) for key, _ in tx.scan("references", prefix=prefix)]


def referrers(tx: Tx, oid: Oid) -> list[int]:
    """The ids of the repositories that refer to it."""
    return [int.from_bytes(key[32:], "big") for key, _ in tx.scan("references_by_oid", prefix=oid.to_bytes())]


def since(tx: Tx, repository: int, oid: Oid) -> int:
    """When the repository came to refer to it, nanoseconds since 1970; 0 where it does not."""
    return int.from_bytes(tx.get("references", _key(repository, oid)) or b"", "big")


def _drop(tx: Tx, key: bytes) -> None:
    if tx.delete("references", key):
        quotas.refund(tx, key[:4], Oid.from_bytes(key[4:]))
        tx.delete("references_by_oid", key[4:] + key[:4])
        unrecorded.mark_oid(tx, key[4:])
        catalog.add(tx, _counter(int.from_bytes(key[:4], "big")), -1)


def _count(tx: Tx, repository: int) -> int:
    return sum(1 for _ in tx.scan("references", prefix=repository.to_bytes(4, "big")))


def _counter(repository: int) -> bytes:
    return b"references\0" + repository.to_bytes(4, "big")


def _is_there(tx: Tx, repository: int) -> bool:
    """Whether the repository exists: its counter does as long."""
    return tx.get("meta", _counter(repository)) is not None


def _key(repository: int, oid: Oid) -> bytes:
    return repository.to_bytes(4, "big") + oid.to_bytes()


class References:
    """The references as this process sees them: the index, and what is on its way there."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._recent: dict[bytes, tuple[bool, int]] = {}  # key: (referred to or not, serial of the change)
        self._serial = 0

    def has(self, repository: int, oid: Oid) -> bool:
        key = _key(repository, oid)
        recent = self._recent.get(key)
        if recent is not None:
            return recent[0]
        return self._index.view(lambda tx: tx.get("references", key) is not None)

    def number(self, oid: Oid) -> int:
        """How many repositories refer to the object, as far as the index knows."""
        return len(self._index.view(lambda tx: referrers(tx, oid)))

    async def look_up(self, repository: int, oid: Oid) -> None:
        """A lookup of the object, which is there, adds the reference: at once where gc may take it, else soon.

        NotFound where gc has been quicker. QuotaExceeded: a repository with a quota gets its references at once, too.
        """
        if self._index.view(lambda tx: unreferenced.since(tx, oid) or quotas.get(tx, repository)) is None:
            self.add_soon(
                repository, oid
            )  # nothing is awaited in between: the next epoch is answered after it
            return
        if not await self._index.update(lambda tx: is_object(tx, oid) and _add(tx, repository, oid)):
            raise NotFound(f"no object {oid}")

    def add_soon(self, repository: int, oid: Oid) -> None:
        """Counts at once; durable within half a second. Nothing is added if object or repository are gone by then."""
        key = _key(repository, oid)
        self._change(key, True)

    def drop_soon(self, repository: int, oid: Oid) -> None:
        """Counts at once; durable within half a second. NotFound if there is no such reference."""
        if not self.has(repository, oid):
            raise NotFound(f"the repository does not refer to {oid}")
        self._change(_key(repository, oid), False)

    def directories(self, repository: int, prefix: str) -> list[str]:
        """Next two hex digits after `prefix` ("" or "aa") that lead to an object of this repository; sorted."""
        head = repository.to_bytes(4, "big")
        # What is recent comes first: what settles after this look is in the index by then.
        added, dropped = self._recent_below(head, prefix)
        found = set(self._index.view(lambda tx: list(next_digits(tx, "references", head, prefix))))
        found -= {digits for digits in dropped & found if not self.oids(repository, prefix + digits)}
        return sorted(found | added)

    def oids(self, repository: int, prefix: str) -> list[Oid]:
        """The oids that begin with `prefix` (whole bytes, as hex) that this repository refers to; sorted."""
        head = repository.to_bytes(4, "big")
        start = head + bytes.fromhex(prefix)
        with self._lock:  # before the look at the index, as above
            recent = {key: referred for key, (referred, _) in self._recent.items() if key.startswith(start)}
        found = {key for key, _ in self._index.view(lambda tx: list(tx.scan("references", prefix=start)))}
        for key, referred in recent.items():
            (found.add if referred else found.discard)(key)
        return sorted(Oid.from_bytes(key[4:]) for key in found)

    def _recent_below(self, head: bytes, prefix: str) -> tuple[set[str], set[str]]:
        """The next two digits below which references were added, and dropped, and the index may not know it yet."""
        start = head + bytes.fromhex(prefix)
        sides: tuple[set[str], set[str]] = (set(), set())
        with self._lock:
            for key, (referred, _) in self._recent.items():
                if key.startswith(start):
                    sides[0 if referred else 1].add(f"{key[len(start)]:02x}")
        return sides

    def _change(self, key: bytes, referred: bool) -> None:
        with self._lock:
            self._serial += 1
            serial = self._serial
            self._recent[key] = (referred, serial)
        repository, oid = int.from_bytes(key[:4], "big"), Oid.from_bytes(key[4:])

        def write(tx: Tx) -> None:
            if not referred:
                drop(tx, repository, oid)
            elif is_object(tx, oid) and _is_there(tx, repository):
                add(tx, repository, oid, bounded=False)  # it was promised

        def settle() -> None:
            with self._lock:
                if self._recent.get(key) == (referred, serial):
                    del self._recent[key]

        self._index.defer(write, settle)


def _add(tx: Tx, repository: int, oid: Oid) -> bool:
    add(tx, repository, oid)
    return True


def is_object(tx: Tx, oid: Oid) -> bool:
    """Whether there is one, of either kind, which is not being deleted."""
    row = tx.get("objects", oid.to_bytes())
    made = tx.get("vectors", bytes(4) + oid.to_bytes())
    return (row is not None and row[0] != catalog.DELETING) or made is not None


def next_digits(tx: Tx, table: str, head: bytes, prefix: str) -> Iterator[str]:
    """The distinct next two hex digits of the oids after head + prefix: a seek each, however many oids there are."""
    start = head + bytes.fromhex(prefix)
    at = len(start)
    number = 0
    while number < 256:
        key = tx.seek(table, start + bytes([number]))
        if key is None or not key.startswith(start) or len(key) <= at:
            return
        number = key[at]
        yield f"{number:02x}"
        number += 1
