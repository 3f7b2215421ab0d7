"""Master keys: what the keys of a ring are wrapped by. From a file, the environment, or whoever a command asks."""

import hashlib
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lfsfs.errors import InvalidConfig, Unavailable

KEY_BYTES = 32
COMMAND_SECONDS = 60.0
_NONCE_BYTES = 12
_FINGERPRINT = b"lfsfs master key\0"


class Refused(Exception):
    """This master key did not wrap that."""


class MasterKey(Protocol):
    """Wraps keys. `name` tells it from others, and nothing of the key itself. Blocks: to be called in a thread."""

    @property
    def name(self) -> str: ...

    def wrap(self, key: bytes) -> bytes:
        """Unavailable where it has to be asked, and does not answer."""

    def unwrap(self, wrapped: bytes) -> bytes:
        """Refused where it is another one's, or damaged. Unavailable."""


class LocalKey:
    """32 bytes that this process knows."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise InvalidConfig(f"a master key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = AESGCM(key)
        self.name = "key:" + hashlib.sha256(_FINGERPRINT + key).hexdigest()[:16]

    def wrap(self, key: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, self.name.encode())

    def unwrap(self, wrapped: bytes) -> bytes:
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], self.name.encode())
        except (InvalidTag, ValueError) as error:
            raise Refused(f"{self.name} did not wrap it") from error


class CommandKey:
    """A key that only a command can use: that of a KMS, an HSM, a smart card.

    `command` is run with `wrap` or `unwrap` after its own arguments, the bytes on its standard input, and gives
    the result on its standard output. A status other than 0 refuses; what it says on standard error is told.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        if not name or not command:
            raise InvalidConfig("a master key that a command has needs a name, and the command")
        self.name = f"command:{name}"
        self._command = list(command)

    def wrap(self, key: bytes) -> bytes:
        try:
            return self._run("wrap", key)
        except Refused as refused:
            raise Unavailable(f"the master key {self.name} cannot be used: {refused}") from refused

    def unwrap(self, wrapped: bytes) -> bytes:
        return self._run("unwrap", wrapped)

    def _run(self, what: str, given: bytes) -> bytes:
        try:
            done = subprocess.run(
                [*self._command, what], input=given, capture_output=True, timeout=COMMAND_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as failed:
            raise Unavailable(f"the master key {self.name} cannot be asked: {failed}") from failed
        if done.returncode or not done.stdout:
            said = done.stderr.decode(errors="replace").strip()
            raise Refused(said or f"{self._command[0]} {what} ended with {done.returncode}")
        return done.stdout


def key_from_file(file: Path) -> LocalKey:
    """Of a file with the 32 bytes, or their 64 hexadecimal digits. InvalidConfig."""
    try:
        return _read(file.read_bytes(), str(file))
    except OSError as error:
        raise InvalidConfig(f"the master key {file}: {error.strerror}") from error


def key_from_environment(variable: str) -> LocalKey:
    """Of an environment variable with the 64 hexadecimal digits. InvalidConfig."""
    value = os.environ.get(variable)
    if value is None:
        raise InvalidConfig(f"the master key: there is no environment variable {variable}")
    return _read(value.encode(), variable)


def _read(content: bytes, where: str) -> LocalKey:
    if len(content) == KEY_BYTES:
        return LocalKey(content)
    try:
        return LocalKey(bytes.fromhex(content.decode("ascii").strip()))
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidConfig(
            f"the master key in {where} is neither {KEY_BYTES} bytes nor 64 hex digits"
        ) from error


def master_key(named: str) -> MasterKey:
    """The one that `file:PATH`, `env:VARIABLE`, `command:NAME:PROGRAM ARGUMENT…` or `kms:KEY` names. InvalidConfig."""
    scheme, _, rest = named.partition(":")
    if scheme == "file":
        return key_from_file(Path(rest))
    if scheme == "env":
        return key_from_environment(rest)
    if scheme == "command":
        name, _, command = rest.partition(":")
        return CommandKey(name, shlex.split(command))
    if scheme == "kms":
        from lfsfs.tiers.encryption.kms import KmsKey  # brings boto3

        return KmsKey(rest)
    raise InvalidConfig(f"not a master key: {named!r}")
