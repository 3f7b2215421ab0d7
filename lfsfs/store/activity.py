"""Activity: what people did through the server lately. A bounded feed for each of its repositories, for people to read.

It is no audit: the oldest go when there are too many, and pushes of many objects are one entry. Functions over a
transaction. Layout of keys and values: docs/FORMAT.md.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from lfsfs.store.catalog import u64
from lfsfs.store.index import Index, Tx

Kind = Literal["push", "lock", "unlock"]
KEPT = 200
"""Entries of one repository."""
TOGETHER_NS = 600 * 10**9
"""Pushes of one person that follow one another within this are one entry."""
_SCOPE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Activity:
    """Somebody did something. `at`: nanoseconds since 1970, of the last of it. A push has `objects` and `bytes`; a lock,
    and its end, the `path`. `owner`: whose lock it was, where somebody else ended it.
    """

    kind: Kind
    repository: str
    user: str
    at: int = 0
    objects: int = 0
    bytes: int = 0
    path: str = ""
    owner: str = ""


def pushed(index: Index, repository: str, user: str, sizes: Sequence[int]) -> None:
    """They brought objects of these sizes in."""
    record(index, Activity("push", repository, user, objects=len(sizes), bytes=sum(sizes)))


def record(index: Index, done: Activity) -> None:
    """It happened now. Costs the one who did it nothing."""
    now = replace(done, at=time.time_ns())
    index.defer(lambda tx: add(tx, now))


def add(tx: Tx, done: Activity) -> None:
    scope = _scope(done.repository)
    last = next(tx.scan_back("activity", None, scope), None)
    number = 1
    if last is not None:
        number = int.from_bytes(last[0][_SCOPE_BYTES:], "big") + 1
        before = _decode(last[1])
        if _goes_on(before, done):
            number -= 1
            done = replace(done, objects=before.objects + done.objects, bytes=before.bytes + done.bytes)
    tx.put("activity", scope + u64(number), json.dumps(asdict(done)).encode())
    tx.delete("activity", scope + u64(max(0, number - KEPT)))


def newest(tx: Tx, repository: str, limit: int) -> list[Activity]:
    """The last of what happened in the repository, newest first."""
    found: list[Activity] = []
    for _, value in tx.scan_back("activity", None, _scope(repository)):
        if len(found) == limit:
            break
        found.append(_decode(value))
    return found


def forget(tx: Tx, repository: str) -> None:
    """The repository is removed."""
    for key in [key for key, _ in tx.scan("activity", prefix=_scope(repository))]:
        tx.delete("activity", key)


def _goes_on(before: Activity, done: Activity) -> bool:
    """Whether it is more of the same push."""
    return (
        before.kind == done.kind == "push" and before.user == done.user and done.at - before.at < TOGETHER_NS
    )


def _scope(repository: str) -> bytes:
    return hashlib.blake2b(repository.encode(), digest_size=_SCOPE_BYTES).digest()


def _decode(value: bytes) -> Activity:
    return Activity(**json.loads(value))
