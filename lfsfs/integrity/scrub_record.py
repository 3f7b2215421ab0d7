"""What the scrub of a store has done, kept in the index, for people to look at. Layout: docs/FORMAT.md."""

import json
from dataclasses import asdict, dataclass

from lfsfs.store.index import Tx

_KEY = b"scrub"


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the store. Times in nanoseconds since 1970, `finished` 0 as long as it is not over.

    `objects` and `bytes` have been gone through; the other numbers are of objects, `corrupt` of vectors as well.
    """

    started: int
    finished: int = 0
    objects: int = 0
    bytes: int = 0
    healed: int = 0
    corrupt: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class ScrubRecord:
    """The pass that is under way, and the last that came to its end; None where there is none."""

    present: Pass | None = None
    last: Pass | None = None


def load(tx: Tx) -> ScrubRecord:
    value = tx.get("meta", _KEY)
    try:
        said = {} if value is None else json.loads(value)
        return ScrubRecord(*(Pass(**said[name]) if said.get(name) else None for name in ("present", "last")))
    except (ValueError, TypeError, AttributeError):
        return ScrubRecord()  # of another version


def save(tx: Tx, record: ScrubRecord) -> None:
    tx.put("meta", _KEY, json.dumps(asdict(record)).encode())
