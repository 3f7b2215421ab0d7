"""mount and unmount."""

import argparse
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lfsfs import mounts
from lfsfs.cli import background, daemons, output, takedown, tracking
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
from lfsfs.cli.serving import SERVER_SETTINGS, add_server_options, given_settings
from lfsfs.cli.stores import add_quiet
from lfsfs.config import (
    Config,
    Deletion,
    Durability,
    Sharing,
    choices,
    parse_id,
    parse_umask,
)
from lfsfs.config_file import configure
from lfsfs.errors import InUse, InvalidConfig, LfsfsError, NotFound, Refused
from lfsfs.store import attachment
from lfsfs.store.layout import open_layout

if TYPE_CHECKING:
    from lfsfs.succession import Predecessor, Program

_SETTINGS = (
    {
        "store": "store.path",
        "mountpoint": "mount.mountpoint",
        "durability": "store.durability",
        "uid": "mount.uid",
        "gid": "mount.gid",
        "umask": "mount.umask",
        "allow_other": "mount.allow_other",
        "xattr": "mount.xattr",
        "read_only": "mount.read_only",
        "noexec": "mount.noexec",
        "sharing": "mount.sharing",
        "delete": "mount.delete",
        "scrub_rate": "scrub.rate",
    }
    | STORE_SETTINGS
    | REMOTE_SETTINGS
    | SERVER_SETTINGS
    | LIMIT_SETTINGS
)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    mount = commands.add_parser(
        "mount",
        help="mount a store",
        description="Mounts a store; makes it where there is none. Returns when the mount answers.",
    )
    mount.add_argument("store", metavar="STORE", nargs="?", type=Path, help="the directory of the store")
    mount.add_argument(
        "mountpoint", metavar="MNT", nargs="?", type=Path, help="an empty directory, or a new one"
    )
    mount.add_argument(
        "-f", "--foreground", action="store_true", help="serve in the foreground, log to stderr"
    )
    mount.add_argument(
        "--config", metavar="FILE", type=Path, help="default: STORE/lfsfs.toml, /etc/lfsfs/lfsfs.toml"
    )
    mount.add_argument("--durability", choices=choices(Durability), help="whether commits survive power loss")
    mount.add_argument("--uid", metavar="N", type=option(parse_id), help="owner of everything in the mount")
    mount.add_argument("--gid", metavar="N", type=option(parse_id), help="group of everything in the mount")
    mount.add_argument(
        "--umask", metavar="OCT", type=option(parse_umask),
        help="permissions that the mount's own directories go without, not what is made in them (022)",
    )  # fmt: skip
    mount.add_argument(
        "--allow-other", action="store_true", default=None, help="other users may use the mount"
    )
    mount.add_argument("--xattr", action="store_true", default=None, help="answer extended attributes")
    mount.add_argument("--read-only", action="store_true", default=None, help="take no writes")
    mount.add_argument("--noexec", action="store_true", default=None, help="let nothing in it be executed")
    mount.add_argument("--sharing", choices=choices(Sharing), help="what a repository root sees of the store")
    mount.add_argument("--delete", choices=choices(Deletion), help="unlink of objects in the shared root")
    add_store_key_option(mount)
    add_remote_options(mount)
    add_scrub_option(mount)
    add_limit_options(mount)
    add_server_options(mount)
    add_quiet(mount)
    background.add_hidden_options(mount)
    mount.set_defaults(run=run_mount)

    unmount = commands.add_parser(
        "unmount",
        help="unmount, also what is dead or does not answer",
        description="Unmounts, and returns when the daemon has settled its store and ended."
        " A mount whose daemon is dead or does not answer is taken down too.",
    )
    unmount.add_argument("mountpoint", metavar="MNT", type=Path)
    unmount.add_argument(
        "--force", action="store_true", help="even while it is in use: open files get errors"
    )
    unmount.add_argument(
        "--wait", action="store_true", help="first wait until S3 has everything that waits for its upload"
    )
    add_quiet(unmount)
    unmount.set_defaults(run=run_unmount)


def run_unmount(arguments: argparse.Namespace) -> int:
    """Unmounts."""
    if arguments.wait:
        from lfsfs.cli.remote import wait_for_uploads

        wait_for_uploads(arguments.mountpoint)
    takedown.unmount(arguments.mountpoint, force=arguments.force)
    return output.DONE


def run_mount(arguments: argparse.Namespace) -> int:
    """Mounts: here, or in a daemon of its own."""
    if arguments.predecessor_fd is not None:
        from lfsfs.cli import following  # only who follows a daemon, and brings all of it, needs it

        return following.follow(arguments, lambda: _config(arguments), _serve)
    if arguments.ready_fd is not None:
        return _serve_for(background.Parent(arguments.ready_fd), arguments)
    config = _config(arguments)
    if config.foreground:
        return _serve(config, background.Parent(None), background.program(arguments))
    if _is_mounted_already(config):
        output.note(f"{config.store} is mounted at {config.mountpoint} already; its options stay as they are")
        return output.DONE
    with _usable(config):
        open_layout(config.store, create=not config.mount.read_only)
        background.start("mount", arguments.arguments[1:], config.store)
    daemons.tell_away(config.store)
    output.line(f"{config.store} is mounted at {config.mountpoint}")
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
    # The one import inside a function: it brings the mount, and every other command starts quicker without.
    from lfsfs.daemon import HANDED_ON, run

    handed_over = predecessor is not None and predecessor.hands_over
    if not handed_over and _is_mounted_already(config):
        raise InUse(f"{config.store} is mounted at {config.mountpoint} already")

    bringing: threading.Thread | None = None

    def ready() -> None:
        nonlocal bringing
        bringing = tracking.bring_back(config.store, parent.ready)

    with nullcontext() if handed_over else _usable(config):
        status = None
        try:
            status = run(config, ready, program, predecessor, parent.opening)
            return output.DONE if status == HANDED_ON else status
        finally:
            if status != HANDED_ON:
                tracking.take_away(config.store, bringing)


def _config(arguments: argparse.Namespace) -> Config:
    given = given_settings(arguments, _SETTINGS)
    config = configure(
        arguments.config, given, remembered=attachment.settings, foreground=arguments.foreground
    )
    return replace(
        config,
        store=Path(os.path.realpath(config.store)),
        mountpoint=mounts.located(mountpoint_of(config)),
        temp=config.temp and Path(os.path.realpath(config.temp)),
    )


def mountpoint_of(config: Config) -> Path:
    """Where to mount: `configure` has seen to it that there is a place."""
    assert config.mountpoint is not None
    return config.mountpoint


def _is_mounted_already(config: Config) -> bool:
    """Whether this very mount is there and answers. Refused if another is in its place."""
    entry = mounts.mount_at(mountpoint_of(config))
    if entry is None:
        return False
    condition = mounts.health(entry.mountpoint)
    if condition == "wedged":
        raise InUse(f"the mount at {entry.mountpoint} does not answer: `lfsfs unmount` takes it down")
    if condition == "alive" and entry.store != config.store:
        raise InUse(
            f"another store is mounted at {entry.mountpoint}: {entry.store}; unmount that, or mount elsewhere"
        )
    return condition == "alive"


@contextmanager
def _usable(config: Config) -> Iterator[None]:
    """An empty directory to mount on. One that had to be made goes again if the mount fails."""
    mountpoint = mountpoint_of(config)
    if takedown.clear_dead(mountpoint):
        output.note(f"took away the dead mount at {mountpoint}")
    _check_apart(config.store, mountpoint)
    made = _make_directory(mountpoint)
    try:
        _check_empty(mountpoint)
        yield
    except BaseException:
        if made:
            with suppress(OSError):  # something is in it or on it since: then it stays
                mountpoint.rmdir()
        raise


def _check_apart(store: Path, mountpoint: Path) -> None:
    if mountpoint == store or store in mountpoint.parents:
        raise InvalidConfig(f"cannot mount at {mountpoint}: that is in the store itself")
    if mountpoint in store.parents:
        raise InvalidConfig(f"cannot mount at {mountpoint}: that would hide the store {store}")


def _make_directory(mountpoint: Path) -> bool:
    """Makes the mountpoint, not the directories that lead to it: a mistyped path is an error."""
    try:
        mountpoint.mkdir()
    except FileExistsError:
        return False
    except FileNotFoundError as error:
        raise NotFound(
            f"cannot mount at {mountpoint}: there is no directory {mountpoint.parent}; make it first"
        ) from error
    return True


def _check_empty(mountpoint: Path) -> None:
    if not mountpoint.is_dir():
        raise InvalidConfig(
            f"cannot mount at {mountpoint}: it is not a directory; give an empty directory, or a new one"
        )
    entries = sorted(os.listdir(mountpoint))
    if entries:
        raise Refused(
            f"cannot mount at {mountpoint}: it is not empty: it holds {entries[0]!r};"
            " give an empty directory, or a new one"
        )
