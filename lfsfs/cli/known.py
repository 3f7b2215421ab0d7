"""Which stores this user has: those that are mounted, that LFSFS_STORE or a configuration file names, and those that
they have mounted or served before, which a file in their state directory remembers.
"""

import json
import os
from pathlib import Path

from lfsfs import config_file, mounts
from lfsfs.errors import LfsfsError
from lfsfs.store.layout import is_store

MOST = 50
"""Stores that are remembered."""


def remember(store: Path) -> None:
    """Where the file cannot be written, it is not: nothing depends on it."""
    before = _remembered()
    if before[:1] == [store]:
        return
    kept = [store, *(one for one in before if one != store)][:MOST]
    file = _file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f"{file.name}.{os.getpid()}")
        fresh.write_text(json.dumps([os.fspath(one) for one in kept]) + "\n")
        fresh.rename(file)
    except OSError:
        pass


def stores() -> list[Path]:
    """Those that are there: the mounted first."""
    named = [Path(os.environ["LFSFS_STORE"])] if os.environ.get("LFSFS_STORE") else []
    found = [
        *(entry.store for entry in mounts.lfsfs_mounts()),
        *(path for path in [*named, *_configured()] if mounts.mount_of(path) is None),
        *_remembered(),
    ]
    real = dict.fromkeys(Path(os.path.realpath(path)) for path in found)
    return [path for path in real if _is_store(path)]


def _configured() -> list[Path]:
    if not os.access(config_file.SYSTEM_FILE, os.R_OK):
        return []
    try:
        path = config_file.read_file(config_file.SYSTEM_FILE).get("store.path")
    except (LfsfsError, OSError):
        return []
    return [path] if isinstance(path, Path) else []


def _is_store(path: Path) -> bool:
    try:
        return is_store(path)
    except OSError:
        return False


def _remembered() -> list[Path]:
    try:
        said = json.loads(_file().read_text())
    except (OSError, ValueError):
        return []
    return [Path(one) for one in said if isinstance(one, str)] if isinstance(said, list) else []


def _file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "lfsfs" / "stores.json"
