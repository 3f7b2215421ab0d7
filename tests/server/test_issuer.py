"""JSON Web Tokens: believed of the one issuer, for us, while they are good, and however they lie, of nobody else."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lfsfs.config_access import AccessOptions, JwtOptions
from lfsfs.errors import InvalidConfig
from lfsfs.server.access import editing
from lfsfs.server.access.access import Access, Unidentified
from lfsfs.server.access.issuer import parse_keys
from lfsfs.server.access.permissions import create_access

ISSUER, AUDIENCE = "https://id.example.org", "lfs"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = Ed25519PrivateKey.generate()
FOREIGN = rsa.generate_private_key(65537, 2048)
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk(key: Any, kid: str) -> dict[str, Any]:
    algorithm = {"RSAPrivateKey": jwt.algorithms.RSAAlgorithm, "ECPrivateKey": jwt.algorithms.ECAlgorithm}
    kind = next(
        (one for name, one in algorithm.items() if name in type(key).__name__), jwt.algorithms.OKPAlgorithm
    )
    return json.loads(kind.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"}


KEYS = json.dumps({"keys": [jwk(RSA, "r1"), jwk(EC, "e1"), jwk(ED, "d1")]})


@pytest.fixture
def access(tmp_path: Path) -> Access:
    (tmp_path / "jwks.json").write_text(KEYS)
    options = JwtOptions(tmp_path / "jwks.json", ISSUER, AUDIENCE, roles="lfsfs_roles", leeway=1.0)
    return create_access(tmp_path, AccessOptions(jwt=options))


def claims(**other: Any) -> dict[str, Any]:
    said = {"sub": "alice", "iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 60} | other
    return {name: value for name, value in said.items() if value is not None}


def signed(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "r1", **other: Any) -> str:
    return jwt.encode(claims(**other), key, algorithm, headers={"kid": kid} if kid else None)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def by_hand(header: dict[str, Any], said: dict[str, Any], secret: bytes | None = None) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in (header, said)]
    signature = b"" if secret is None else hmac.digest(secret, b".".join(parts), hashlib.sha256)
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(RSA, "RS256", "r1"), (EC, "ES256", "e1"), (ED, "EdDSA", "d1")],
    ids=["RS256", "ES256", "EdDSA"],
)
async def test_a_good_token_is_its_subject(access: Access, key: Any, algorithm: str, kid: str) -> None:
    token = signed(key, algorithm, kid, lfsfs_roles={"studio/*": "write"})
    said = base64.b64encode(f"_jwt:{token}".encode()).decode()
    for headers in (bearer(token), {"authorization": f"Basic {said}"}):
        alice = await access.identify(headers)
        assert (alice.name, alice.known) == ("alice", True)
        assert await access.allowed(alice, "/studio/game", "write")
        assert not await access.allowed(alice, "/studio/game", "admin")
        assert not await access.allowed(alice, "/other/game", "read")


BAD = {
    "expired": lambda: signed(exp=int(time.time()) - 5),
    "no expiry": lambda: signed(exp=None),
    "not yet": lambda: signed(nbf=int(time.time()) + 60),
    "for others": lambda: signed(aud="another"),
    "for nobody": lambda: signed(aud=None),
    "of others": lambda: signed(iss="https://id.example.com"),
    "of nobody": lambda: signed(iss=None),
    "foreign key": lambda: signed(FOREIGN),
    "unknown key": lambda: signed(kid="x"),
    "no key id": lambda: signed(kid=None),
    "another's key": lambda: signed(EC, "ES256", "r1"),
    "algorithm not in the list": lambda: signed(algorithm="RS512"),
    "alg none": lambda: by_hand({"alg": "none", "typ": "JWT", "kid": "r1"}, claims()),
    "alg None": lambda: by_hand({"alg": "None", "kid": "r1"}, claims()),
    "HS256 with the public key": lambda: by_hand({"alg": "HS256", "kid": "r1"}, claims(), PEM),
    "no subject": lambda: signed(sub=None),
    "subject with a line": lambda: signed(sub="alice\r\nSet-Cookie: a=b"),
    "subject anonymous": lambda: signed(sub="anonymous"),
    "roles that are none": lambda: signed(lfsfs_roles={"**": "root"}),
    "roles as a list": lambda: signed(lfsfs_roles=["admin"]),
    "own key in the header": lambda: jwt.encode(
        claims(), FOREIGN, "RS256", headers={"jwk": jwk(FOREIGN, "r1"), "kid": "r1"}
    ),
    "cut": lambda: signed()[:-10],
    "too long": lambda: signed(x="a" * 20_000),
    "no json": lambda: "eyJ.eyJ.x",
}


@pytest.mark.parametrize("why", BAD)
async def test_a_token_that_is_not_good_is_nobody(access: Access, why: str) -> None:
    with pytest.raises(Unidentified) as error:
        await access.identify(bearer(BAD[why]()))
    assert "\n" not in str(error.value)


async def test_what_the_users_file_says_of_a_name_holds_for_it(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(PEM)
    editing.add_user(tmp_path / "users.toml", "alice", None)
    editing.grant(tmp_path / "users.toml", "alice", "write", "studio/*")
    editing.add_user(tmp_path / "users.toml", "bob", "has one here")
    access = create_access(
        tmp_path, AccessOptions(jwt=JwtOptions(tmp_path / "key.pem", ISSUER, AUDIENCE, user="email"))
    )
    alice = await access.identify(bearer(signed(kid=None, email="alice", lfsfs_roles={"**": "admin"})))
    assert await access.allowed(alice, "/studio/game", "write")
    assert not await access.allowed(alice, "/other/game", "read"), "roles of a claim that was not configured"
    with pytest.raises(Unidentified, match="bob has a password here"):
        await access.identify(bearer(signed(kid=None, email="bob")))


async def test_new_keys_hold_when_their_file_changes(access: Access, tmp_path: Path) -> None:
    fresh = signed(FOREIGN, kid="r2")
    with pytest.raises(Unidentified):
        await access.identify(bearer(fresh))
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [jwk(FOREIGN, "r2")]}))
    assert (await access.identify(bearer(fresh))).name == "alice"
    with pytest.raises(Unidentified):
        await access.identify(bearer(signed()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "a"}]}', "a shared secret is no key"),
        ('{"keys": []}', "there is no key"),
        ('{"keys": [{"kty": "RSA"}]}', "no JWK set"),
        ('{"keys": 1}', "no JWK set"),
        ("[]", "no JWK set"),
        ("", "no JWK set"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key as PEM"),
    ],
    ids=["shared secret", "none", "half a key", "a number", "a list", "nothing", "no PEM"],
)
def test_a_file_without_good_keys_is_an_error_at_the_start(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        parse_keys(tmp_path / "keys", text.encode())
