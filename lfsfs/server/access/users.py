"""The users file: who there is, with which password and tokens (their hashes), and what each may do where.

    [users.alice]
    password = "$argon2id$..."      # none: known by htpasswd, JWT, a forge or SSH only

    [users.alice.roles]
    "studio/*" = "write"

    [users.alice.tokens.3f2a9c01]
    name = "build machine"
    hash = "$argon2id$..."
    role = "read"                   # no more than that; by default all that alice may
    expires = 2027-01-31T00:00:00Z

Two names are nobody's: what `everyone` may do, each may who proved to be somebody; what `anonymous` may, anybody.
Nothing in the file is ever ignored: an unknown key is InvalidConfig.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lfsfs.errors import InvalidConfig
from lfsfs.server.access.access import ANONYMOUS, Action
from lfsfs.server.access.passwords import check_hash
from lfsfs.server.access.roles import Roles, check_role, includes, parse_roles
from lfsfs.server.access.sums import check_sum

USERS_FILE = "users.toml"
"""In the store, unless the configuration says otherwise."""
EVERYONE = "everyone"
NOBODIES = (EVERYONE, ANONYMOUS)
NAME_LIMIT_BYTES = 255
TOKEN_MARK = "lfsfs_"
_TOKEN = re.compile(TOKEN_MARK + r"([0-9a-f]{8})_([A-Za-z0-9_-]{20,100})")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept. `role`: what it allows at most; None: what its user may. `expires`: seconds since 1970."""

    id: str
    name: str
    hash: str = field(repr=False)
    role: Action | None = None
    expires: int | None = None


@dataclass(frozen=True, slots=True)
class User:
    """Somebody, or one of NOBODIES."""

    name: str
    password: str | None = field(default=None, repr=False)
    roles: Roles = ()
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Directory:
    """All users of a file, by name."""

    users: Mapping[str, User] = field(default_factory=dict)

    def roles_of(self, name: str, *, known: bool) -> Roles:
        """What they may do, with what everybody may."""
        whose = [name, *NOBODIES] if known else [ANONYMOUS]
        return tuple(role for one in whose if one in self.users for role in self.users[one].roles)

    def token(self, token_id: str) -> tuple[User, Token] | None:
        """The token with this id, and whose it is."""
        for user in self.users.values():
            for token in user.tokens:
                if token.id == token_id:
                    return user, token
        return None


def parse_users(file: Path, content: bytes) -> Directory:
    """A users file. InvalidConfig, with what is wrong where."""
    check_sum(file, content)
    try:
        tables = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"{file}: {error}") from error
    try:
        _check_keys("the file", tables, ("users",))
        listed = tables.get("users", {})
        _check_keys("users", listed, None)
        found = {name: _user(check_user_name(name), table) for name, table in listed.items()}
        ids = [token.id for user in found.values() for token in user.tokens]
        if len(ids) != len(set(ids)):
            raise InvalidConfig("two tokens have the same id")
    except InvalidConfig as error:
        raise InvalidConfig(f"{file}: {error}") from error
    return Directory(found)


def check_user_name(name: object) -> str:
    """A name that fits into Basic credentials, a log and a list of locks. InvalidConfig."""
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or name != name.strip()
        or ":" in name
        or not 0 < len(name.encode()) <= NAME_LIMIT_BYTES
    ):
        raise InvalidConfig(f"not a user name: {name!r}: it is printable, without ':' and outer spaces")
    return name


def split_token(secret: str) -> tuple[str, str] | None:
    """The id and the secret part of a token of ours; None: it is none."""
    found = _TOKEN.fullmatch(secret)
    return None if found is None else (found[1], found[2])


def _user(name: str, table: Any) -> User:
    _check_keys(f"user {name}", table, ("password", "roles", "tokens"))
    if name in NOBODIES and not set(table) <= {"roles"}:
        raise InvalidConfig(f"{name} is nobody: it can have roles, no password and no tokens")
    roles = parse_roles(table.get("roles", {}))
    if name == ANONYMOUS and any(includes(role, "write") for _, role in roles):
        raise InvalidConfig("anonymous may read, no more: what is written must be somebody's")
    tokens = table.get("tokens", {})
    _check_keys(f"the tokens of {name}", tokens, None)
    return User(
        name,
        check_hash(table["password"]) if "password" in table else None,
        roles,
        tuple(_token(name, token_id, one) for token_id, one in tokens.items()),
    )


def _token(user: str, token_id: str, table: Any) -> Token:
    where = f"token {token_id} of {user}"
    _check_keys(where, table, ("name", "hash", "role", "expires"))
    if re.fullmatch(r"[0-9a-f]{8}", token_id) is None or not isinstance(table.get("name"), str):
        raise InvalidConfig(f"{where}: it has an id of 8 hex digits, and a name")
    expires = table.get("expires")
    if expires is not None and not isinstance(expires, datetime):
        raise InvalidConfig(f"{where}: expires is a time, such as 2027-01-31T00:00:00Z, without quotes")
    return Token(
        token_id,
        table["name"],
        check_hash(table.get("hash")),
        check_role(table["role"]) if "role" in table else None,
        None if expires is None else int(_utc(expires).timestamp()),
    )


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _check_keys(where: str, table: object, known: tuple[str, ...] | None) -> None:
    if not isinstance(table, dict):
        raise InvalidConfig(f"{where} must be a table")
    for key in table if known is not None else ():
        if key not in (known or ()):
            raise InvalidConfig(f"{where}: unknown key {key!r}: there are {', '.join(known or ())}")
