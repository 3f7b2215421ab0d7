"""An issuer of JSON Web Tokens: believed where its signature, its audience and its time are good."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from lfsfs.config_access import JwtOptions
from lfsfs.errors import InvalidConfig
from lfsfs.server.access.access import Unidentified
from lfsfs.server.access.roles import Roles, parse_roles
from lfsfs.server.access.users import NOBODIES, check_user_name
from lfsfs.server.access.watched import Watched

Keys = Mapping[str | None, Any]
"""Public keys by their id (kid); None: the one key of a file that has no ids."""
_TOKEN_LIMIT_CHARACTERS = 16 << 10


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says. `roles`: none where the issuer is not believed in that."""

    user: str
    roles: Roles = ()


class Issuer:
    """One issuer; its keys are read again when their file changes."""

    def __init__(self, options: JwtOptions) -> None:
        self._options = options
        self._keys = Watched(options.keys, parse_keys)

    def claims(self, token: str) -> Claims:
        """Unidentified unless the token is from this issuer, for us, and good now."""
        if len(token) > _TOKEN_LIMIT_CHARACTERS:
            raise Unidentified("the token is too long")
        try:
            key = self._key(jwt.get_unverified_header(token).get("kid"))
            said = jwt.decode(
                token, key,
                algorithms=list(self._options.algorithms),
                audience=self._options.audience,
                issuer=self._options.issuer,
                leeway=self._options.leeway,
                options={"require": ["exp", "iss", "aud"]},
            )  # fmt: skip
            name = check_user_name(said.get(self._options.user))
            if name in NOBODIES:
                raise InvalidConfig(f"{name} is nobody")
            roles = parse_roles(said.get(self._options.roles, {})) if self._options.roles is not None else ()
        except (jwt.PyJWTError, InvalidConfig, TypeError, ValueError) as error:
            raise Unidentified(f"the token is not good: {error}") from error
        return Claims(name, roles)

    def _key(self, kid: object) -> Any:
        keys = self._keys.current()
        found = keys.get(kid) if isinstance(kid, str) else None
        if found is None and len(keys) == 1 and (None in keys or kid is None):
            return next(iter(keys.values()))
        if found is None:
            raise Unidentified("the token is not good: it is signed with an unknown key")
        return found


def parse_keys(file: Path, content: bytes) -> Keys:
    """A JWK set, or a public key as PEM. InvalidConfig; also for shared secrets: whoever verifies could sign."""
    try:
        if content.lstrip().startswith(b"-----BEGIN"):
            return {None: load_pem_public_key(content)}
        said = json.loads(content)
        found: dict[str | None, Any] = {}
        for one in said["keys"]:
            if one.get("kty") == "oct":
                raise InvalidConfig(f"{file}: a shared secret is no key of an issuer")
            if one.get("use", "sig") == "sig":
                found[one.get("kid")] = jwt.PyJWK(one).key
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError, UnsupportedAlgorithm) as error:
        if isinstance(error, InvalidConfig):
            raise
        raise InvalidConfig(f"{file}: no JWK set and no public key as PEM: {error}") from error
    if not found:
        raise InvalidConfig(f"{file}: there is no key in it")
    return found
