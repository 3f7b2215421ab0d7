"""Roles: what somebody may do, by patterns of repository names."""

import functools
import re
from collections.abc import Mapping
from typing import get_args

from lfsfs.errors import InvalidConfig
from lfsfs.server.access.access import Action

Roles = tuple[tuple[str, Action], ...]
"""Pairs of a pattern and what is allowed where it matches."""
ROLES: tuple[Action, ...] = get_args(Action)
"""Ascending: each includes those before it."""
_PATTERN_LIMIT_BYTES = 512


def role_in(roles: Roles, repository: str) -> Action | None:
    """The highest of the roles that hold for the repository ("/studio/game"); None: none does."""
    found = [ROLES.index(role) for pattern, role in roles if _compiled(pattern).fullmatch(repository)]
    return ROLES[max(found)] if found else None


def includes(role: Action | None, action: Action) -> bool:
    return role is not None and ROLES.index(role) >= ROLES.index(action)


def lower(one: Action, other: Action) -> Action:
    return min(one, other, key=ROLES.index)


def check_pattern(text: str) -> str:
    """A pattern of repository names, without a slash at either end: "studio/game", "studio/*", "**".

    `*` stands for any part of one name, `**` alone between slashes for any number of names. Nothing else is special.
    InvalidConfig.
    """
    parts = text.split("/")
    if not all(parts) or not text.isprintable() or len(text.encode()) > _PATTERN_LIMIT_BYTES:
        raise InvalidConfig(
            f"not a pattern of repositories: {text!r}: it is like studio/game, studio/* or **"
        )
    if any("**" in part and part != "**" for part in parts):
        raise InvalidConfig(f"not a pattern of repositories: {text!r}: ** stands alone between slashes")
    return text


def check_role(text: object) -> Action:
    """InvalidConfig unless it is one of ROLES."""
    for role in ROLES:
        if text == role:
            return role
    raise InvalidConfig(f"not a role: {text!r}: it is {', '.join(ROLES)}")


def parse_roles(table: object) -> Roles:
    """The roles of a mapping from patterns. InvalidConfig."""
    if not isinstance(table, Mapping):
        raise InvalidConfig('roles are a table of patterns, such as "studio/*" = "write"')
    return tuple((check_pattern(str(pattern)), check_role(role)) for pattern, role in table.items())


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Of names that each have a slash before them. `**` may be none: a/** is also a itself."""
    parts = pattern.split("/")
    return re.compile(
        "".join(
            "(?:/[^/]+)*" if part == "**" else "/" + "[^/]*".join(map(re.escape, part.split("*")))
            for part in parts
        )
    )
