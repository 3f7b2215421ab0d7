"""Listing and search: what to list, in which order, a page at a time, over the index that fits."""

import base64
import binascii
import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lfsfs.errors import InvalidConfig, NotFound
from lfsfs.oid import Oid
from lfsfs.store import catalog, names, references, rendered
from lfsfs.store.catalog import ObjectStat, u64
from lfsfs.store.index import Tx

Sort = Literal["oid", "created", "accessed", "size"]
LIMIT = 1_000
_SORT_TABLE = {"oid": "objects", "created": "by_created", "accessed": "by_accessed", "size": "by_size"}
_U64_BYTES = 8


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which objects, in which order. Sizes in bytes, both ends included; times in nanoseconds since 1970.

    `prefix`: leading hex digits of the oid. `content_type`: whole ("image/png") or a family ("image/").
    `repository`: only what that repository root refers to. `cursor`: from the page before.
    """

    prefix: str = ""
    min_size: int | None = None
    max_size: int | None = None
    since: int | None = None
    until: int | None = None
    content_type: str | None = None
    repository: str | None = None
    sort: Sort = "oid"
    descending: bool = False
    limit: int = LIMIT
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page; `cursor` leads to the next, None at the end."""

    objects: list[ObjectStat]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Match:
    """A search result: the object, and the name below incoming/ or the word by which it was found."""

    stat: ObjectStat
    matched: str


def list_objects(tx: Tx, query: ListQuery) -> Page:
    """One page of the objects that fit. An object deleted meanwhile is left out; one added may be."""
    if query.limit < 1:
        raise InvalidConfig("the limit of a listing is at least 1")
    if query.prefix.strip("0123456789abcdef"):
        raise InvalidConfig(f"not a prefix of an oid: {query.prefix!r}: lower-case hex digits")
    repository = _repository(tx, query)
    found: list[ObjectStat] = []
    last = b""
    for key in _keys(tx, query, repository):
        row = rendered.find(tx, Oid.from_bytes(key[-32:]))
        if row is not None and _fits(tx, query, repository, row):
            if len(found) == query.limit:
                return Page(found, _encode_cursor(last))
            found.append(row)
            last = key
    return Page(found, None)


def search(tx: Tx, term: str, limit: int) -> list[Match]:
    """Objects whose oid, whose name in incoming/ (its last component, regardless of case) or whose content type
    begins with `term`: in this order, each object once.
    """
    found: dict[Oid, Match] = {}
    for row, matched in _search(tx, term):
        if len(found) >= limit:
            break
        found.setdefault(row.oid, Match(row, matched))
    return list(found.values())


def find_by_prefix(tx: Tx, prefix: str) -> list[Oid]:
    """At most two oids that begin with these hex digits: enough to tell none, one or several."""
    start = bytes.fromhex(prefix[: len(prefix) // 2 * 2])
    stored = (Oid.from_bytes(key) for key, _ in tx.scan("objects", prefix=start))
    found: set[Oid] = set()
    for oids in (stored, rendered.scan(tx, start)):
        near = itertools.takewhile(lambda oid: oid.startswith(prefix) or oid < prefix, oids)
        found.update(itertools.islice((oid for oid in near if oid.startswith(prefix)), 2))
    return sorted(found)[:2]


def _search(tx: Tx, term: str) -> Iterator[tuple[ObjectStat, str]]:
    if term and not term.strip("0123456789abcdef") and len(term) <= 64:
        for oid in _oids_from(tx, term):
            row = rendered.find(tx, oid)
            if row is not None and row.state != "deleting":
                yield row, term
    wanted = names.search_key(term.encode("utf-8", "surrogateescape"))
    for key, _ in tx.scan("by_name", prefix=wanted):
        yield from _named(tx, int.from_bytes(key[-_U64_BYTES:], "big"), wanted)
    if "/" in term:
        for key, _ in tx.scan("by_type", prefix=term.encode()):
            row = catalog.get(tx, Oid.from_bytes(key[-32:]))
            if row is not None:
                yield row, row.content_type


def _oids_from(tx: Tx, prefix: str) -> Iterator[Oid]:
    start, _ = _oid_bounds(prefix)
    stored = (Oid.from_bytes(key) for key, _ in tx.scan("objects", start))
    made = (oid for oid in rendered.scan(tx, start[: len(prefix) // 2]) if not oid < prefix)
    yield from itertools.takewhile(lambda oid: oid.startswith(prefix), heapq.merge(stored, made))


def _named(tx: Tx, number: int, wanted: bytes) -> Iterator[tuple[ObjectStat, str]]:
    """Those paths of the inode whose last component is what was looked for: it may have other names too."""
    inode = names.get(tx, number)
    row = catalog.get(tx, inode.oid) if inode is not None and inode.kind == "file" else None
    if row is not None:
        for path in names.paths(tx, number):
            if names.search_key(path.rpartition(b"/")[2]).startswith(wanted):
                yield row, path.decode("utf-8", "surrogateescape")


def _repository(tx: Tx, query: ListQuery) -> int | None:
    if query.repository is None:
        return None
    found = references.find_repository(tx, query.repository)
    if found is None:
        raise NotFound(f"no repository {query.repository!r}")
    return found.id


def _keys(tx: Tx, query: ListQuery, repository: int | None) -> Iterator[bytes]:
    """Keys in the query's order, each ending in the 32 bytes of an oid, from the index that skips most."""
    cursor = _decode_cursor(query.cursor)
    table, prefix, low, high = _range(query, repository)
    if query.descending:
        before = cursor if cursor is not None else (prefix + high + b"\xff" * 33 if high else None)
        for key, _ in tx.scan_back(table, before, prefix):
            if key < prefix + low:
                return
            yield key
        return
    start = cursor + b"\0" if cursor is not None else prefix + low
    for key, _ in tx.scan(table, start=start, prefix=prefix):
        if high and key[len(prefix) :][: len(high)] > high:
            return
        yield key


def _range(query: ListQuery, repository: int | None) -> tuple[str, bytes, bytes, bytes]:
    """Table, prefix of its keys, and the bounds after the prefix (empty: none)."""
    if query.sort == "oid":
        low, high = _oid_bounds(query.prefix)
        if repository is not None:
            return "references", repository.to_bytes(4, "big"), low, high
        return "objects", b"", low, high
    if query.sort == "size":
        return "by_size", b"", _bound(query.min_size), _bound(query.max_size)
    if query.sort == "accessed":
        return "by_accessed", b"", b"", b""
    if query.content_type is not None and not query.content_type.endswith("/"):
        prefix = catalog.type_prefix(query.content_type)
        return "by_type", prefix, _bound(query.since), _bound(query.until)
    return "by_created", b"", _bound(query.since), _bound(query.until)


def _oid_bounds(prefix: str) -> tuple[bytes, bytes]:
    """What oids that begin with these hex digits begin with, at the least and at the most."""
    odd = len(prefix) % 2
    return bytes.fromhex(prefix + "0" * odd), bytes.fromhex(prefix + "f" * odd)


def _bound(number: int | None) -> bytes:
    return b"" if number is None else u64(max(0, number))


def _fits(tx: Tx, query: ListQuery, repository: int | None, row: ObjectStat) -> bool:
    return (
        row.state != "deleting"
        and row.oid.startswith(query.prefix)
        and (query.min_size is None or row.size >= query.min_size)
        and (query.max_size is None or row.size <= query.max_size)
        and (query.since is None or row.created >= query.since)
        and (query.until is None or row.created <= query.until)
        and _is_of_type(row.content_type, query.content_type)
        and (repository is None or repository in references.referrers(tx, row.oid))
    )


def _is_of_type(actual: str, wanted: str | None) -> bool:
    return wanted is None or (actual.startswith(wanted) if wanted.endswith("/") else actual == wanted)


def _encode_cursor(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _decode_cursor(cursor: str | None) -> bytes | None:
    if cursor is None:
        return None
    try:
        key = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError) as error:
        raise InvalidConfig(f"not a cursor: {cursor!r}") from error
    if not 32 <= len(key) <= 511:
        raise InvalidConfig(f"not a cursor: {cursor!r}")
    return key
