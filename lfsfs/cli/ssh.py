"""git-lfs-authenticate, git-lfs-transfer, and the command that sshd runs for a key: Git LFS for teams that live on SSH.

sshd says who it is: the user is --user of `lfsfs ssh-session`, or LFSFS_USER, or the account that was logged in to.
"""

import argparse
import json
import os
import pwd
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lfsfs.cli import daemons, output
from lfsfs.cli.options import Parser
from lfsfs.cli.served import Served, add_config_option, served
from lfsfs.errors import InvalidConfig, LfsfsError, Refused
from lfsfs.store.layout import open_layout
from lfsfs.store.opening import open_store

if TYPE_CHECKING:
    from lfsfs.server.ssh.admission import Admitted

GIT_COMMANDS = {"git-upload-pack": "download", "git-upload-archive": "download", "git-receive-pack": "upload"}
OPERATIONS = ("download", "upload", "lock")


def authenticate() -> int:
    """The command git-lfs-authenticate: prints where the API is, and a ticket for it."""
    return _entered("git-lfs-authenticate", _authenticate)


def transfer() -> int:
    """The command git-lfs-transfer: speaks the pure SSH protocol on standard input and output."""
    return _entered("git-lfs-transfer", _transfer)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    session = commands.add_parser(
        "ssh-session",
        help="what sshd is to run for a user's key",
        description="Runs what the SSH client asks for (SSH_ORIGINAL_COMMAND), where it is Git or Git LFS and the"
        ' user may: as command="lfsfs ssh-session --user NAME" in authorized_keys. docs/ACCESS.md has an example.',
    )
    session.add_argument("--user", metavar="NAME", required=True, help="whose key it is")
    session.add_argument(
        "--store", metavar="STORE", type=Path, help="default: LFSFS_STORE, or that of /etc/lfsfs/lfsfs.toml"
    )
    add_config_option(session)
    session.set_defaults(run=run_session)


def run_session(arguments: argparse.Namespace) -> int:
    """Runs the client's command, if it is one of ours or of Git's."""
    asked = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    try:
        words = shlex.split(asked)
    except ValueError:
        words = []
    ours = {"git-lfs-authenticate": _authenticate, "git-lfs-transfer": _transfer}
    if words and words[0] in ours and len(words) in (3, 4) and words[2] in OPERATIONS:
        return ours[words[0]](served(arguments.store, arguments.config), arguments.user, words[1], words[2])
    if words and words[0] in GIT_COMMANDS and len(words) == 2:
        return _git(served(arguments.store, arguments.config), arguments.user, words[0], words[1])
    raise Refused(
        f"hello {arguments.user}: this key is for Git and Git LFS, and not for {asked or 'a shell'!r}"
    )


def _entered(name: str, run: Callable[[Served, str, str, str], int]) -> int:
    parser = Parser(prog=name, description="Run by sshd for git-lfs, which says the arguments.")
    parser.add_argument("path", metavar="PATH", help="the repository, as the SSH remote has it")
    parser.add_argument("operation", metavar="OPERATION", choices=OPERATIONS)
    parser.add_argument("oid", metavar="OID", nargs="?", help="said by old clients")
    given = parser.parse_args()
    try:
        user = os.environ.get("LFSFS_USER") or pwd.getpwuid(os.getuid()).pw_name
        return run(served(None), user, given.path, given.operation)
    except (LfsfsError, OSError) as error:
        return output.error(error)


def _authenticate(place: Served, user: str, path: str, operation: str) -> int:
    from lfsfs.server.ssh.authenticate import described
    from lfsfs.server.tickets import Tickets, server_key

    admitted = trio.run(_admit, place, user, path, operation)
    tickets = Tickets(server_key(place.store))
    url = _url(place)
    json.dump(described(admitted, operation, url, tickets, place.access.ssh_lifetime), sys.stdout)
    sys.stdout.write("\n")
    return output.DONE


def _transfer(place: Served, user: str, path: str, operation: str) -> int:
    from lfsfs.server.lock_place import create_locks
    from lfsfs.server.ssh.pktline import PacketReader, PacketWriter
    from lfsfs.server.ssh.session import Session

    async def serve() -> None:
        admitted = await _admit(place, user, path, operation)
        async with open_store(place.store) as store:
            reader, writer = PacketReader(sys.stdin.buffer), PacketWriter(sys.stdout.buffer)
            locks = create_locks(store, place.server.locks)
            await Session(store, locks, admitted, operation, place.server, reader, writer).run()

    trio.run(serve)
    return output.DONE


def _git(place: Served, user: str, command: str, path: str) -> int:
    """Hands over to git-shell, for the repository that permissions were asked about."""
    from lfsfs.server.ssh.admission import repository_at

    trio.run(_admit, place, user, path, GIT_COMMANDS[command])
    root = _root(place)
    name = repository_at(path, root)[1:]
    directory = root / f"{name}.git" if (root / f"{name}.git").is_dir() else root / name
    quoted = str(directory).replace("'", "'\\''")  # always in quotes: git-shell takes nothing else
    os.execvp("git-shell", ["git-shell", "-c", f"{command} '{quoted}'"])


async def _admit(place: Served, user: str, path: str, operation: str) -> "Admitted":
    from lfsfs.server.access.permissions import create_access
    from lfsfs.server.ssh.admission import NEEDED, admit, repository_at

    open_layout(place.store, create=False)
    access = create_access(place.store, place.access)
    return await admit(access, user, repository_at(path, _root(place)), NEEDED[operation])


def _root(place: Served) -> Path:
    """Where the Git repositories lie: relative paths begin in the home directory."""
    return place.access.ssh_root or Path.home()


def _url(place: Served) -> str:
    """The server's public URL, or where the one that runs says that it listens."""
    if place.server.url is not None:
        return place.server.url
    for address in daemons.addresses(place.store):
        if not address.startswith("unix:"):
            return address
    raise InvalidConfig("where is the server? Set url in [server], as clients reach it")
