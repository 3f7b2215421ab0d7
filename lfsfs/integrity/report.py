"""What a verification found: of each object, and in all."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lfsfs.oid import Oid

Kind = Literal["whole", "healed", "corrupt", "missing", "unreachable", "gone"]
"""healed: it was damaged, or its row was, in one place, and is right again; unreachable: it is damaged here, or not here
at all, and the remote tier does not answer; gone: deleted before it was looked at.
"""
NAMED = 1_000
"""So many files and objects that the index does not know are named; all are counted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one object. `why` is for a person; empty where nothing is wrong."""

    oid: Oid
    kind: Kind
    why: str = ""


@dataclass(slots=True)
class Report:
    """What one run found. Sizes in bytes.

    `orphaned` and `unindexed` count what the index does not know: files on the local disk, objects in the remote tier;
    None where it was not looked for. `complete`: all that was to be looked at was; else a budget ended the run.
    """

    checked: int = 0
    bytes: int = 0
    vectors: int = 0
    """Rows of embeddings that were read."""
    healed: dict[str, str] = field(default_factory=dict)
    """By oid, as the next three: what was wrong."""
    corrupt: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    damaged_vectors: dict[str, str] = field(default_factory=dict)
    """By collection and content hash."""
    orphaned: int | None = None
    orphans: list[str] = field(default_factory=list)
    unindexed: int | None = None
    unindexed_oids: list[str] = field(default_factory=list)
    complete: bool = False
    resumed: bool = False
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether every object that was looked at can be read, or could be if the remote tier answered."""
        return not (self.corrupt or self.missing or self.damaged_vectors or self.unreachable)

    def take(self, verdict: Verdict) -> None:
        if verdict.kind == "gone":
            return
        self.checked += 1
        if verdict.kind != "whole":
            places: dict[str, dict[str, str]] = {
                "healed": self.healed, "corrupt": self.corrupt,
                "missing": self.missing, "unreachable": self.unreachable,
            }  # fmt: skip
            places[verdict.kind][str(verdict.oid)] = verdict.why

    def described(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)
