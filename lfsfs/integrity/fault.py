"""A fault that fsck found: what does not agree with what."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["row", "entry", "counter", "reference", "name", "missing", "bytes", "orphan", "place", "index"]
"""row: one that cannot be read; entry: of a secondary table, stray or missing; reference: to an object that is not
there, name: in incoming/, of one; missing: a row without bytes; bytes: whose size or digests are not the row's; orphan:
bytes without a row; place: where the index takes an object to be, and it is not; index: the whole of it is lost.
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """`what`: the object, name, counter or table. `repaired`: it is right now."""

    kind: Kind
    what: str
    why: str
    repaired: bool = False
