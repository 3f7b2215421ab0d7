"""Where a verification that was ended early goes on, kept in the index. Layout of key and value: docs/FORMAT.md."""

import json
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from lfsfs.store.index import Tx

Stage = Literal["objects", "vectors"]
Purpose = Literal["verify", "scrub"]


@dataclass(frozen=True, slots=True)
class Position:
    """`after`: the key of the row that was looked at last, in hexadecimal digits. `started`: nanoseconds since 1970.

    `objects`, and their `size` in bytes: what of the whole has been gone through.
    """

    stage: Stage = "objects"
    after: str = ""
    started: int = field(default_factory=time.time_ns)
    objects: int = 0
    size: int = 0

    def moved(self, after: bytes, objects: int, size: int) -> "Position":
        """After so many objects more, of so many bytes."""
        return replace(self, after=after.hex(), objects=self.objects + objects, size=self.size + size)

    @property
    def key(self) -> bytes:
        return bytes.fromhex(self.after)


def load(tx: Tx, purpose: Purpose) -> Position | None:
    """None where the last run came to its end, or there was none."""
    value = tx.get("meta", _key(purpose))
    try:
        return None if value is None else Position(**json.loads(value))
    except (ValueError, TypeError):
        return None  # of another version: it begins anew


def save(tx: Tx, purpose: Purpose, position: Position) -> None:
    tx.put("meta", _key(purpose), json.dumps(asdict(position)).encode())


def forget(tx: Tx, purpose: Purpose) -> None:
    tx.delete("meta", _key(purpose))


def _key(purpose: Purpose) -> bytes:
    return b"position\0" + purpose.encode()
