"""views.json: which collections are to be seen where, so that the mount of the store brings them back after a reboot.

Written whole, under a lock, and renamed into place. What it names is mounted by whoever tracked it.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lfsfs import durable
from lfsfs.errors import StoreFormat

VIEWS_FILE = "views.json"
LOCK_FILE = "views.lock"


@dataclass(frozen=True, slots=True)
class View:
    """A collection at a mountpoint of its own. `uid`: the user whose view it is."""

    mountpoint: Path
    collection: str
    read_only: bool
    uid: int


def load(store: Path) -> list[View]:
    """In the order in which they were added. StoreFormat where the file is damaged."""
    file = store / VIEWS_FILE
    try:
        found = json.loads(file.read_bytes())
        return [
            View(Path(one["mountpoint"]), str(one["collection"]), bool(one["read_only"]), int(one["uid"]))
            for one in found
        ]
    except FileNotFoundError:
        return []
    except (ValueError, LookupError, TypeError) as error:
        raise StoreFormat(f"{file} is damaged: remove it, and track again") from error


def add(store: Path, view: View) -> None:
    """In place of another one at the same mountpoint."""
    _change(store, lambda views: [*_without(views, view.mountpoint), view])


def remove(store: Path, mountpoint: Path) -> bool:
    """Whether there was one."""
    known = [view.mountpoint for view in load(store)]
    if mountpoint in known:
        _change(store, lambda views: _without(views, mountpoint))
    return mountpoint in known


def _without(views: list[View], mountpoint: Path) -> list[View]:
    return [view for view in views if view.mountpoint != mountpoint]


def _change(store: Path, change: Callable[[list[View]], list[View]]) -> None:
    with _locked(store):
        views = change(load(store))
        fresh = store / f"{VIEWS_FILE}.new"
        with fresh.open("w") as file:
            described = [{**asdict(view), "mountpoint": os.fspath(view.mountpoint)} for view in views]
            file.write(json.dumps(described, indent=1) + "\n")
            file.flush()
            durable.fsync(file.fileno(), "fsync-views")
        durable.rename(fresh, store / VIEWS_FILE, "rename-views")
        durable.fsync_path(store, "fsync-store")


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    with (store / LOCK_FILE).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
