"""Editing a users file: each change keeps the rest as a person wrote it, is checked, and comes into being whole."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from lfsfs import durable
from lfsfs.alone import alone_in
from lfsfs.errors import Exists, InvalidConfig, NotFound
from lfsfs.server.access.access import Action
from lfsfs.server.access.passwords import hashed
from lfsfs.server.access.roles import check_pattern, check_role
from lfsfs.server.access.sums import with_sum, without_sum
from lfsfs.server.access.users import NOBODIES, TOKEN_MARK, Directory, check_user_name, parse_users
from lfsfs.server.access.watched import read_checked

_SECRET_BYTES = 32
_HEADING = (
    "Who may use the Git LFS server of this store: `lfsfs user` keeps this file, and people may edit it."
)


def read_users(file: Path) -> Directory:
    """Everybody in the file; nobody where there is none."""
    return read_checked(file, parse_users)[1] if file.exists() else Directory()


def add_user(file: Path, name: str, password: str | None) -> None:
    """Exists. `password` None: they prove who they are elsewhere."""
    with _edited(file) as users:
        if check_user_name(name) in users:
            raise Exists(f"there is a user {name}")
        user = users[name] = tomlkit.table()
        if password is not None:
            user["password"] = _hashed(name, password)


def set_password(file: Path, name: str, password: str) -> None:
    """NotFound."""
    with _edited(file) as users:
        _user(users, name)["password"] = _hashed(name, password)


def remove_user(file: Path, name: str) -> None:
    """With all their tokens. NotFound."""
    with _edited(file) as users:
        _user(users, name)
        del users[name]


def grant(file: Path, name: str, role: str, pattern: str) -> None:
    """Replaces what was granted for the same pattern. NotFound; one of NOBODIES is always there."""
    with _edited(file) as users:
        if name in NOBODIES and name not in users:
            users[name] = tomlkit.table()
        roles = _user(users, name).setdefault("roles", tomlkit.table())
        roles[check_pattern(pattern)] = check_role(role)


def revoke(file: Path, name: str, pattern: str) -> None:
    """NotFound."""
    with _edited(file) as users:
        roles = _user(users, name).get("roles", {})
        if pattern not in roles:
            raise NotFound(f"{name} has no role in {pattern}")
        del roles[pattern]


def add_token(file: Path, user: str, name: str, role: Action | None, expires: int | None) -> str:
    """The token, which nobody can know later. `expires`: seconds since 1970. NotFound."""
    token_id = secrets.token_hex(4)
    token = f"{TOKEN_MARK}{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    with _edited(file) as users:
        if user in NOBODIES:
            raise InvalidConfig(f"{user} is nobody")
        made = tomlkit.table()
        made["name"] = name
        made["hash"] = hashed(token)
        if role is not None:
            made["role"] = role
        if expires is not None:
            made["expires"] = datetime.fromtimestamp(expires, UTC)
        _user(users, user).setdefault("tokens", tomlkit.table(is_super_table=True))[token_id] = made
    return token


def remove_token(file: Path, user: str, token_id: str) -> None:
    """NotFound."""
    with _edited(file) as users:
        tokens = _user(users, user).get("tokens", {})
        if token_id not in tokens:
            raise NotFound(f"{user} has no token {token_id}")
        del tokens[token_id]


def _user(users: Any, name: str) -> Any:
    if name not in users:
        raise NotFound(f"there is no user {name}")
    return users[name]


def _hashed(name: str, password: str) -> str:
    if name in NOBODIES:
        raise InvalidConfig(f"{name} is nobody, and has no password")
    if not password or not password.isprintable() or password.startswith(TOKEN_MARK):
        raise InvalidConfig("a password is printable, not empty, and does not look like a token")
    return hashed(password)


@contextmanager
def _edited(file: Path) -> Iterator[Any]:
    """The table of the users, to be changed. One change at a time; nothing changes where it fails."""
    with alone_in(file.parent):
        try:
            content = file.read_bytes()
            parse_users(file, content)
            document = tomlkit.parse(without_sum(content).decode())
        except FileNotFoundError:
            document = tomlkit.document()
            document.add(tomlkit.comment(_HEADING))
        except (TOMLKitError, ValueError) as error:
            raise InvalidConfig(f"{file}: {error}") from error
        users = document.setdefault("users", tomlkit.table(is_super_table=True))
        yield users
        content = with_sum(tomlkit.dumps(document).encode())
        parse_users(file, content)
        _write(file, content)


def _write(file: Path, content: bytes) -> None:
    """In one step, durable, with the mode and owner that it had; a new one is its directory's owner's alone."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    before = file.stat() if file.exists() else None
    owner = before or file.parent.stat()
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        if before is not None:
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
        durable.fsync(descriptor, "fsync-users")
        durable.rename(fresh, file, "rename-users")
        durable.fsync_path(file.parent, "fsync-users-directory")
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
