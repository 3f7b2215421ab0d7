"""Permissions: who a request comes from and what they may do, as the users file, htpasswd, an issuer and a forge say.

A name belongs to one source: whoever has a password here, in the users file or in htpasswd, is never believed to be
another's user of that name. What the users file says of a name holds for it whatever source knows it.
"""

import base64
import binascii
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lfsfs.config_access import AccessOptions, ForgeOptions, JwtOptions
from lfsfs.server.access.access import ANONYMOUS, Access, Action, Identity, LoopbackAccess, Unidentified
from lfsfs.server.access.attempts import Attempts
from lfsfs.server.access.htpasswd import parse_htpasswd
from lfsfs.server.access.passwords import Passwords
from lfsfs.server.access.roles import ROLES, Roles, includes, lower, role_in
from lfsfs.server.access.users import TOKEN_MARK, USERS_FILE, Directory, parse_users, split_token
from lfsfs.server.access.watched import Watched

if TYPE_CHECKING:
    from lfsfs.server.access.forge import Forge
    from lfsfs.server.access.issuer import Issuer

JWT_USER = "_jwt"
"""The user name of Basic credentials whose password is a JSON Web Token, as giftless has it."""


@dataclass(frozen=True, slots=True)
class Member(Identity):
    """Somebody who proved who they are. `limit`: what their credential allows at most; `roles`: what it brings along;
    `authorization`: what a forge is to be shown.
    """

    limit: Action = "admin"
    roles: Roles = ()
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """An Authorization header. `name` None: there is a secret alone."""

    name: str | None
    secret: str = field(repr=False)


class Permissions:
    """Access by users, groups of repositories and roles."""

    has_users = True

    def __init__(
        self,
        users: Watched[Directory] | None,
        htpasswd: Watched[Mapping[str, str]] | None,
        issuer: "Issuer | None",
        forge: "Forge | None",
        attempts: Attempts,
        *,
        forge_takes_basic: bool = True,
    ) -> None:
        self._users = users
        self._htpasswd = htpasswd
        self._issuer = issuer
        self._forge = forge
        self._attempts = attempts
        self._passwords = Passwords()
        self._forge_takes_basic = forge_takes_basic

    async def identify(self, headers: Mapping[str, str], address: str = "") -> Identity:
        """As Access.identify. Basic credentials, a token as Bearer or as their password, or a JSON Web Token."""
        authorization = headers.get("authorization", "")
        if not authorization:
            return Identity(ANONYMOUS, known=False)
        given = _credentials(authorization)
        if given.secret.startswith(TOKEN_MARK):
            return await self._by_token(given, address)
        if self._issuer is not None and given.name in (None, JWT_USER) and _is_jwt(given.secret):
            return self._by_jwt(self._issuer, given.secret)
        stored = None if given.name is None else self._password_of(given.name)
        if stored is None and self._forge is not None:
            return await self._by_forge(self._forge, given, address)
        if given.name is None:
            raise Unidentified("the token is unknown")
        await self._passwords.check(given.secret, stored, self._attempts.one(given.name, address))
        return Member(given.name)

    async def allowed(self, identity: Identity, repository: str, action: Action) -> bool:
        """As Access.allowed. A forge is asked last."""
        found = await self.role(identity, repository, action)
        return includes(found, action)

    async def role(self, identity: Identity, repository: str, enough: Action = ROLES[-1]) -> Action | None:
        """What they may do there; no more than `enough` is looked for. None: nothing."""
        found = role_in(self._directory().roles_of(identity.name, known=identity.known), repository)
        if not isinstance(identity, Member):
            return found
        brought = role_in(identity.roles, repository)
        if brought is not None and not includes(found, brought):
            found = brought
        if not includes(found, enough) and self._forge is not None and identity.authorization:
            said = await self._forge.role(identity.authorization, repository)
            found = said if said is not None and not includes(found, said) else found
        return None if found is None else lower(found, identity.limit)

    async def _by_token(self, given: Credentials, address: str) -> Identity:
        parts = split_token(given.secret)
        found = None if parts is None else self._directory().token(parts[0])
        name = parts[0] if parts is not None else ""
        stored = None if found is None else found[1].hash
        await self._passwords.check(given.secret, stored, self._attempts.one(f"token {name}", address))
        if found is None:
            raise Unidentified("the token is unknown")
        user, token = found
        if given.name not in (None, "", user.name):
            raise Unidentified(f"the token is not {given.name}'s")
        if token.expires is not None and token.expires <= time.time():
            raise Unidentified("the token has expired")
        return Member(user.name, limit=token.role or ROLES[-1])

    def _by_jwt(self, issuer: "Issuer", secret: str) -> Identity:
        claims = issuer.claims(secret)
        self._check_foreign(claims.user)
        return Member(claims.user, roles=claims.roles)

    async def _by_forge(self, forge: "Forge", given: Credentials, address: str) -> Identity:
        shown = _for_forge(given, basic=self._forge_takes_basic)
        attempt = (
            self._attempts.one(given.name or "", address)
            if not forge.knows(shown)
            else contextlib.nullcontext()
        )
        with attempt:
            name = await forge.user(shown)
        self._check_foreign(name)
        return Member(name, authorization=shown)

    def _check_foreign(self, name: str) -> None:
        if self._password_of(name) is not None:
            raise Unidentified(f"{name} has a password here: it must be used")

    def _password_of(self, name: str) -> str | None:
        user = self._directory().users.get(name)
        if user is not None and user.password is not None:
            return user.password
        return None if self._htpasswd is None else self._htpasswd.current().get(name)

    def _directory(self) -> Directory:
        return Directory() if self._users is None else self._users.current()


def create_access(store: Path, options: AccessOptions, nobody: str = ANONYMOUS) -> Access:
    """Who may do what, as configured: without any source of users, everybody who can connect. InvalidConfig.

    `nobody`: the name that those go by who do not say one, where there are no users.
    """
    users = options.users or store / USERS_FILE
    has_file = options.users is not None or users.exists()
    if not has_file and options.htpasswd is None and options.jwt is None and options.forge is None:
        return LoopbackAccess(nobody)
    return Permissions(
        Watched(users, parse_users) if has_file else None,
        Watched(options.htpasswd, parse_htpasswd) if options.htpasswd is not None else None,
        _issuer(options.jwt) if options.jwt is not None else None,
        _forge(options.forge) if options.forge is not None else None,
        Attempts(options.attempts, options.attempts_window),
        forge_takes_basic=options.forge is None or options.forge.kind == "gitea",
    )


def _issuer(options: JwtOptions) -> "Issuer":
    from lfsfs.server.access.issuer import Issuer  # it brings what most servers can do without

    return Issuer(options)


def _forge(options: ForgeOptions) -> "Forge":
    from lfsfs.server.access.forge import Forge  # as above

    return Forge(options)


def _credentials(authorization: str) -> Credentials:
    """Unidentified where they are none that we know."""
    scheme, _, said = authorization.partition(" ")
    said = said.strip()
    if scheme.lower() in ("bearer", "token") and said.isascii() and said.isprintable():
        return Credentials(None, said)
    if scheme.lower() != "basic":
        raise Unidentified("the credentials are of an unknown kind")
    try:
        name, colon, secret = base64.b64decode(said, validate=True).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise Unidentified("the credentials are no Basic credentials") from error
    if not colon or not secret or not (name + secret).isprintable():
        raise Unidentified("the credentials are no Basic credentials")
    return Credentials(name, secret)


def _for_forge(given: Credentials, *, basic: bool) -> str:
    """As the forge wants them: GitHub's API takes tokens alone, whatever name stands beside them."""
    if given.name and basic:
        said = base64.b64encode(f"{given.name}:{given.secret}".encode()).decode()
        return f"Basic {said}"
    if not given.secret.isascii():
        raise Unidentified("the token is unknown")
    return f"{'token' if basic else 'Bearer'} {given.secret}"


def _is_jwt(text: str) -> bool:
    """Whether a secret looks like a JSON Web Token: three parts, the first of them a JSON object."""
    return text.startswith("eyJ") and text.count(".") == 2
