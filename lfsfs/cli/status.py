"""status: a store, its mount, its totals."""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import trio

from lfsfs import mounts
from lfsfs.cli import output
from lfsfs.cli.daemons import daemon_of, started
from lfsfs.cli.stores import add_options, with_store
from lfsfs.integrity import scrub_record
from lfsfs.integrity.scrub_record import Pass, ScrubRecord
from lfsfs.store import quotas, references, trashed, verdicts
from lfsfs.store.index import Tx
from lfsfs.store.layout import is_server_name
from lfsfs.store.quotas import Quota
from lfsfs.store.remote import Remote, RemoteStatus
from lfsfs.store.store import Store, Usage
from lfsfs.store.trashed import Held
from lfsfs.units import SECOND_NS, format_age, format_size, format_time


@dataclass(frozen=True)
class Root:
    """A repository root and what it has."""

    name: str
    objects: int
    created: int
    quota: Quota | None


@dataclass(frozen=True)
class Screened:
    """The scanner, when it looks at objects, and how many wait for it."""

    scanner: str
    when: str
    waiting: int


@dataclass(frozen=True)
class Found:
    """All that status shows. `pid`, `started`: None where there is no daemon; `mountpoint`: where there is no mount."""

    store: Path
    pid: int | None
    mountpoint: Path | None
    started: int | None
    usage: Usage
    roots: list[Root]
    free: int
    remote: RemoteStatus | None
    scrub: ScrubRecord
    quota: int | None
    screened: Screened | None
    trash: Held


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    status = commands.add_parser("status", help="the store, its mount, its totals")
    add_options(status)
    status.set_defaults(run=run_status)


def run_status(arguments: argparse.Namespace) -> int:
    """Shows the state of a store."""
    found = with_store(arguments, _look, read_only=True)
    if arguments.json:
        output.as_json(_described(found))
    else:
        output.table(_rows(found))
    return output.DONE


async def _look(store: Store) -> Found:
    path = Path(os.path.realpath(store.layout.path))
    mounted = mounts.mounts_of_store(path)
    with daemon_of(path) as daemon:
        pid = daemon.pid if daemon is not None else None
        began = started(path) if daemon is not None else None
    asked = mounted if pid is None or store.remote is not None else []
    said = await trio.to_thread.run_sync(_said, asked)
    if pid is None and said:  # read-only, of a store that it may not even lock: it alone knows of itself
        pid, began = int(str(said["pid"])), int(str(said["started"]))
    space = os.statvfs(path)
    return Found(
        store=path,
        pid=pid,
        mountpoint=mounted[0].mountpoint if mounted and pid is not None else None,
        started=began,
        usage=await store.usage(),
        roots=store.index.view(_roots),
        free=space.f_bavail * space.f_frsize,
        remote=None if store.remote is None else _remote(store.remote, said),
        scrub=store.index.view(scrub_record.load),
        quota=store.policy.quota.store,
        screened=_screening(store),
        trash=store.index.view(trashed.held),
    )


def _said(mounted: list[mounts.MountEntry]) -> dict[str, object]:
    """What the mount says of itself; nothing where none answers."""
    for entry in mounted:
        if mounts.health(entry.mountpoint) == "alive":
            found = json.loads((entry.mountpoint / ".lfsfs" / "status").read_text())
            return found if isinstance(found, dict) else {}
    return {}


def _remote(remote: Remote, said: dict[str, object]) -> RemoteStatus:
    """As the daemon sees it, if there is one that answers: only it knows how the remote tier behaves."""
    known = said.get("remote")
    return RemoteStatus(**known) if isinstance(known, dict) else remote.status()


def _roots(tx: Tx) -> list[Root]:
    return [
        Root(root.name, references.count(tx, root.id), root.created, quotas.get(tx, root.id))
        for root in references.repositories(tx)
        if not is_server_name(root.name) or quotas.get(tx, root.id) is not None
    ]


def _screening(store: Store) -> Screened | None:
    if store.screening is None:
        return None
    waiting = store.index.view(lambda tx: tx.count(verdicts.UNSCANNED))
    return Screened(store.screening.scanner.name, store.screening.options.when, waiting)


def _described(found: Found) -> dict[str, object]:
    return {
        "store": str(found.store),
        "pid": found.pid,
        "mountpoint": found.mountpoint and str(found.mountpoint),
        "started": found.started and output.iso_time(found.started),
        "objects": found.usage.objects,
        "bytes": found.usage.bytes,
        "names": found.usage.names,
        "free_bytes": found.free,
        "remote": found.remote and asdict(found.remote),
        "scrub": asdict(found.scrub),
        "repositories": [
            {"name": root.name, "objects": root.objects, "created": output.iso_time(root.created)}
            | ({} if root.quota is None else {"bytes": root.quota.used, "quota": root.quota.limit})
            for root in found.roots
        ],
        "quota": found.quota,
        "scan": found.screened and asdict(found.screened),
        "trash": asdict(found.trash),
    }


def _rows(found: Found) -> list[tuple[str, str]]:
    most = "" if found.quota is None else f" of {format_size(found.quota)}"
    objects = f"{found.usage.objects} ({format_size(found.usage.bytes)}{most})"
    repositories = [f"{root.name}  {root.objects} objects{_share(root.quota)}" for root in found.roots]
    return [
        ("store", str(found.store)),
        ("mount", _mount(found)),
        ("objects", objects),
        ("names", f"{found.usage.names} in incoming/"),
        ("free", format_size(found.free)),
        *([("trash", _trash(found.trash))] if found.trash.objects or found.trash.remote else []),
        *_remote_rows(found.remote),
        *_scrub_rows(found),
        *([("scanner", _scanner(found.screened))] if found.screened is not None else []),
        ("repositories", "\n".join(map(output.safe, repositories)) or "none"),
    ]


def _trash(held: Held) -> str:
    there = f", and {held.remote} in S3" if held.remote else ""
    size = format_size(held.bytes)
    return f"{held.objects} objects ({size}){there}: `lfsfs vacuum` gives back what is old enough, --trash-time 0 all"


def _share(quota: Quota | None) -> str:
    return "" if quota is None else f", {format_size(quota.used)} of {format_size(quota.limit)}"


def _scanner(screened: Screened) -> str:
    waiting = f"; {screened.waiting} objects are to be scanned" if screened.waiting else ""
    return f"{screened.scanner}, {screened.when} an object is there{waiting}"


def _remote_rows(remote: RemoteStatus | None) -> list[tuple[str, str]]:
    if remote is None:
        return []
    condition = "degraded: it does not answer" if remote.degraded else remote.mode
    waiting = f"{remote.pending_objects} objects ({format_size(remote.pending_bytes)})"
    if remote.error:
        waiting += f"; {remote.error}"
    return [
        ("S3", f"{remote.url}, {condition}"),
        ("cache", f"{format_size(remote.cached)} of {format_size(remote.cache_limit)}"),
        ("to upload", waiting),
        *([("damaged in S3", _damaged(remote))] if remote.damaged else []),
        *([("records", remote.notice)] if remote.notice else []),
    ]


def _scrub_rows(found: Found) -> list[tuple[str, str]]:
    lines = []
    present, last = found.scrub.present, found.scrub.last
    if present is not None:
        share = 100 * present.bytes // max(1, found.usage.bytes)
        lines.append(
            f"{min(share, 100)}% of a pass that began {format_time(present.started)}{_wrong(present)}"
        )
    if last is not None:
        size = f"{last.objects} objects, {format_size(last.bytes)}"
        lines.append(f"last pass ended {format_time(last.finished)}: {size}{_wrong(last) or ', all whole'}")
    return [("scrub", "\n".join(lines))] if lines else []


def _wrong(of: Pass) -> str:
    """What it found, to be appended to a sentence; nothing where there was nothing."""
    found = (("corrupt", of.corrupt), ("missing", of.missing), ("healed", of.healed))
    return "".join(f", {count} {what}" for what, count in found if count)


def _damaged(remote: RemoteStatus) -> str:
    return f"{remote.damaged} objects: any machine that has them whole replaces them there"


def _mount(found: Found) -> str:
    if found.pid is None:
        return "not mounted"
    if found.started is None and found.mountpoint is None:
        return f"starting, daemon {found.pid}"
    where = f"{found.mountpoint or 'not mounted, but served'}, daemon {found.pid}"
    if found.started is None:
        return where
    age = format_age(time.time() - found.started / SECOND_NS)
    return f"{where}, for {age} (since {format_time(found.started)})"
