"""Fsck: the index compared with itself and with the tiers; with `repair`, brought to agree with them."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lfsfs import steps
from lfsfs.integrity.counters import check_counters
from lfsfs.integrity.dangling import DANGLING, check_dangling
from lfsfs.integrity.deleted import DELETED, check_deleted
from lfsfs.integrity.fault import Fault
from lfsfs.integrity.places import Places
from lfsfs.integrity.tables import COMPARED, check_tables
from lfsfs.store import catalog
from lfsfs.store.store import Store
from lfsfs.tiers.local import LocalTier


@dataclass(slots=True)
class Findings:
    """What was found. `unindexed`: objects of the remote tier that this machine has not met: no fault either."""

    faults: list[Fault] = field(default_factory=list)
    objects: int = 0
    corrupt: int = 0
    """Objects that are marked so: no fault of the index."""
    unindexed: int | None = None

    @property
    def left(self) -> list[Fault]:
        """What is not right, still."""
        return [fault for fault in self.faults if not fault.repaired]

    def described(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self) | {"sound": not self.left}


async def check(store: Store, *, repair: bool) -> Findings:
    """Looks at all of the store, but reads no object that seems right: that is for `lfsfs verify`.

    With `repair` nobody else may have the store open. What repairs itself from what is whole does so; an object that has
    no whole copy is marked corrupt; names in incoming/ of objects that are lost stay.
    """
    await store.index.flush()
    findings = Findings(objects=store.index.view(lambda tx: catalog.totals(tx)[0]))
    tables = [*COMPARED, *DANGLING, *DELETED]
    steps.begin("index", store.index.view(lambda tx: sum(map(tx.count, tables))), "rows")
    findings.faults += await check_tables(store.index, repair=repair)
    findings.faults += await check_dangling(store, repair=repair)
    findings.faults += await check_deleted(store, repair=repair)
    if isinstance(store.tier, LocalTier):
        steps.begin("objects", findings.objects)
        places = Places(store, store.tier, repair=repair)
        findings.faults += await places.check()
        findings.unindexed, findings.corrupt = places.unindexed, places.corrupt
    steps.begin("counters")
    findings.faults += await check_counters(store.index, repair=repair)
    return findings
