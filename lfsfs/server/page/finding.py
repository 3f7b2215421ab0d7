"""Finding: objects, repositories and locked paths by what somebody typed, within what they may see."""

from dataclasses import dataclass, field

from lfsfs.errors import InvalidOid, NotFound
from lfsfs.oid import Oid
from lfsfs.server.page.facts import Seen
from lfsfs.server.page.locked import Held
from lfsfs.server.page.viewer import Viewer
from lfsfs.store import query, references, rendered, residents
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx
from lfsfs.store.query import ListQuery
from lfsfs.store.references import Repository

LIMIT = 50
TERM_LIMIT = 200
"""Characters."""
_OID_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Found:
    """What fits. `complete` False: there is more of some kind."""

    objects: list[Seen] = field(default_factory=list)
    repositories: list[Repository] = field(default_factory=list)
    locks: list[Held] = field(default_factory=list)
    complete: bool = True

    @property
    def is_empty(self) -> bool:
        return not (self.objects or self.repositories or self.locks)


@dataclass(frozen=True, slots=True)
class Details:
    """An object as its page shows it. `referred`: the readable repositories of the server that have it."""

    seen: Seen
    pinned: bool
    referred: list[Repository]


def clean(typed: str) -> str:
    """The term of a search: what a pointer file says of an oid is one, too."""
    return typed.strip().removeprefix("oid ").removeprefix("sha256:").strip()[:TERM_LIMIT]


def search(tx: Tx, viewer: Viewer, term: str, locks: list[Held]) -> Found:
    """By the beginning of an oid or of a name in incoming/, or by a part of a repository's or a locked path's name."""
    wanted = term.casefold()
    objects = _objects(tx, viewer, term)
    repositories = [one for one in viewer.readable.values() if wanted in one.name.casefold()]
    held = [one for one in locks if wanted in one.lock.path.casefold()]
    complete = max(len(objects), len(repositories), len(held)) <= LIMIT
    return Found(objects[:LIMIT], repositories[:LIMIT], held[:LIMIT], complete)


def as_oid(term: str) -> Oid | None:
    """Of a term that is a whole oid."""
    try:
        return Oid(term.lower()) if len(term) == _OID_DIGITS else None
    except InvalidOid:
        return None


def details(tx: Tx, viewer: Viewer, oid: Oid) -> Details:
    """NotFound, and in the same words, whether there is none or none for them."""
    row = rendered.find(tx, oid)
    kept = viewer.keepers(tx, oid)
    if row is None or row.state == "deleting" or not (viewer.sees_all or kept):
        raise NotFound(f"no object {oid}")
    referring = references.referrers(tx, oid)
    referred = [one for one in viewer.served() if one.id in referring]
    return Details(Seen(row, kept), viewer.sees_all and residents.is_pinned(tx, oid), referred)


def _objects(tx: Tx, viewer: Viewer, term: str) -> list[Seen]:
    """One more than LIMIT at the most."""
    if viewer.sees_all:
        matches = query.search(tx, term, LIMIT + 1)
        if not matches and term != term.lower():  # an oid that somebody wrote in capitals
            matches = query.search(tx, term.lower(), LIMIT + 1)
        return [Seen(match.stat, viewer.keepers(tx, match.stat.oid), match.matched) for match in matches]
    prefix = term.lower()
    if prefix.strip("0123456789abcdef"):
        return []
    found: dict[Oid, ObjectStat] = {}
    for repository in viewer.readable.values():
        wanted = ListQuery(prefix=prefix, repository=repository.name, limit=LIMIT + 1)
        found |= {row.oid: row for row in query.list_objects(tx, wanted).objects}
    return [Seen(found[oid], viewer.keepers(tx, oid)) for oid in sorted(found)[: LIMIT + 1]]
