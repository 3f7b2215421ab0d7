"""Unmounting: a mount that answers, one that does not any more, one whose daemon is gone.

Nothing here calls into the mount that it takes down: such a call may never return.
"""

import os
import re
import subprocess
from collections import defaultdict
from pathlib import Path

from lfsfs import mounts
from lfsfs.cli.daemons import Daemon, daemon_of, open_links
from lfsfs.errors import InUse, LfsfsError, NotFound, Refused, Unavailable
from lfsfs.mounts import MountEntry

EXIT_SECONDS = 120.0
"""What a daemon gets to settle its store after an ordinary unmount."""
COMMAND_SECONDS = 30.0
GONE_SECONDS = 5.0
CONNECTIONS = Path("/sys/fs/fuse/connections")
_SHOWN_HOLDERS = 5
_KINDS = {"cwd": "works there", "root": "has its root there", "exe": "runs from there", "map": "maps"}


def unmount(mountpoint: Path, *, force: bool) -> None:
    """Returns when the mount is gone, and its daemon too.

    A mount that is dead or does not answer is taken down by whatever means it takes. One that answers is
    left as it is while somebody uses it (InUse), unless `force`. NotFound where there is no lfsfs mount.
    """
    entry = mounts.mount_at(mountpoint)
    if entry is None:
        raise NotFound(_no_mount(mountpoint))
    with daemon_of(entry.store) as daemon:
        if not force and mounts.health(entry.mountpoint) == "alive":
            _unmount_in_peace(entry, daemon)
        else:
            _take_down(entry, daemon)


def clear_dead(mountpoint: Path) -> bool:
    """Takes away what killed daemons left at a mountpoint; whether there was anything. The living stay."""
    cleared = False
    while (entry := mounts.mount_at(mountpoint)) is not None and mounts.is_dead(entry.mountpoint):
        _detach(entry)
        cleared = True
    return cleared


def _unmount_in_peace(entry: MountEntry, daemon: Daemon | None) -> None:
    said = fusermount("-u", entry.mountpoint)
    if said:
        raise _refusal(entry, daemon, said)
    if daemon is not None and not daemon.ended(EXIT_SECONDS):
        raise Unavailable(
            f"{entry.mountpoint} is unmounted, but after {EXIT_SECONDS:.0f} s its daemon"
            f" (pid {daemon.pid}) still has the store open"
        )


def _refusal(entry: MountEntry, daemon: Daemon | None, said: str) -> LfsfsError:
    if "busy" not in said.lower():
        return Refused(f"cannot unmount {entry.mountpoint}: {said}")
    nested = mounts.mounts_below(entry.mountpoint)
    if nested:
        return InUse(f"{entry.mountpoint} is busy: {nested[0]} is mounted in it")
    holders = _holders(entry.mountpoint, daemon.pid if daemon is not None else None)
    by = "; ".join(holders[:_SHOWN_HOLDERS]) or "a process that this user cannot see"
    more = f"; and {len(holders) - _SHOWN_HOLDERS} more" if len(holders) > _SHOWN_HOLDERS else ""
    return InUse(f"{entry.mountpoint} is in use: {by}{more}; --force unmounts all the same")


def _take_down(entry: MountEntry, daemon: Daemon | None) -> None:
    if daemon is not None and not daemon.end():
        _abort(entry)
        daemon.ended(GONE_SECONDS)
    if mounts.mount_at(entry.mountpoint) == entry:
        _detach(entry)
    if daemon is not None and not daemon.ended(GONE_SECONDS):
        raise LfsfsError(
            f"{entry.mountpoint} is unmounted, but its daemon (pid {daemon.pid}) cannot be killed"
        )


def _abort(entry: MountEntry) -> None:
    """Ends the kernel's side of the connection, and with it every call that waits for the daemon."""
    switch = CONNECTIONS / str(entry.device) / "abort"
    try:
        switch.write_text("1")
    except OSError as error:
        raise LfsfsError(
            f"{entry.mountpoint}: its daemon cannot be killed, nor be cut off: {switch}: {error.strerror}"
        ) from error


def _detach(entry: MountEntry) -> None:
    said = fusermount("-uz", entry.mountpoint)
    if said and mounts.mount_at(entry.mountpoint) == entry:
        raise Refused(f"cannot unmount {entry.mountpoint}: {said}")


def fusermount(option: str, mountpoint: Path) -> str:
    """Runs fusermount3. What it complained about; empty when it is done."""
    try:
        done = subprocess.run(
            ["fusermount3", option, "--", mountpoint],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise LfsfsError(
            "fusermount3 is not installed: it is in the package fuse3 (apt-get install fuse3)"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{mountpoint}: fusermount3 did not end in {COMMAND_SECONDS:.0f} s") from error
    if done.returncode == 0:
        return ""
    return done.stderr.strip().removeprefix("fusermount3: ") or f"fusermount3 ended with {done.returncode}"


def _holders(mountpoint: Path, daemon: int | None) -> list[str]:
    """Who keeps the mount busy, in words; each process once."""
    uses: dict[int, set[str]] = defaultdict(set)
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        if pid != daemon:
            uses[pid] |= {text for kind, path in _kept(pid) if (text := _use(kind, path, mountpoint))}
    return [f"{_command(pid)} (pid {pid}) {min(found, key=len)}" for pid, found in uses.items() if found]


def _kept(pid: int) -> list[tuple[str, str]]:
    kept = list(open_links(pid))
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
    except OSError:
        return kept
    return [*kept, *(("map", path) for path in set(re.findall(r" (/[^\n]*)$", maps, re.MULTILINE)))]


def _use(kind: str, path: str, mountpoint: Path) -> str:
    place = Path(path.removesuffix(" (deleted)"))
    if place != mountpoint and mountpoint not in place.parents:
        return ""
    within = "" if place == mountpoint else f" {place.relative_to(mountpoint)}"
    if kind == "fd":
        return f"has{within or ' it'} open"
    return _KINDS[kind] + (within if kind == "map" else "")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "a process"


def _no_mount(mountpoint: Path) -> str:
    around = mounts.mount_of(mountpoint)
    if around is not None:
        return f"{mountpoint} lies in a mount: unmount {around.mountpoint}"
    places = ", ".join(str(entry.mountpoint) for entry in mounts.lfsfs_mounts())
    return f"no lfsfs mount at {mountpoint}" + (f"; there is one at {places}" if places else "")
