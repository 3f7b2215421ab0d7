"""Feeds: which repository roots of the mount a repository of the server takes objects from, without moving bytes.

The two keep references of their own: `git lfs prune` in a clone drops those of its root, because it believes that the
server has the objects; so the server's must not go with them. A feed says that what the root refers to when a push
arrives has been uploaded already. It is made by whoever may write to the root, never by a request.
"""

from lfsfs.errors import NotFound
from lfsfs.oid import Oid
from lfsfs.store import references
from lfsfs.store.index import Tx


def add(tx: Tx, root: str, repository: str) -> None:
    """From now on the root feeds the server's repository, which is made if it is not there. Repeating is harmless."""
    found = references.find_repository(tx, root)
    if found is None:
        raise NotFound(f"no repository root {root!r}")
    fed = references.add_repository(tx, repository)
    tx.put("feeds", fed.id.to_bytes(4, "big") + found.id.to_bytes(4, "big"), b"")


def roots(tx: Tx, repository: int) -> list[int]:
    """The ids of the roots that feed it. Those that were removed refer to nothing."""
    prefix = repository.to_bytes(4, "big")
    return [int.from_bytes(key[4:], "big") for key, _ in tx.scan("feeds", prefix=prefix)]


def remove(tx: Tx, root: str, repository: str) -> None:
    """Absent is success."""
    found, fed = references.find_repository(tx, root), references.find_repository(tx, repository)
    if found is not None and fed is not None:
        tx.delete("feeds", fed.id.to_bytes(4, "big") + found.id.to_bytes(4, "big"))


def take(tx: Tx, repository: int, oids: list[Oid]) -> list[Oid]:
    """The server's repository refers to these from now on: to be committed before the client is told so.

    Those that are there: one may have been deleted since somebody looked.
    """
    there = [oid for oid in oids if references.is_object(tx, oid)]
    for oid in there:
        references.add(tx, repository, oid)
    return there
