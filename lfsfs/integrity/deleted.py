"""What garbage collection has written down compared with what is there: since when nothing refers to an object, and the
trash.
"""

import time
from typing import cast

from lfsfs.integrity.fault import Fault
from lfsfs.integrity.mirrors import UNREADABLE
from lfsfs.integrity.tables import Check, walk
from lfsfs.oid import Oid
from lfsfs.store import catalog, keepers, trashed
from lfsfs.store.index import Tx
from lfsfs.store.layout import Layout
from lfsfs.store.store import Store
from lfsfs.units import SECOND_NS

CLOCK_NS = 86_400 * SECOND_NS  # a clock may have been set back by so much

DELETED = ("unreferenced", trashed.TABLE)


async def check_deleted(store: Store, *, repair: bool) -> list[Fault]:
    """Rows that lead to nothing. Where one goes, gc begins its time anew: nothing is deleted sooner by that."""
    faults = await walk(store.index, "unreferenced", _check_unreferenced, repair=repair)
    return faults + await walk(store.index, trashed.TABLE, _check_trash(store.layout), repair=repair)


def _check_unreferenced(tx: Tx, key: bytes, value: bytes, fix: bool) -> list[Fault]:
    wrong = None
    if len(key) != 32 or len(value) != 8:
        wrong = "it cannot be read"
    elif int.from_bytes(value, "big") > time.time_ns() + CLOCK_NS:
        wrong = "it is of a time to come: gc would never take it"
    elif catalog.get(tx, Oid.from_bytes(key)) is None:
        wrong = "there is no such object"
    elif keepers.is_kept(tx, Oid.from_bytes(key)):
        wrong = "something refers to the object"
    if wrong is None:
        return []
    if fix:
        tx.delete("unreferenced", key)
    return [Fault("entry", f"unreferenced/{key.hex()}", wrong, fix)]


def _check_trash(layout: Layout) -> Check:
    def check(tx: Tx, key: bytes, value: bytes, fix: bool) -> list[Fault]:
        wrong = None
        try:
            row = trashed.get(tx, Oid.from_bytes(key))
        except UNREADABLE as error:
            wrong = f"it cannot be read: {error}"
        else:
            row = cast("trashed.Trashed", row)  # it is the row of this key
            file = trashed.folder(layout.trash, row.when) / row.oid
            if row.file and not row.remote and not file.exists():
                wrong = "its bytes are gone from the trash: nothing brings it back"
        if wrong is None:
            return []
        if fix:
            tx.delete(trashed.TABLE, key)
        return [Fault("place", f"{trashed.TABLE}/{key.hex()}", wrong, fix)]

    return check
