"""Keepers: what keeps an object alive, one by one. Functions over a transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lfsfs.oid import Oid
from lfsfs.store import names, packs, references, residents
from lfsfs.store.index import Tx
from lfsfs.store.layout import is_server_name

Kind = Literal["name", "root", "repository", "pack", "pin"]
_SENTENCES: dict[Kind, str] = {
    "name": "incoming/{} names it",
    "root": "repos/{} refers to it",
    "repository": "{} refers to it",
    "pack": "embeddings: it is a pack of vectors",
    "pin": "it is pinned",
}


@dataclass(frozen=True, slots=True)
class Keeper:
    """A name in incoming/ (bytes that are no UTF-8 as surrogates), a repository root, a repository of the server, or
    the table of packs or of pins, which have no name. `since`: nanoseconds since 1970, of a reference.
    """

    kind: Kind
    name: str = ""
    since: int = 0

    def __str__(self) -> str:
        return _SENTENCES[self.kind].format(self.name)


def keepers(tx: Tx, oid: Oid) -> list[Keeper]:
    """All of them; empty where `lfsfs rm` would remove the object."""
    known = {repository.id: repository.name for repository in references.repositories(tx)}
    return others(tx, oid) + referring(tx, oid, known)


def others(tx: Tx, oid: Oid) -> list[Keeper]:
    """Those that are no repositories: names, packs, pins."""
    found = [Keeper("name", name) for name in paths(tx, oid)]
    if packs.find(tx, oid) is not None:
        found.append(Keeper("pack"))
    if residents.is_pinned(tx, oid):
        found.append(Keeper("pin"))
    return found


def is_kept(tx: Tx, oid: Oid) -> bool:
    """Whether there are any. An inode that no path leads to keeps its object as well."""
    return bool(
        references.referrers(tx, oid)
        or names.numbers_of(tx, oid)
        or residents.is_pinned(tx, oid)
        or packs.find(tx, oid)
    )


def referring(tx: Tx, oid: Oid, among: Mapping[int, str]) -> list[Keeper]:
    """Those of the repositories `among` (names by id) that refer to it, by name."""
    found = sorted((among[number], number) for number in references.referrers(tx, oid) if number in among)
    return [
        Keeper("repository" if is_server_name(name) else "root", name, references.since(tx, number, oid))
        for name, number in found
    ]


def paths(tx: Tx, oid: Oid) -> list[str]:
    """The paths below incoming/ whose content the object is, sorted; bytes that are no UTF-8 as surrogates."""
    found = [path for number in names.numbers_of(tx, oid) for path in names.paths(tx, number)]
    return sorted(path.decode("utf-8", "surrogateescape") for path in found)
