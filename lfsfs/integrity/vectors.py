"""Rows of embeddings: each is read as a reader would, and compared with what the row itself says of its vector."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter

import trio

from lfsfs.embeddings import codec, reading, rows
from lfsfs.embeddings.collection import again
from lfsfs.embeddings.forms import Form
from lfsfs.embeddings.pack import digests_of
from lfsfs.embeddings.reading import Bytes, Wanted
from lfsfs.errors import Corrupt
from lfsfs.integrity.pace import Pace
from lfsfs.oid import Oid
from lfsfs.store import rendered
from lfsfs.store.index import Tx
from lfsfs.store.store import Store

CHUNK_BYTES = 16 << 20  # what is read at once


@dataclass(frozen=True, slots=True)
class Damaged:
    """A row that cannot be read. `oid`: of the object that is made of it; None: it belongs to a collection."""

    name: str
    oid: Oid | None
    why: str


def page(tx: Tx, after: bytes) -> list[bytes]:
    """The keys of the next rows, ascending; empty at the end."""
    return [key for key, _ in next(tx.pages("vectors", rows.PAGE, start=after + b"\0" if after else b""), [])]


async def check_rows(store: Store, keys: list[bytes], pace: Pace) -> list[Damaged]:
    """Those of the rows that are damaged. What is deleted meanwhile is not."""
    return await again(lambda: _check(store, keys, pace))


async def _check(store: Store, keys: list[bytes], pace: Pace) -> list[Damaged]:
    groups, damaged = await trio.to_thread.run_sync(store.index.view, lambda tx: _look_up(tx, keys))
    for group_keys, wanted in groups:
        await trio.to_thread.run_sync(pace.wait)
        out = await reading.gather(store, wanted)
        pace.count(out.nbytes)
        found = await trio.to_thread.run_sync(_compared, group_keys, wanted, out)
        damaged += store.index.view(lambda tx, found=found: [_named(tx, *one) for one in found])  # type: ignore[misc]
    return damaged


def _look_up(tx: Tx, keys: list[bytes]) -> tuple[list[tuple[list[bytes], Wanted]], list[Damaged]]:
    """The rows in groups of one form, in the order in which they lie in the packs; and those that make no sense."""
    by_form: dict[int, list[tuple[bytes, bytes]]] = {}
    damaged: list[Damaged] = []
    for key, value in tx.get_many("vectors", keys).items():
        if len(value) != rows.ROW.itemsize:
            damaged.append(_named(tx, key, f"its row in the index has {len(value)} bytes"))
        else:
            by_form.setdefault(rows.decode(value).form, []).append((key, value))
    groups: list[tuple[list[bytes], Wanted]] = []
    for number, pairs in by_form.items():
        try:
            form = rows.find_form(tx, number)
        except Corrupt as error:
            damaged += [_named(tx, key, str(error)) for key, _ in pairs]
            continue
        for group in _chunks(sorted(pairs, key=itemgetter(1)), form):
            wanted = reading.look_up(tx, rows.table(value for _, value in group), form)
            groups.append(([key for key, _ in group], wanted))
    return groups, damaged


def _chunks(pairs: list[tuple[bytes, bytes]], form: Form) -> Iterator[list[tuple[bytes, bytes]]]:
    step = max(1, CHUNK_BYTES // max(1, form.nbytes))
    for start in range(0, len(pairs), step):
        yield pairs[start : start + step]


def _compared(keys: list[bytes], wanted: Wanted, out: Bytes) -> list[tuple[bytes, str]]:
    """Keys of what is damaged, and why."""
    found = [(keys[at], str(error)) for at, error in wanted.errors.items()]
    whole = [at for at in range(len(keys)) if at not in wanted.errors]
    digests = digests_of((out[at].tobytes() for at in whole), wanted.form.key)
    checks = wanted.table["check"]
    for at, digest in zip(whole, digests, strict=True):
        if rows.check_of(digest) != int(checks[at]):
            found.append((keys[at], "its row in the index leads to another vector"))
    return found + list(_not_made(keys, wanted, out, whole))


def _not_made(
    keys: list[bytes], wanted: Wanted, out: Bytes, whole: Iterable[int]
) -> Iterator[tuple[bytes, str]]:
    """Of the objects that are made of vectors, those that cannot be any more."""
    frame = codec.frame_of(wanted.form)
    for at in whole:
        key = keys[at]
        if key.startswith(rendered.PREFIX) and Oid.of(frame.render(out[at].tobytes())).to_bytes() != key[4:]:
            yield key, "it cannot be made of its vector any more"


def _named(tx: Tx, key: bytes, why: str) -> Damaged:
    if key.startswith(rendered.PREFIX):
        oid = Oid.from_bytes(key[4:])
        return Damaged(str(oid), oid, why)
    number = int.from_bytes(key[:4], "big")
    name = next((found.name for found in rows.collections(tx) if found.number == number), f"#{number}")
    return Damaged(f"{name}/{key[4:].hex()}", None, why)
