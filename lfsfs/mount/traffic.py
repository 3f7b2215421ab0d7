"""Traffic: what went through a mount since it began, and which operations took long."""

import os
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Protocol

SLOW_SECONDS = 0.25
"""An operation that takes longer is remembered."""
REMEMBERED = 20


class Named(Protocol):
    """What a slow operation was on."""

    @property
    def what(self) -> str:
        """For a person: a path below the mountpoint, or nearly."""


@dataclass(frozen=True, slots=True)
class Slow:
    """An operation that took long. `ended`: seconds since 1970."""

    operation: str
    what: str
    seconds: float
    ended: float


@dataclass(slots=True)
class Traffic:
    """Counted where the kernel asks: what it has in its own cache it does not ask for."""

    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    written_bytes: int = 0
    opens: int = 0
    slow: deque[Slow] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def ended(self, operation: str, begun: float, on: Named, name: bytes = b"") -> None:
        """`begun`: by time.perf_counter()."""
        seconds = time.perf_counter() - begun
        if seconds > SLOW_SECONDS:
            self.slow.append(
                Slow(
                    operation,
                    f"{on.what}{'/' if name else ''}{os.fsdecode(name)}",
                    round(seconds, 3),
                    time.time(),
                )
            )

    def described(self) -> dict[str, object]:
        """As the status file has it."""
        return {
            "reads": self.reads, "read_bytes": self.read_bytes, "writes": self.writes,
            "written_bytes": self.written_bytes, "opens": self.opens, "slow": [asdict(one) for one in self.slow],
        }  # fmt: skip
