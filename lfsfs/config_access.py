"""Configuration of who may what: where the server finds its users, and whom it believes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lfsfs.errors import InvalidConfig

ForgeKind = Literal["gitea", "github"]
JWT_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Those of public keys. None with a shared secret, which a confused verifier takes for a public key."""


@dataclass(frozen=True)
class JwtOptions:
    """An issuer of JSON Web Tokens (RFC 7519) that the server believes."""

    keys: Path
    """Its public keys: a JWK set (RFC 7517), or one key as PEM."""
    issuer: str
    audience: str
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    user: str = "sub"
    """The claim that names the user."""
    roles: str | None = None
    """The claim that says what they may do: an object of patterns and roles. None: only what the users file says."""
    leeway: float = 30.0
    """Seconds that the clocks may differ."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.algorithms if name not in JWT_ALGORITHMS]
        if unknown or not self.algorithms:
            raise InvalidConfig(f"algorithms in [jwt] may be {', '.join(JWT_ALGORITHMS)}: not {unknown}")


@dataclass(frozen=True)
class ForgeOptions:
    """A forge that is asked what a credential may do to the repository of the same name there."""

    url: str
    """Of the forge; for github.com, https://api.github.com."""
    kind: ForgeKind = "gitea"
    """gitea: Forgejo as well."""
    timeout: float = 10.0
    """Seconds for one answer."""
    cache: float = 60.0
    """Seconds that an answer is believed."""
    ca_bundle: Path | None = None


@dataclass(frozen=True)
class AccessOptions:
    """Who may use the server. Without users, htpasswd, jwt and forge: everybody who can connect."""

    users: Path | None = None
    """The file that `lfsfs user` keeps; None: users.toml in the store, where there is one."""
    htpasswd: Path | None = None
    """Further passwords, as Apache's htpasswd -B writes them. What these users may do is in the users file."""
    jwt: JwtOptions | None = None
    forge: ForgeOptions | None = None
    attempts: int = 10
    """Wrong passwords of one user from one address, and ten times as many from one address, in `attempts_window`."""
    attempts_window: float = 60.0
    """Seconds."""
    ssh_root: Path | None = None
    """What is cut from the paths of SSH remotes: with /srv/git, /srv/git/studio/game.git is studio/game."""
    ssh_lifetime: float = 600.0
    """Seconds that a ticket of git-lfs-authenticate is good for."""
