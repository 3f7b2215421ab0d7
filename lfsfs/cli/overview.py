"""Overview: what `lfsfs` alone says: what is mounted and served here, how that does, and what one may type next."""

import json
import os
from importlib.metadata import version
from pathlib import Path

from lfsfs import mounts
from lfsfs.alone import try_alone
from lfsfs.cli import daemons, known, machine, output
from lfsfs.mounts import MountEntry
from lfsfs.store.layout import DAEMON_LOCK
from lfsfs.units import format_size

ANSWER_SECONDS = 3.0


def show() -> int:
    """Never an error: whatever cannot be looked at is said to be so."""
    output.line(f" {version('lfsfs')}", mark="lfsfs", style="head")
    mounted = mounts.lfsfs_mounts()
    advice = _mounts(mounted)
    idle = [store for store in known.stores() if all(entry.store != store for entry in mounted)]
    advice += _stores(idle)
    failing = [finding for finding in machine.look([]) if finding.verdict == "no"]
    _head("machine")
    if failing:
        for finding in failing:
            output.line(f"{finding.name}: {finding.detail}", mark="  FAILS  ", style="bad")
        advice.insert(0, ("lfsfs doctor", "what to do about this machine"))
    else:
        output.line("has what lfsfs needs", mark="  ok     ", style="good")
    if not mounted and not idle and not failing:
        advice.append(("lfsfs mount ~/lfs-store ~/lfs", "makes a store, and mounts it"))
    if mounted:
        advice += [
            ("lfsfs attach", "in a clone: keeps its objects in the mount"),
            ("lfsfs status", "more of the store"),
        ]
    _head("next")
    output.table(
        [(f"  {command}", why) for command, why in [*dict(advice).items(), ("lfsfs --help", "all commands")]]
    )
    return output.DONE


def _head(text: str) -> None:
    output.line()
    output.line(mark=text, style="head")


def _mounts(mounted: list[MountEntry]) -> list[tuple[str, str]]:
    """Shows them; what to do about those that do not answer."""
    advice = []
    if mounted:
        _head("mounts")
    for entry in mounted:
        health = mounts.health(entry.mountpoint, ANSWER_SECONDS)
        place = f"{entry.mountpoint}: {entry.store}"
        if health == "alive":
            output.line(f"{place}{_said(entry.mountpoint)}", mark="  ok     ", style="good")
            continue
        how = "its daemon is gone" if health == "dead" else "it does not answer"
        output.line(f"{place}: {how}", mark="  FAILS  ", style="bad")
        advice.append((f"lfsfs unmount {entry.mountpoint}", "takes down what does not answer"))
    return advice


def _said(mountpoint: Path) -> str:
    """What a mount that answers says of itself, as the end of a sentence."""
    try:
        said = json.loads((mountpoint / ".lfsfs" / "status").read_text())
        text = f": {said['objects']} objects ({format_size(said['bytes'])})"
        remote = said.get("remote")
        if remote is None:
            return text
        waits = (
            f"{remote['pending_objects']} objects wait for their upload"
            if remote["pending_objects"]
            else "all is uploaded"
        )
        return f"{text}; {remote['url']}{' does not answer' if remote['degraded'] else ''}, {waits}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f": its status cannot be read ({output.told(error)})"


def _stores(idle: list[Path]) -> list[tuple[str, str]]:
    """Shows the stores that are not mounted; what to do with them."""
    advice = []
    if idle:
        _head("stores")
    for store in idle:
        addresses = daemons.addresses(store) if _is_served(store) else []
        if addresses:
            output.line(f"{store}: served at {', '.join(addresses)}", mark="  ok     ", style="good")
        else:
            output.line(f"{store}: not mounted", mark="  -      ")
            advice.append((f"lfsfs mount {store} MNT", "mounts it"))
    return advice


def _is_served(store: Path) -> bool:
    try:
        with open(os.path.join(store, DAEMON_LOCK), "rb") as lock:
            return not try_alone(lock)
    except OSError:
        return False
