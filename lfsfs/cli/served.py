"""The store that is served, and how: what a command about its server or its users needs to know."""

import argparse
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


def served(given: Path | None, file: Path | None = None) -> Served:
    """The store given, of LFSFS_STORE, of the configuration file, or of the only mount.

    `file` None: as a daemon of that store would choose it, or /etc/lfsfs/lfsfs.toml where no store is named.
    """
    named = file or (
        config_file.SYSTEM_FILE if not is_named(given) and config_file.SYSTEM_FILE.is_file() else None
    )
    settings: Settings = read_file(named) if named is not None else {}
    path = settings.get("store.path")
    store = path if isinstance(path, Path) and not is_named(given) else chosen_store(given)
    own = file or default_file(store)
    if own is not None and own != named:
        settings = read_file(own)
    return Served(store, server_of(settings), access_of(settings))


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """--config."""
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="default: STORE/lfsfs.toml, /etc/lfsfs/lfsfs.toml"
    )
