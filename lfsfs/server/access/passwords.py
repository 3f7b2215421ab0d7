"""Passwords: secrets are kept as argon2 hashes only, and what was right once is not computed again with each request."""

import functools
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from contextlib import AbstractContextManager

import argon2
import bcrypt
import trio

from lfsfs.errors import InvalidConfig
from lfsfs.server.access.access import Unidentified

REMEMBERED_SECONDS = 300.0
REMEMBERED = 4096
"""Secrets that were right lately, each as a keyed hash."""
PARALLEL = 2
"""Hashes computed at once: each takes _MEMORY_KIB."""
_STRIPES = 64
_MEMORY_KIB = 19 * 1024  # with two passes and one lane: what OWASP asks of argon2id at least
_hasher = argon2.PasswordHasher(time_cost=2, memory_cost=_MEMORY_KIB, parallelism=1)
_ARGON2 = "$argon2"
_BCRYPT = ("$2a$", "$2b$", "$2y$")


def hashed(secret: str) -> str:
    """As it is kept. Takes about 20 ms."""
    return _hasher.hash(secret)


def check_hash(text: object) -> str:
    """InvalidConfig unless it is a hash that can be compared with: argon2, or bcrypt."""
    if isinstance(text, str) and text.startswith(_BCRYPT) and len(text) == 60:
        return text
    try:
        if isinstance(text, str) and text.startswith(_ARGON2):
            argon2.extract_parameters(text)
            return text
    except argon2.exceptions.InvalidHashError:
        pass
    raise InvalidConfig(
        "a password is kept as an argon2 or bcrypt hash: `lfsfs user` and htpasswd -B make them"
    )


class Passwords:
    """Compares secrets with their hashes."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()  # when it was computed
        self._limiter = trio.CapacityLimiter(PARALLEL)
        self._turns = [trio.Lock() for _ in range(_STRIPES)]

    async def check(self, secret: str, stored: str | None, attempt: AbstractContextManager[None]) -> None:
        """Unidentified unless the secret is the one whose hash is `stored`. None: nobody's; that takes as long.

        `attempt` is entered where it must be computed. Many requests with one secret compute it once.
        """
        mark = self._mark(secret, stored or "")
        if self._is_remembered(mark):
            return
        async with self._turns[mark[0] % _STRIPES]:
            if self._is_remembered(mark):
                return
            with attempt:
                right = await trio.to_thread.run_sync(_compare, secret, stored, limiter=self._limiter)
                if stored is None or not right:
                    raise Unidentified("the user name or the password is wrong")
            self._remember(mark)

    def _is_remembered(self, mark: bytes) -> bool:
        computed = self._right.get(mark)
        return computed is not None and time.monotonic() - computed < REMEMBERED_SECONDS

    def _remember(self, mark: bytes) -> None:
        self._right[mark] = time.monotonic()
        self._right.move_to_end(mark)
        while len(self._right) > REMEMBERED:
            self._right.popitem(last=False)

    def _mark(self, secret: str, stored: str) -> bytes:
        """Stands for the pair. Whoever reads it learns nothing about either."""
        return hmac.digest(self._key, f"{stored}\0{secret}".encode("utf-8", "surrogatepass"), hashlib.sha256)


@functools.cache
def _nobodys() -> str:
    """Compared with where there is no such user."""
    return hashed(secrets.token_hex())


def _compare(secret: str, given: str | None) -> bool:
    stored = given or _nobodys()
    if stored.startswith(_BCRYPT):
        try:
            return bcrypt.checkpw(secret.encode(), stored.encode())
        except ValueError:  # longer than bcrypt takes
            return False
    try:
        return _hasher.verify(stored, secret)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False
