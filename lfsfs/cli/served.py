"""The store that is served, and how: what a command about its server or its users needs to know."""

from dataclasses import dataclass
from pathlib import Path

from lfsfs import config_file
from lfsfs.cli.stores import chosen_store, is_named
from lfsfs.config import ServerOptions
from lfsfs.config_access import AccessOptions
from lfsfs.config_file import Settings, access_of, default_file, read_file, server_of


@dataclass(frozen=True)
class Served:
    """A store, and how its configuration file has it served. What a running server was told otherwise is not here."""

    store: Path
    server: ServerOptions
    access: AccessOptions


def served(given: Path | None) -> Served:
    """The store given, of LFSFS_STORE, of /etc/lfsfs/lfsfs.toml, or of the only mount."""
    settings: Settings = {}
    if not is_named(given) and config_file.SYSTEM_FILE.is_file():
        settings = read_file(config_file.SYSTEM_FILE)
    path = settings.get("store.path")
    store = path if isinstance(path, Path) else chosen_store(given)
    file = default_file(store)
    if file is not None:
        settings = read_file(file)
    return Served(store, server_of(settings), access_of(settings))
