"""user: who may use the server of a store, with which passwords, tokens and roles."""

import argparse
import getpass
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from lfsfs.cli import output
from lfsfs.cli.options import option
from lfsfs.cli.served import Served, add_config_option, served
from lfsfs.cli.stores import add_options
from lfsfs.errors import InvalidConfig
from lfsfs.server.access import editing
from lfsfs.server.access.roles import ROLES, check_pattern
from lfsfs.server.access.users import USERS_FILE, Token, User, check_user_name
from lfsfs.store.layout import is_served, open_layout
from lfsfs.units import AGES, parse_age

_NAME = "a user; or everyone: whoever proves to be somebody; or anonymous: anybody"


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    actions = commands.add_parser(
        "user",
        help="who may use the server: users, roles, tokens",
        description="Who may use the Git LFS server of a store. A change holds at once. See docs/ACCESS.md.",
    ).add_subparsers(metavar="ACTION", required=True)

    add = _action(actions, "add", run_add, help="add a user; asks for the password")
    add.add_argument("name", metavar="NAME")
    _add_password_options(add)
    add.add_argument(
        "--no-password", action="store_true", help="they prove who they are by SSH, JWT, htpasswd or a forge"
    )
    add.add_argument(
        "--role", metavar="ROLE=PATTERN", action="append", default=[], type=option(_role),
        help="as of grant, such as write=studio/* (several: give it again)",
    )  # fmt: skip

    password = _action(actions, "password", run_password, help="set a user's password")
    password.add_argument("name", metavar="NAME")
    _add_password_options(password)

    _action(actions, "ls", run_ls, help="list the users, what they may do, and their tokens")

    rm = _action(actions, "rm", run_rm, help="remove a user and their tokens")
    rm.add_argument("name", metavar="NAME")

    grant = _action(actions, "grant", run_grant, help="let a user do something in some repositories")
    grant.add_argument("name", metavar="NAME", help=_NAME)
    grant.add_argument(
        "role", metavar="ROLE", choices=ROLES, help=f"{', '.join(ROLES)}: each with those before it"
    )
    grant.add_argument("pattern", metavar="PATTERN", help="studio/game, studio/* (one name), ** (any)")

    revoke = _action(actions, "revoke", run_revoke, help="undo a grant")
    revoke.add_argument("name", metavar="NAME", help=_NAME)
    revoke.add_argument("pattern", metavar="PATTERN", help="as it was granted")

    token = _action(actions, "token", run_token, help="make a token for a program, or remove one")
    token.add_argument("name", metavar="NAME", help="the user whose it is")
    token.add_argument("--name", dest="label", metavar="TEXT", default="token", help="what it is for")
    token.add_argument("--role", choices=ROLES, help="the most it allows (default: what the user may)")
    token.add_argument("--expires", metavar="AGE", type=option(parse_age), help=f"from now, {AGES}")
    token.add_argument("--rm", metavar="ID", help="remove this token instead")


def run_add(arguments: argparse.Namespace) -> int:
    """Adds a user."""
    place = served(arguments.store, arguments.config)
    file = _file(place, create=True)
    if arguments.no_password and arguments.password_stdin:
        raise InvalidConfig("--no-password and --password-stdin: give one")
    known = editing.read_users(file).users
    if arguments.name not in known:
        check_user_name(arguments.name)
        password = None if arguments.no_password else _password(arguments)
    else:
        password = None
    editing.add_user(file, arguments.name, password)
    for role, pattern in arguments.role:
        editing.grant(file, arguments.name, role, pattern)
    output.line(f"added {arguments.name}")
    if not arguments.role:
        output.note(f"they may do nothing yet: lfsfs user grant {arguments.name} write 'STUDIO/*'")
    if not known and is_served(open_layout(place.store, create=False)):
        output.note("the server that runs may have begun without users, and let everybody in: restart it")
    return output.DONE


def run_password(arguments: argparse.Namespace) -> int:
    """Sets a password."""
    editing.set_password(
        _file(served(arguments.store, arguments.config)), arguments.name, _password(arguments)
    )
    output.line(f"{arguments.name} has a new password")
    return output.DONE


def run_ls(arguments: argparse.Namespace) -> int:
    """Shows all users."""
    users = editing.read_users(_file(served(arguments.store, arguments.config))).users
    with output.Listing[User](json=arguments.json, element=_described, text=_shown) as listing:
        for name in sorted(users):
            listing.add(users[name])
    return output.DONE


def run_rm(arguments: argparse.Namespace) -> int:
    """Removes a user."""
    editing.remove_user(_file(served(arguments.store, arguments.config)), arguments.name)
    output.line(f"removed {arguments.name}")
    return output.DONE


def run_grant(arguments: argparse.Namespace) -> int:
    """Grants a role."""
    editing.grant(
        _file(served(arguments.store, arguments.config), create=True),
        arguments.name,
        arguments.role,
        arguments.pattern,
    )
    output.line(f"{arguments.name} may {arguments.role} in {arguments.pattern}")
    return output.DONE


def run_revoke(arguments: argparse.Namespace) -> int:
    """Takes a role back."""
    editing.revoke(_file(served(arguments.store, arguments.config)), arguments.name, arguments.pattern)
    output.line(f"{arguments.name} has no role in {arguments.pattern} any more")
    return output.DONE


def run_token(arguments: argparse.Namespace) -> int:
    """Makes a token, and shows it this once; or removes one."""
    file = _file(served(arguments.store, arguments.config))
    if arguments.rm is not None:
        editing.remove_token(file, arguments.name, arguments.rm)
        output.line(f"removed the token {arguments.rm}")
        return output.DONE
    expires = None if arguments.expires is None else int(time.time() + arguments.expires)
    token = editing.add_token(file, arguments.name, arguments.label, arguments.role, expires)
    output.line(token)
    output.note("it is shown this once: it is the password of a Git credential, or a Bearer token")
    return output.DONE


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    add_options(parser)
    add_config_option(parser)
    parser.set_defaults(run=run)
    return parser


def _add_password_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--password-stdin", action="store_true", help="read the password from standard input, a line"
    )


def _file(place: Served, *, create: bool = False) -> Path:
    """The users file of the store that is meant; `create`: it may be the first of a new store."""
    open_layout(place.store, create=create)
    return place.access.users or place.store / USERS_FILE


def _password(arguments: argparse.Namespace) -> str:
    """From standard input, or twice from the terminal."""
    if arguments.password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise InvalidConfig("there is no terminal to ask for the password: give --password-stdin")
    password = getpass.getpass(f"password of {arguments.name}: ")
    if getpass.getpass("once more: ") != password:
        raise InvalidConfig("the two are not the same")
    return password


def _role(text: str) -> tuple[str, str]:
    role, equals, pattern = text.partition("=")
    if not equals or role not in ROLES:
        raise InvalidConfig(f"not a role and a pattern: {text!r}: it is like write=studio/*")
    return role, check_pattern(pattern)


def _shown(user: User) -> str:
    parts = [f"{role} in {pattern}" for pattern, role in user.roles]
    parts += [f"token {token.id} ({token.name}{_limits(token)})" for token in user.tokens]
    return f"{user.name}  {', '.join(parts) or 'no role'}"


def _limits(token: Token) -> str:
    role = f", {token.role} only" if token.role is not None else ""
    if token.expires is None:
        return role
    word = "expired" if token.expires <= time.time() else "until"
    return f"{role}, {word} {datetime.fromtimestamp(token.expires, UTC):%Y-%m-%d}"


def _described(user: User) -> dict[str, object]:
    """As JSON has it: no hashes."""
    return {
        "name": user.name,
        "password": user.password is not None,
        "roles": dict(user.roles),
        "tokens": [
            {"id": token.id, "name": token.name, "role": token.role, "expires": _iso(token.expires)}
            for token in user.tokens
        ],
    }


def _iso(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
