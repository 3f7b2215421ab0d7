"""What has changed since this machine last told the remote tier what it refers to. Kept in the index, in shards.

Only a store with a remote tier keeps it. A shard of references is all oids with one first byte; a shard of names is
a range of inode numbers. Functions over a transaction. Layout of keys and values: docs/FORMAT.md.
"""

import time

from lfsfs.store.index import Tx

REMOTE_KEY = b"remote"
"""In the table `meta`: the remote tier that has adopted the store."""
INODES_PER_SHARD = 4096
_PREFIX = b"unrecorded\0"
_MACHINE = _PREFIX + b"machine"
_RECONCILED = b"reconciled"
_JOINED = b"joined"


def mark_oid(tx: Tx, oid: bytes) -> None:
    """A reference to this object came or went; the first byte counts.

    Where it is the whole oid: since when nothing refers to it is to be found out anew.
    """
    tx.delete("unreferenced", oid)
    _mark(tx, reference_shard(oid[0]))


def mark_inode(tx: Tx, number: int) -> None:
    """This inode, or a name of it, changed."""
    _mark(tx, name_shard(number // INODES_PER_SHARD))


def mark_machine(tx: Tx) -> None:
    """A repository root came or went."""
    _mark(tx, _MACHINE)


def mark_everything(tx: Tx, last_inode: int) -> None:
    """Nothing is recorded yet."""
    mark_machine(tx)
    for first in range(256):
        if any(
            _begins(tx, table, first)
            for table in ("references_by_oid", "names_by_oid", "pins", "packs_by_oid")
        ):
            _mark(tx, reference_shard(first))
    for number in range(0, last_inode + 1, INODES_PER_SHARD):
        mark_inode(tx, number)


def is_reconciled(tx: Tx) -> bool:
    """Whether what this machine had recorded in the remote tier has been read since the index was made."""
    return tx.get("meta", _RECONCILED) is not None


def mark_reconciled(tx: Tx) -> None:
    tx.put("meta", _RECONCILED, b"1")


def has_joined(tx: Tx) -> bool:
    """Whether this machine is known in the remote tier, and knew what others withdrew before it looked for objects."""
    joined = tx.get("meta", _JOINED)
    return joined is not None and joined == tx.get("meta", REMOTE_KEY)


def mark_joined(tx: Tx) -> None:
    tx.put("meta", _JOINED, tx.get("meta", REMOTE_KEY) or b"")


def reference_shard(first: int) -> bytes:
    return _PREFIX + b"references\0" + bytes([first])


def name_shard(number: int) -> bytes:
    return _PREFIX + b"names\0" + number.to_bytes(8, "big")


def shards(tx: Tx) -> list[tuple[bytes, bytes]]:
    """Each changed shard, and when it changed: what `settle` wants to know."""
    return list(tx.scan("meta", prefix=_PREFIX))


def settle(tx: Tx, shard: bytes, changed: bytes) -> None:
    """The remote tier has it as it was then; a later change stays marked."""
    if tx.get("meta", shard) == changed:
        tx.delete("meta", shard)


def kind(shard: bytes) -> tuple[str, int]:
    """("references", first byte), ("names", number of the range) or ("machine", 0)."""
    text, _, rest = shard[len(_PREFIX) :].partition(b"\0")
    return text.decode(), int.from_bytes(rest, "big")


def _begins(tx: Tx, table: str, first: int) -> bool:
    key = tx.seek(table, bytes([first]))
    return key is not None and key[0] == first


def _mark(tx: Tx, shard: bytes) -> None:
    if tx.get("meta", REMOTE_KEY) is not None:
        tx.put("meta", shard, time.time_ns().to_bytes(8, "big"))
