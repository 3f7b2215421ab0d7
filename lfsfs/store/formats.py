"""Formats: the numbers of what lies on the disk, and the way from each to the next (docs/VERSIONS.md).

Rule 1: the number grows when an older lfsfs would read a store wrongly, or harm it. Tables, keys and files that an older
one does not know and need not know are no reason: whoever opens the store makes those that are missing.
Rule 2: a step may be cut off anywhere, and begins anew then: it takes nothing away before all that replaces it is there.
Rule 3: a step knows the two formats that it lies between, and uses nothing that a later lfsfs may change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Step = Callable[[Path], None]
"""Makes of the store at this path, which nobody else has open, one of the next format. Durable on return."""


@dataclass(frozen=True)
class Formats:
    """`newest`: what a store is of when it is made. `steps`: by the format that each begins with; one for each older.

    `sealed`: that of a store whose objects may be encrypted, if that has one of its own: an lfsfs that knows no keys
    would take all of them for damaged. It becomes that with its keys, and of the newest again when they go.
    """

    newest: int
    steps: Mapping[int, Step]
    sealed: int = 0

    def reads(self, version: int) -> bool:
        """Whether this lfsfs knows what a store of that format is, or how to make it one of the newest."""
        return version <= max(self.newest, self.sealed)

    def __post_init__(self) -> None:
        if set(self.steps) != set(range(1, self.newest)):
            raise ValueError(f"the steps to format {self.newest} must be those from each format before")
