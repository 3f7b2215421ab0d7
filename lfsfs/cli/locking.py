"""unlock and lock: a store whose directory the kernel encrypts."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lfsfs.cli import output
from lfsfs.cli.options import option
from lfsfs.cli.unmounted import unmounted
from lfsfs.config import parse_encryption_key
from lfsfs.errors import NotFound
from lfsfs.store import fscrypt
from lfsfs.store.layout import is_store

if TYPE_CHECKING:
    from lfsfs.tiers.encryption.masters import MasterKey


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    unlock = commands.add_parser(
        "unlock",
        help="unlock an encrypted store, or make one",
        description="Unlocks a store whose directory the kernel encrypts, with all that is in it, until `lfsfs lock` or"
        " the machine's end. Where there is no directory, or an empty one, it is made so that it is encrypted.",
    )
    unlock.add_argument("store", metavar="STORE", type=Path, help="the directory of the store")
    unlock.add_argument(
        "--key", metavar="SOURCE", type=option(parse_encryption_key), required=True,
        help="the master key: file:/PATH, env:VARIABLE, command:NAME:PROGRAM or kms:KEY",
    )  # fmt: skip
    unlock.add_argument(
        "--to", metavar="SOURCE", type=option(parse_encryption_key), help="another master key from now on"
    )
    unlock.set_defaults(run=run_unlock)
    lock = commands.add_parser(
        "lock",
        help="lock an encrypted store",
        description="Locks a store that was unlocked: without its key, nobody on the machine can read it any more.",
    )
    lock.add_argument("store", metavar="STORE", type=Path, help="the directory of the store")
    lock.set_defaults(run=run_lock)


def run_unlock(arguments: argparse.Namespace) -> int:
    """Unlocks, and makes what is not there yet."""
    from lfsfs.store import locked

    path = Path(os.path.realpath(arguments.store))
    master = _key(arguments.key)
    if path.is_dir() and locked.is_encrypted(path):
        locked.unlock(path, master)
    else:
        locked.create(path, master)
        output.line(f"{path}: whatever is written there is encrypted")
    if arguments.to is not None:
        locked.rewrap(path, master, _key(arguments.to))
    return output.DONE


def run_lock(arguments: argparse.Namespace) -> int:
    """Locks."""
    from lfsfs.store import locked

    path = Path(os.path.realpath(arguments.store))
    if not path.is_dir():
        raise NotFound(f"no store at {path}")
    if fscrypt.is_locked(path):
        return output.DONE
    if is_store(path):
        with unmounted(path, "then lock it"):
            pass
    locked.lock(path)
    return output.DONE


def _key(named: str) -> "MasterKey":
    from lfsfs.tiers.encryption.masters import master_key

    return master_key(named)
