"""Quotas: how many bytes a repository may refer to. Functions over a transaction.

What counts: each object that the repository refers to, once, with all its bytes, whoever else refers to it as well. The
npz file of a vector counts nothing: it is stored no second time. The bytes are counted, in the transaction that adds or
drops a reference, for repositories with a quota only: another one has no counter, and costs one look for it. Layout of
keys and values: docs/FORMAT.md.
"""

import json
from dataclasses import dataclass

from lfsfs.config_policy import QuotaOptions
from lfsfs.errors import QuotaExceeded
from lfsfs.oid import Oid
from lfsfs.store import catalog
from lfsfs.store.index import Tx
from lfsfs.units import format_size

USED = b"reference_bytes\0"
_LIMIT = b"quota\0"
_CONFIGURED = b"quotas"


@dataclass(frozen=True, slots=True)
class Quota:
    """Bytes that a repository refers to, and may refer to."""

    used: int
    limit: int


def configure(tx: Tx, options: QuotaOptions, repositories: list[tuple[int, str]]) -> None:
    """From now on these hold, for these repositories (id, name) and for those to come. Counts what each refers to."""
    if options.repository is None and not options.repositories:
        tx.delete("meta", _CONFIGURED)
    else:
        said = {"repository": options.repository, "repositories": dict(options.repositories)}
        tx.put("meta", _CONFIGURED, json.dumps(said).encode())
    for repository, name in repositories:
        begin(tx, repository, name)


def is_configured(tx: Tx) -> bool:
    """Whether any repository may have a quota."""
    return tx.get("meta", _CONFIGURED) is not None


def begin(tx: Tx, repository: int, name: str) -> None:
    """The repository has the quota that is configured for one of its name, if there is one."""
    number = repository.to_bytes(4, "big")
    limit = _limit(tx, name)
    if limit is None:
        forget(tx, repository)
        return
    tx.put("meta", _LIMIT + number, catalog.u64(limit))
    tx.put("meta", USED + number, catalog.u64(count(tx, repository)))


def forget(tx: Tx, repository: int) -> None:
    """It has no quota any more. Absent is success."""
    tx.delete("meta", USED + repository.to_bytes(4, "big"))
    tx.delete("meta", _LIMIT + repository.to_bytes(4, "big"))


def get(tx: Tx, repository: int) -> Quota | None:
    """None where it may refer to whatever it likes."""
    number = repository.to_bytes(4, "big")
    used = tx.get("meta", USED + number)
    if used is None:
        return None
    return Quota(int.from_bytes(used, "big"), int.from_bytes(tx.get("meta", _LIMIT + number) or b"", "big"))


def charge(tx: Tx, repository: int, oid: Oid, *, bounded: bool) -> None:
    """It has come to refer to the object. QuotaExceeded where it may not, and `bounded`."""
    quota = get(tx, repository)
    if quota is None:
        return
    size = _size(tx, oid)
    if bounded:
        _check(quota, size)
    catalog.add(tx, USED + repository.to_bytes(4, "big"), size)


def refund(tx: Tx, repository: bytes, oid: Oid) -> None:
    """It does not refer to the object any more. `repository`: its id as four bytes."""
    used = tx.get("meta", USED + repository)
    if used is not None:
        tx.put("meta", USED + repository, catalog.u64(max(0, int.from_bytes(used, "big") - _size(tx, oid))))


def check(tx: Tx, repository: int, size: int) -> None:
    """QuotaExceeded where the repository may not refer to one more object, of so many bytes."""
    quota = get(tx, repository)
    if quota is not None:
        _check(quota, size)


def count(tx: Tx, repository: int) -> int:
    """The bytes that it refers to. Linear in the number of objects."""
    prefix = repository.to_bytes(4, "big")
    return sum(_size(tx, Oid.from_bytes(key[4:])) for key, _ in tx.scan("references", prefix=prefix))


def _check(quota: Quota, size: int) -> None:
    if size and quota.used + size > quota.limit:
        raise QuotaExceeded(
            f"the repository may refer to {format_size(quota.limit)}, and refers to {format_size(quota.used)}:"
            f" no room for {format_size(size)} more"
        )


def _limit(tx: Tx, name: str) -> int | None:
    value = tx.get("meta", _CONFIGURED)
    if value is None:
        return None
    said = json.loads(value)
    found = said["repositories"].get(name, said["repository"])
    return None if found is None else int(found)


def _size(tx: Tx, oid: Oid) -> int:
    row = catalog.get(tx, oid)
    return 0 if row is None else row.size
