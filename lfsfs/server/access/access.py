"""Access: who a request comes from, and what that one may do to a repository. The server asks nothing else."""

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from lfsfs.errors import LfsfsError

Action = Literal["read", "write", "admin"]
"""Each includes those before it. admin: to end other people's locks."""
ANONYMOUS = "anonymous"
WHOLE_STORE = "/-/whole/store"
"""No repository: whoever may administer one of this name may see everything. The pattern ** has it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody. `name`: owns locks, and stands in the access log. `known`: proved who they are."""

    name: str
    known: bool = True


class Unidentified(LfsfsError):
    """The credentials of a request are wrong, out of date, or no credentials at all."""

    status = 401


class TooManyAttempts(LfsfsError):
    """Somebody was wrong too often. `seconds`: when they may try again."""

    status = 429

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class Access(Protocol):
    """Both may ask elsewhere, and may raise Unavailable then: nobody is let in on a doubt."""

    async def identify(self, headers: Mapping[str, str], address: str = "") -> Identity:
        """By the headers (names in lower case) of a request. Unidentified where its credentials are not good; a
        request without any is anonymous, `known` False. `address`: where it comes from, as far as that is known.
        TooManyAttempts.
        """

    async def allowed(self, identity: Identity, repository: str, action: Action) -> bool:
        """Whether they may. `repository`: its name, "/owner/repo"; it need not be there yet."""

    @property
    def has_users(self) -> bool:
        """Whether there is anybody to tell apart: without, a server listens on the loopback only."""


class LoopbackAccess:
    """No users: whoever can connect may do everything, which is why it is for loopback listeners only."""

    has_users = False

    def __init__(self, nobody: str = ANONYMOUS) -> None:
        """`nobody`: the name of who does not say one."""
        self._nobody = nobody

    async def identify(self, headers: Mapping[str, str], address: str = "") -> Identity:
        """By the user name of Basic credentials, if there are some: it says whose a lock is, and proves nothing."""
        return Identity(_claimed(headers.get("authorization", "")) or self._nobody, known=False)

    async def allowed(self, identity: Identity, repository: str, action: Action) -> bool:
        return True


def is_loopback(address: str) -> bool:
    """Whether an address to listen on ("127.0.0.1:8080", "[::1]:8080", "unix:/path") is this machine's own business.

    A unix socket is guarded by the permissions of its file.
    """
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _claimed(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        name = base64.b64decode(token.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, ValueError):
        return ""
    return name if name.isprintable() and len(name) <= 255 else ""
