"""restart: the daemon of a store is followed by a new one, of the lfsfs that is installed now."""

import argparse
import time
from pathlib import Path

from lfsfs import mounts
from lfsfs.cli import daemons, output
from lfsfs.cli.daemons import Daemon
from lfsfs.cli.stores import chosen_store
from lfsfs.config_file import configure
from lfsfs.errors import LfsfsError, NotFound, Refused
from lfsfs.store import attachment
from lfsfs.store.layout import is_store
from lfsfs.units import SECOND_NS

LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 10.0
START_SECONDS = 120.0  # after the old daemon has ended: to open the store and to mount


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    restart = commands.add_parser(
        "restart",
        help="have a new daemon follow the one that serves, without an outage",
        description="Starts a new daemon beside the one that serves: of the lfsfs that is installed now, with the"
        " configuration as it is now. When it is ready it takes over the mount and all that is open in it, and what"
        " listens; requests wait for a moment. If it cannot, the old one serves on, and this says why.",
    )
    restart.add_argument(
        "where",
        metavar="STORE|MNT",
        nargs="?",
        type=Path,
        help="a store, or where it is mounted; default: the only one",
    )
    restart.add_argument("--config", metavar="FILE", type=Path, help="the store is the one of this file")
    restart.set_defaults(run=run_restart)


def run_restart(arguments: argparse.Namespace) -> int:
    """Restarts; returns when the new daemon serves."""
    store = _store(arguments).resolve()
    with daemons.daemon_of(store) as daemon:
        if daemon is None:
            raise NotFound(f"nothing serves {store}: `lfsfs mount` or `lfsfs serve` starts a daemon")
        if not daemons.said(store).get("restarts"):
            raise Refused(
                f"the daemon of {store} (pid {daemon.pid}) cannot be followed by another one: it is in the foreground"
                " of somebody else, or of an older lfsfs: end it, and start it anew"
            )
        asked = time.time_ns()
        daemon.asked_to_restart()
        _wait(store, daemon, asked)
    found = daemons.said(store)
    held = dict(found.get("follows") or {}).get("held")  # type: ignore[call-overload]
    how = "mounted anew" if held is None else f"requests waited for {held:.2f} s"
    output.line(f"{store} is served by a new daemon (pid {found.get('pid')}): {how}")
    return output.DONE


def _store(arguments: argparse.Namespace) -> Path:
    where: Path | None = arguments.where
    if where is None and arguments.config is not None:
        config = configure(
            arguments.config, {}, remembered=attachment.settings, foreground=True, mounting=False
        )
        return config.store
    if where is None or is_store(where):
        return chosen_store(where)
    entry = mounts.mount_at(where)
    if entry is None:
        raise NotFound(f"{where} is neither a store nor a mount of one")
    return entry.store


def _wait(store: Path, daemon: Daemon, asked: int) -> None:
    """Returns when another daemon says that it serves the store. Refused, with what it said, where it cannot."""
    told, ended = False, 0
    while True:
        found = daemons.said(store)
        if found.get("pid") not in (None, daemon.pid):
            return
        outcome = found.get("restart")
        if isinstance(outcome, dict) and int(outcome.get("at", 0)) >= asked:
            raise Refused(
                f"the daemon (pid {daemon.pid}) serves on, and nothing has changed: {outcome['failed']}"
            )
        now = time.time_ns()
        if daemon.ended(LOOK_SECONDS):
            ended = ended or now
            time.sleep(LOOK_SECONDS)
        if ended and now - ended > START_SECONDS * SECOND_NS:
            raise LfsfsError(f"the daemon has ended, and none follows: see {store / 'daemon.log'}")
        if not told and now - asked > PATIENCE_SECONDS * SECOND_NS:
            output.note("still waiting for the new daemon to be ready")
            told = True
