"""Admission: which repository the path of an SSH remote is, and what a user that sshd has let in may do there."""

from dataclasses import dataclass
from pathlib import Path

from lfsfs.errors import InvalidName, NotFound, Refused
from lfsfs.server.access.access import Access, Action, Identity
from lfsfs.server.access.permissions import Member
from lfsfs.server.access.roles import ROLES
from lfsfs.store.layout import check_server_name

NEEDED: dict[str, Action] = {"download": "read", "upload": "write", "lock": "write"}
"""What the operations of git-lfs need."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """Somebody at a repository ("/studio/game"). `role`: the highest that they have there."""

    identity: Identity
    repository: str
    role: Action


async def admit(access: Access, user: str, repository: str, needed: Action) -> Admitted:
    """NotFound where they may not even read; Refused where they may not do what is needed."""
    identity = Member(user) if access.has_users else Identity(user, known=False)
    held = [role for role in ROLES if await access.allowed(identity, repository, role)]
    if not held:
        raise NotFound(f"no repository {repository[1:]}")
    if needed not in held:
        raise Refused(f"{user} may not {needed} in {repository[1:]}")
    return Admitted(identity, repository, held[-1])


def repository_at(path: str, root: Path | None) -> str:
    """The server's name of the repository that an SSH remote calls `path`. InvalidName.

    `root`: the directory that the repositories lie in; a path that begins with it goes on without. The slash that
    ssh://HOST/PATH has in front, and ~/, are no part of the name.
    """
    text = path.removeprefix("/~/").removeprefix("~/")
    if root is not None and text.startswith(f"{root}/"):
        text = text.removeprefix(f"{root}/")
    text = text.removeprefix("/").removesuffix("/").removesuffix(".git")
    if text.startswith("~"):
        raise InvalidName(f"not a repository of the server: {path!r}: it is in somebody's home")
    return check_server_name(f"/{text}")
