"""keys.json: the keys that the objects on the local disk are encrypted with, wrapped by a master key.

There are two copies of it, since nothing else opens the objects. Who has the store open holds its format file shared:
that there are keys, and whether what comes is encrypted, is changed only while nobody has.
"""

import hmac
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lfsfs import durable
from lfsfs.alone import try_alone
from lfsfs.config import parse_encryption_key
from lfsfs.errors import InUse, InvalidConfig, StoreFormat
from lfsfs.store.layout import FORMAT_FILE, KEYS_COPY, KEYS_FILE, say_sealed
from lfsfs.tiers.encryption.masters import MasterKey, master_key
from lfsfs.tiers.encryption.ring import Ring, WrongKey, new_ring, open_ring

log = logging.getLogger("lfsfs.store")
FORMAT = 1
_PURPOSE = b"lfsfs local"


@dataclass(frozen=True)
class StoreKeys:
    """The keys of a store, open. `source`: where the master key is. `leaving`: the store is being decrypted."""

    source: str
    ring: Ring
    leaving: bool = False

    def encode(self, master: MasterKey) -> bytes:
        """Blocks."""
        said = {
            "format": FORMAT,
            "key": self.source,
            "leaving": self.leaving,
            "ring": self.ring.wrapped(master),
        }
        return json.dumps({**said, "mac": _mac(said, self.ring)}, indent=1).encode() + b"\n"


def load(store: Path, source: str | None = None, *, keep: bool = False) -> StoreKeys:
    """The keys. `source`: where the master key is, if not where was written down; with `keep` that is from now on.

    WrongKey; InvalidConfig where there is no such key; StoreFormat where both copies are damaged. Blocks.
    """
    try:
        keys, written = _read(store / KEYS_FILE, source)
    except (WrongKey, StoreFormat) as wrong:
        try:
            keys, written = _read(store / KEYS_COPY, source)
        except (WrongKey, StoreFormat, InvalidConfig):
            raise wrong from None
        log.warning("%s is damaged, and is taken from its copy", store / KEYS_FILE)
        written = ""
    if os.access(store, os.W_OK):
        if written != keys.source and (keep or not written):
            save(store, keys)
        else:
            _mend_copy(store)
    return keys


def create(store: Path, source: str) -> StoreKeys:
    """New keys: from now on what comes is encrypted. InUse where somebody has the store open. Blocks."""
    keys = StoreKeys(source, new_ring())
    with _alone(store):
        save(store, keys)
        say_sealed(store, sealed=True)
    return keys


def leave(store: Path, keys: StoreKeys, *, leaving: bool = True) -> StoreKeys:
    """From now on what comes is plain, or encrypted again. InUse where somebody has the store open. Blocks."""
    changed = replace(keys, leaving=leaving)
    if changed != keys:
        with _alone(store):
            save(store, changed)
    return changed


def save(store: Path, keys: StoreKeys) -> None:
    """Writes both copies, durably: at each moment one of them opens. Blocks."""
    text = keys.encode(master_key(keys.source))
    for name in (KEYS_FILE, KEYS_COPY):
        _write(store, name, text)


def _write(store: Path, name: str, text: bytes) -> None:
    fresh = store / f"{name}.{os.getpid()}.new"
    fd = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(text)
        file.flush()
        durable.fsync(fd, "fsync-keys")
    durable.rename(fresh, store / name, "rename-keys")
    durable.fsync_path(store, "fsync-store")


def _mend_copy(store: Path) -> None:
    """The copy is what the file is that was read just now: it may be damaged, or older, where a change was cut off."""
    try:
        text = (store / KEYS_FILE).read_bytes()
        if not (store / KEYS_COPY).exists() or (store / KEYS_COPY).read_bytes() != text:
            log.warning("%s is not what it should be, and is written anew", store / KEYS_COPY)
            _write(store, KEYS_COPY, text)
    except OSError as failed:  # what is read is right all the same
        log.warning("the copy of %s is not looked at: %s", store / KEYS_FILE, failed)


def remove(store: Path) -> None:
    """Nothing is encrypted any more. Absent is success. Blocks."""
    say_sealed(store, sealed=False)  # first: a store that says it is encrypted and has no keys has lost them
    for name in (KEYS_FILE, KEYS_COPY):
        if (store / name).exists():
            durable.unlink(store / name, "unlink-keys")
            durable.fsync_path(store, "fsync-store")


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    with (store / FORMAT_FILE).open("rb") as held:
        if not try_alone(held):
            raise InUse(
                f"{store} is mounted, or in use: its objects begin to be encrypted, or not to be, while nobody uses it:"
                " unmount it first"
            )
        yield


def _read(file: Path, source: str | None) -> tuple[StoreKeys, str]:
    """The keys, and where the master key is as it was written down."""
    try:
        said = json.loads(file.read_bytes())
        mac = str(said.pop("mac"))
        wrapped, written, leaving = said["ring"], parse_encryption_key(said["key"]), bool(said["leaving"])
        version = said["format"]
    except FileNotFoundError as error:
        raise StoreFormat(
            f"{file} is gone: without it nobody reads what is encrypted in the store"
        ) from error
    except PermissionError as refused:
        raise InvalidConfig(
            f"the objects of the store are encrypted, and {file} is for another user: {refused.strerror}"
        ) from refused
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidConfig) as error:
        raise StoreFormat(f"{file} is damaged: {error}") from error
    if version != FORMAT:
        raise StoreFormat(f"{file} has the format {version}: upgrade lfsfs")
    ring = open_ring(json.dumps(wrapped).encode(), _master_key(source or written))
    if not hmac.compare_digest(mac.encode(errors="replace"), _mac(said, ring).encode()):
        raise StoreFormat(f"{file} is damaged, or was changed by somebody who does not have its keys")
    return StoreKeys(source or written, ring, leaving), written


def _master_key(source: str) -> MasterKey:
    try:
        return master_key(source)
    except InvalidConfig as absent:
        raise InvalidConfig(
            f"the objects of the store are encrypted, and their key is not there: {absent}. Where it is now:"
            " `lfsfs mount --store-key SOURCE`, or encryption_key in [store]"
        ) from absent


def _mac(said: dict[str, Any], ring: Ring) -> str:
    key = HKDF(hashes.SHA256(), 32, None, _PURPOSE).derive(ring.oldest.key)
    text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, text, sha256).hexdigest()
