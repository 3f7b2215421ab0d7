"""serve: the Git LFS server of a store, without a mount. And the options that `mount` shares with it."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lfsfs import mounts
from lfsfs.cli import background, daemons, output
from lfsfs.cli.options import (
    LIMIT_SETTINGS,
    REMOTE_SETTINGS,
    STORE_SETTINGS,
    add_limit_options,
    add_remote_options,
    add_scrub_option,
    add_store_key_option,
    option,
)
from lfsfs.cli.stores import add_quiet
from lfsfs.config import (
    Config,
    Durability,
    choices,
    parse_endpoint,
    parse_listen,
)
from lfsfs.config_file import configure
from lfsfs.errors import InUse, LfsfsError, NotFound, Refused
from lfsfs.store import attachment
from lfsfs.store.layout import open_layout

if TYPE_CHECKING:
    from lfsfs.succession import Predecessor, Program

SERVER_SETTINGS = {
    "listen": "server.listen",
    "url": "server.url",
    "tls_certificate": "server.tls_certificate",
    "tls_key": "server.tls_key",
}
_SETTINGS = (
    {
        "store": "store.path",
        "durability": "store.durability",
        "scrub_rate": "scrub.rate",
    }
    | STORE_SETTINGS
    | REMOTE_SETTINGS
    | SERVER_SETTINGS
    | LIMIT_SETTINGS
)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """--listen and what belongs to it."""
    parser.add_argument(
        "--listen", metavar="ADDRESS", type=option(parse_listen), action="append",
        help="serve the Git LFS API at HOST:PORT or unix:/PATH (several: give it again)",
    )  # fmt: skip
    parser.add_argument(
        "--url",
        metavar="URL",
        type=option(parse_endpoint),
        help="the server as clients reach it, behind a proxy",
    )
    parser.add_argument(
        "--tls-certificate", metavar="FILE", type=_absolute, help="PEM: TCP listeners speak TLS"
    )
    parser.add_argument("--tls-key", metavar="FILE", type=_absolute, help="PEM: the certificate's key")


def given_settings(arguments: argparse.Namespace, names: dict[str, str]) -> dict[str, object]:
    """What was given on the command line, by the keys of the configuration file."""
    given = {key: value for name, key in names.items() if (value := getattr(arguments, name)) is not None}
    if "server.listen" in given:
        given["server.listen"] = tuple(given["server.listen"])
    return given


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser(
        "serve",
        help="serve the Git LFS API, without a mount",
        description="Serves the Git LFS API of a store; makes the store where there is none. Returns when the server"
        " listens. `lfsfs mount --listen` serves beside a mount.",
    )
    serve.add_argument("store", metavar="STORE", nargs="?", type=Path, help="the directory of the store")
    serve.add_argument(
        "-f", "--foreground", action="store_true", help="serve in the foreground, log to stderr"
    )
    serve.add_argument(
        "--config", metavar="FILE", type=Path, help="default: STORE/lfsfs.toml, /etc/lfsfs/lfsfs.toml"
    )
    add_server_options(serve)
    serve.add_argument("--durability", choices=choices(Durability), help="whether commits survive power loss")
    add_store_key_option(serve)
    add_remote_options(serve)
    add_scrub_option(serve)
    add_limit_options(serve)
    serve.add_argument("--stop", action="store_true", help="end the server of STORE, when transfers are done")
    add_quiet(serve)
    background.add_hidden_options(serve)
    serve.set_defaults(run=run_serve)


def run_serve(arguments: argparse.Namespace) -> int:
    """Serves: here, or in a daemon of its own."""
    if arguments.predecessor_fd is not None:
        from lfsfs.cli import following  # as in mounting.py

        return following.follow(arguments, lambda: _config(arguments), _serve)
    if arguments.ready_fd is not None:
        return _serve_for(background.Parent(arguments.ready_fd), arguments)
    config = _config(arguments)
    if arguments.stop:
        return _stop(config)
    if config.foreground:
        return _serve(config, background.Parent(None), background.program(arguments))
    open_layout(config.store, create=True)
    background.start("serve", arguments.arguments[1:], config.store)
    daemons.tell_away(config.store)
    output.line(f"{config.store} is served at {', '.join(daemons.addresses(config.store))}")
    return output.DONE


def _stop(config: Config) -> int:
    """Ends the server, and returns when it has ended. Refused where the store is mounted: that is unmount's to end."""
    if any(entry.store == config.store for entry in mounts.lfsfs_mounts()):
        raise Refused(f"{config.store} is mounted: `lfsfs unmount` ends its server too")
    with daemons.daemon_of(config.store) as daemon:
        if daemon is None:
            raise NotFound(f"nothing serves {config.store}")
        if not daemon.asked_to_end(config.server.shutdown_timeout + daemons.SETTLE_SECONDS):
            raise InUse(f"the server (pid {daemon.pid}) has been asked to end, and has not yet")
    return output.DONE


def _serve_for(parent: background.Parent, arguments: argparse.Namespace) -> int:
    """Serves, and lets the one who waits know how that went."""
    try:
        config, program = _config(arguments), background.program(arguments)
        os.chdir("/")  # a daemon keeps nobody's directory busy
        return _serve(config, parent, program)
    except (LfsfsError, OSError) as error:
        parent.failed(error)
        raise


def _serve(
    config: Config,
    parent: background.Parent,
    program: "Program | None",
    predecessor: "Predecessor | None" = None,
) -> int:
    from lfsfs.daemon import HANDED_ON, run  # as in mounting.py: only a daemon needs what it brings

    status = run(config, parent.ready, program, predecessor, parent.opening)
    return output.DONE if status == HANDED_ON else status


def _config(arguments: argparse.Namespace) -> Config:
    config = configure(
        arguments.config,
        given_settings(arguments, _SETTINGS),
        remembered=attachment.settings,
        foreground=arguments.foreground,
        mounting=False,
    )
    return replace(
        config,
        store=Path(os.path.realpath(config.store)),
        temp=config.temp and Path(os.path.realpath(config.temp)),
    )


def _absolute(text: str) -> Path:
    return Path(text).absolute()
