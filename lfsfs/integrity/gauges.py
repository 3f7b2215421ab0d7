"""What a store is to be watched by: gauges for Prometheus, and a line for a person.

The same of every daemon: a mount has them in .lfsfs/metrics, a server at /metrics, systemd as the unit's status.
"""

import os
from typing import NamedTuple

from lfsfs.integrity import scrub_record
from lfsfs.integrity.scrub_record import Pass
from lfsfs.store.remote import RemoteStatus
from lfsfs.store.store import Store
from lfsfs.units import SECOND_NS, format_size

PREFIX = "lfsfs_"
_ERROR_CHARACTERS = 120


class Gauge(NamedTuple):
    """A metric of Prometheus, without the prefix of its name."""

    name: str
    help: str
    value: int


async def gauges(store: Store) -> list[Gauge]:
    """How the store stands. Those of S3 are there also where there is none: 0."""
    usage = await store.usage()
    disk = os.statvfs(store.layout.path)
    scrub = store.index.view(scrub_record.load).last or Pass(0)
    return [
        Gauge("objects", "Objects in the store.", usage.objects),
        Gauge("object_bytes", "Bytes of all objects, each counted once.", usage.bytes),
        Gauge("names", "Names in incoming/.", usage.names),
        Gauge("repositories", "Repository roots.", usage.repositories),
        Gauge("disk_bytes", "Size of the disk that the store is on.", disk.f_blocks * disk.f_frsize),
        Gauge("disk_free_bytes", "Of it, free for the store.", disk.f_bavail * disk.f_frsize),
        Gauge(
            "scrub_finished_seconds", "When the last scrub ended, since 1970.", scrub.finished // SECOND_NS
        ),
        Gauge("scrub_corrupt", "Corrupt or missing objects that it found.", scrub.corrupt + scrub.missing),
        Gauge("scrub_healed", "Objects that it put right.", scrub.healed),
        *_of_s3(store.remote.status() if store.remote is not None else None),
    ]


def _of_s3(status: RemoteStatus | None) -> list[Gauge]:
    there = status is not None
    found = status or RemoteStatus("", "", False, "", 0, 0, 0, 0, 0, 0, 0, 0)
    return [
        Gauge("s3_configured", "1 where the store has a bucket.", int(there)),
        Gauge("s3_degraded", "1 while S3 does not answer.", int(found.degraded)),
        Gauge("pending_objects", "Objects that wait for their upload.", found.pending_objects),
        Gauge("pending_bytes", "Their bytes.", found.pending_bytes),
        Gauge("uploading_objects", "Objects that are being uploaded.", found.uploading),
        Gauge("failing_uploads", "Uploads whose last try failed.", found.failing),
        Gauge("cached_bytes", "Bytes on the local disk that S3 has too.", found.cached),
        Gauge("cache_limit_bytes", "The most that these may be.", found.cache_limit),
        Gauge("s3_damaged_objects", "Objects found damaged in S3, and not put right yet.", found.damaged),
    ]


def rendered(found: list[Gauge]) -> str:
    """In the text format of Prometheus."""
    return "".join(
        f"# HELP {PREFIX}{name} {what}\n# TYPE {PREFIX}{name} gauge\n{PREFIX}{name} {value}\n"
        for name, what, value in found
    )


async def line(store: Store) -> str:
    """What a person wants to know of it, in one line: what needs somebody first."""
    usage = await store.usage()
    parts = [f"{usage.objects:,} objects, {format_size(usage.bytes)}"]
    if store.remote is not None:
        status = store.remote.status()
        if status.degraded:
            parts.insert(0, f"S3 does not answer ({status.error[:_ERROR_CHARACTERS]})")
        elif status.failing:
            parts.insert(0, f"{status.failing} uploads fail ({status.error[:_ERROR_CHARACTERS]})")
        if status.damaged:
            parts.insert(0, f"{status.damaged} objects are damaged in S3")
        waiting = f"{status.pending_objects:,} uploads wait, {format_size(status.pending_bytes)}"
        parts.append(waiting if status.pending_objects else "S3 has everything")
    scrub = store.index.view(scrub_record.load).last
    if scrub is not None and scrub.corrupt + scrub.missing:
        parts.insert(0, f"{scrub.corrupt + scrub.missing} objects are corrupt or missing (lfsfs verify)")
    return "; ".join(parts)
