"""Sample: what a mount says of itself at a moment, and what went on between two of them."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfsfs.errors import LfsfsError, Unavailable


@dataclass(frozen=True, slots=True)
class Sample:
    """`at`: of time.monotonic(). `said`: .lfsfs/status, as mount/mount.py writes it."""

    at: float
    said: dict[str, Any]

    @property
    def counters(self) -> dict[str, int]:
        """What only grows while the daemon lives, by name."""
        traffic = self.said["traffic"]
        moved = (self.said.get("remote") or {}).get("moved") or {}
        names = ("reads", "read_bytes", "writes", "written_bytes", "opens")
        return {name: int(traffic[name]) for name in names} | {
            name: int(value) for name, value in moved.items()
        }


def take(mountpoint: Path) -> Sample:
    """Asks the mount. Unavailable where it does not say."""
    try:
        said = json.loads((mountpoint / ".lfsfs" / "status").read_text())
    except (OSError, ValueError) as error:
        raise Unavailable(f"{mountpoint} does not answer ({error}): `lfsfs unmount` takes it down") from error
    if "traffic" not in said:
        raise LfsfsError(f"{mountpoint} is served by an older lfsfs that does not count: mount it again")
    return Sample(time.monotonic(), said)


def rates(before: Sample, now: Sample) -> dict[str, float]:
    """Of each counter, a second. Nothing is known across a restart of the daemon: then all are 0."""
    seconds = now.at - before.at
    if seconds <= 0 or before.said["pid"] != now.said["pid"] or before.said["started"] != now.said["started"]:
        return dict.fromkeys(now.counters, 0.0)
    earlier = before.counters
    return {name: max(0, value - earlier.get(name, 0)) / seconds for name, value in now.counters.items()}
