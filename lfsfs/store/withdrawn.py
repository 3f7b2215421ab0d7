"""What other machines are about to delete from the remote tier, and this one does not need.

An object that is withdrawn is absent here: it is not looked for in the remote tier, and what is committed of it anew is
uploaded when the withdrawal is over. Functions over a transaction. Layout of keys and values: docs/FORMAT.md. The
protocol: lfsfs.store.withdrawals.
"""

from collections.abc import Iterable

from lfsfs.oid import Oid
from lfsfs.store import catalog, journal, keepers, trashed
from lfsfs.store.index import Tx

TABLE = "withdrawn"
_AGREED = b"withdrawal\0"


def is_withdrawn(tx: Tx, oid: Oid) -> bool:
    key = tx.seek(TABLE, oid.to_bytes())
    return key is not None and key.startswith(oid.to_bytes())


def is_absent(tx: Tx, oid: Oid) -> bool:
    """Whether the object is not to be looked for in the remote tier: it is on its way out, by us or somebody else."""
    return is_withdrawn(tx, oid) or trashed.get(tx, oid) is not None


def is_needed(tx: Tx, oid: Oid) -> bool:
    """Whether this machine wants another one to leave the object where it is."""
    row = catalog.get(tx, oid)
    if row is not None and (row.state == "deleting" or keepers.is_kept(tx, oid)):
        return True
    return journal.get(tx, oid) is not None or trashed.get(tx, oid) is not None


def add(tx: Tx, machine: str, oids: Iterable[Oid]) -> None:
    """These are absent from now on. A commit that has looked before looks again: it may have found them there."""
    for oid in oids:
        tx.put(TABLE, oid.to_bytes() + machine.encode(), b"")
    catalog.add(tx, b"deletions", 2)


def of(tx: Tx, machine: str) -> set[Oid]:
    """What this machine withdraws, and is absent here."""
    name = machine.encode()
    return {Oid.from_bytes(key[:32]) for key, _ in tx.scan(TABLE) if key[32:] == name}


def agreed(tx: Tx) -> dict[str, int]:
    """The numbers of the withdrawals that this machine has agreed to, by machine."""
    found = tx.scan("meta", prefix=_AGREED)
    return {key[len(_AGREED) :].decode(): int.from_bytes(value, "big") for key, value in found}


def agree(tx: Tx, machine: str, number: int) -> None:
    tx.put("meta", _AGREED + machine.encode(), number.to_bytes(8, "big"))


def forget(tx: Tx, machine: str) -> None:
    """The withdrawal of this machine is over."""
    name = machine.encode()
    for key in [key for key, _ in tx.scan(TABLE) if key[32:] == name]:
        tx.delete(TABLE, key)
    tx.delete("meta", _AGREED + name)
