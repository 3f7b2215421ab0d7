"""mount.fuse.lfsfs: what mount(8) runs for the type fuse.lfsfs.

So `/etc/fstab`, systemd's mount units and `mount -t fuse.lfsfs STORE MNT -o …` work. Every option of `lfsfs mount` is
one of `-o`, with `_` for `-`: `allow_other`, `cache_size=50GiB`. Exit status as in mount(8).

There is no such thing for umount(8): given an absolute path, that of Debian 12 takes the type of any FUSE mount for
"fuse". So umount returns when the mount is out of sight, and whoever mounts next waits for the daemon that still ends.
"""

import argparse
import getopt
import os
import pwd
import sys
from pathlib import Path

from lfsfs import mounts
from lfsfs.cli import daemons, main, mounting, output
from lfsfs.cli.options import Parser
from lfsfs.errors import InvalidConfig, LfsfsError

DONE, USAGE, INTERRUPTED, FAILED = 0, 1, 8, 32
_SHORT = "sfnvht:o:N:"
"""What mount(8) gives to any helper."""
ENDING_SECONDS = 60.0
"""What a daemon whose mount was taken away gets to settle its store."""
_NOT_OURS = frozenset((
    "rw", "defaults", "auto", "noauto", "nofail", "_netdev", "user", "users", "nouser", "owner", "group", "exec", "suid",
    "nosuid", "dev", "nodev", "async", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime",
    "strictatime", "lazytime", "nolazytime", "silent", "loud", "default_permissions",
))  # fmt: skip
"""Words of fstab(5) that ask nothing of the file system. It is nosuid and nodev whatever they say."""
_NOT_OURS_BEFORE = ("x-", "X-", "user=", "comment=", "uhelper=", "helper=")
_SPELT = {"ro": "read_only"}
_NOT_HERE = frozenset(("foreground", "ready_fd", "help"))


def mount() -> int:
    """`mount.fuse.lfsfs STORE MNT [-o OPTIONS]`: returns when the mount answers."""
    try:
        given, places = getopt.gnu_getopt(sys.argv[1:], _SHORT)
        return _mount(dict(given), places)
    except getopt.GetoptError as wrong:
        output.note(wrong.msg)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (LfsfsError, OSError) as error:
        return _status(output.error(error))


def _status(ended: int) -> int:
    """Our exit status as mount(8) has it."""
    return {output.DONE: DONE, output.USAGE: USAGE, output.INTERRUPTED: INTERRUPTED}.get(ended, FAILED)


def _mount(given: dict[str, str], places: list[str]) -> int:
    if "-h" in given or len(places) != 2:
        output.note("usage: mount -t fuse.lfsfs STORE MNT [-o OPTION,OPTION=VALUE…]")
        return DONE if "-h" in given else USAGE
    if "-N" in given:
        raise InvalidConfig("mount in another namespace (-N): run mount there, with nsenter(1)")
    arguments, account = read_options(given.get("-o", ""), sloppy="-s" in given)
    if "-f" in given:  # a dry run
        return DONE
    if account is not None:
        become(account)
    _wait_for_the_last(Path(places[0]))
    try:
        return _status(main.main(["mount", *arguments, "--", *places]))
    except SystemExit:  # argparse has said what is wrong with a value
        return USAGE


def read_options(text: str, *, sloppy: bool = False) -> tuple[list[str], str | None]:
    """The arguments of `lfsfs mount` for what follows -o, and the user to mount as (`setuid=`).

    InvalidConfig for an option that nobody knows, unless `sloppy`.
    """
    known = _known()
    arguments: list[str] = []
    account = None
    for option in _split(text):
        word, separator, value = option.partition("=")
        word = _SPELT.get(word, word)
        if word in _NOT_OURS or option.startswith(_NOT_OURS_BEFORE):
            continue
        if word == "setuid" and value:
            account = value
        elif word == "remount":
            raise InvalidConfig("it cannot be mounted anew with other options: unmount it, then mount it")
        elif word in known:
            flag, takes_value = known[word]
            if takes_value != bool(separator):
                raise InvalidConfig(f"option {word} {'needs a value' if takes_value else 'takes no value'}")
            arguments.append(f"{flag}={value}" if takes_value else flag)
        elif not sloppy:
            raise InvalidConfig(
                f"no option {word!r}: those of `lfsfs mount --help`, with _ for -, or setuid=USER"
            )
    return arguments, account


def _split(text: str) -> list[str]:
    """At the commas, but for those between double quotes (mount(8)). The quotes go."""
    pieces, quoted = [""], False
    for character in text:
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            pieces.append("")
        else:
            pieces[-1] += character
    return [piece for piece in pieces if piece]


def _known() -> dict[str, tuple[str, bool]]:
    """The options of `lfsfs mount` as fstab spells them: how the command line does, and whether there is a value."""
    commands: argparse._SubParsersAction[argparse.ArgumentParser]
    commands = argparse.ArgumentParser().add_subparsers(parser_class=Parser)
    mounting.add_to(commands)
    actions: list[argparse.Action] = commands.choices["mount"]._actions
    flags = ((action.option_strings[-1], action.nargs != 0) for action in actions if action.option_strings)
    named = {flag.removeprefix("--").replace("-", "_"): (flag, takes) for flag, takes in flags}
    return {name: found for name, found in named.items() if name not in _NOT_HERE}


def become(account: str) -> None:
    """The user whose daemon it is to be, for good."""
    try:
        found = pwd.getpwuid(int(account)) if account.isdecimal() else pwd.getpwnam(account)
    except KeyError as unknown:
        raise InvalidConfig(f"setuid={account}: there is no such user") from unknown
    if found.pw_uid == os.getuid():
        return
    os.initgroups(found.pw_name, found.pw_gid)
    os.setgid(found.pw_gid)
    os.setuid(found.pw_uid)
    os.environ.update(HOME=found.pw_dir, USER=found.pw_name, LOGNAME=found.pw_name)


def _wait_for_the_last(store: Path) -> None:
    """Until the daemon has ended whose mount was taken away just now."""
    if mounts.mounts_of_store(store) or daemons.mountpoint(store) is None:
        return
    with daemons.daemon_of(store) as daemon:
        if daemon is not None:
            daemon.ended(ENDING_SECONDS)
