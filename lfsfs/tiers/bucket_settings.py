"""What a bucket says of itself: how what lies in it is encoded. A small plain note, and a copy in each store.

Only encrypted and compressed buckets have it. Layout: docs/FORMAT.md.
"""

import hmac
import json
import os
import uuid
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lfsfs import durable
from lfsfs.errors import InvalidConfig, StoreFormat
from lfsfs.tiers.encryption.masters import MasterKey
from lfsfs.tiers.encryption.ring import Ring, open_ring

KEY = "bucket.json"
"""Of the note; and the name of the copy in a store."""
LARGEST_BYTES = 1 << 20
FORMAT = 1
_PURPOSE = b"lfsfs bucket"
_HASHED = {"plain": False, "hashed": True}


@dataclass(frozen=True, slots=True)
class Encryption:
    """`hashed`: the names are. `mixed`: some of it may be plain, some encrypted. `ring`: as its text has it.

    `leaving`: what is written is plain, as the bucket is being decrypted; or was, where it is not mixed.
    """

    hashed: bool
    mixed: bool
    ring: dict[str, object]
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """`id`: by chance, and for ever. `compressed`: objects may be."""

    id: str
    compressed: bool = False
    encryption: Encryption | None = None
    mac: str = ""

    @property
    def is_encrypted(self) -> bool:
        """Whether anything in it is, or may be."""
        return self.encryption is not None and (self.encryption.mixed or not self.encryption.leaving)

    def signed(self, ring: Ring) -> "BucketSettings":
        """With the proof that somebody with the keys has written it."""
        return replace(self, mac=self._mac(ring))

    def open_ring(self, master: MasterKey) -> Ring:
        """The keys. WrongKey, StoreFormat where somebody without keys has changed what is said here. Blocks."""
        assert self.encryption is not None
        ring = open_ring(json.dumps(self.encryption.ring).encode(), master)
        if not hmac.compare_digest(self.mac.encode(errors="replace"), self._mac(ring).encode()):
            raise StoreFormat(f"{KEY} of the bucket was changed by somebody who does not have its keys")
        return ring

    def encode(self) -> bytes:
        return json.dumps({**self._said(), "mac": self.mac}, indent=1).encode() + b"\n"

    def _said(self) -> dict[str, object]:
        encryption = self.encryption and {
            "names": "hashed" if self.encryption.hashed else "plain",
            "mixed": self.encryption.mixed,
            "ring": self.encryption.ring,
            **({"leaving": True} if self.encryption.leaving else {}),
        }
        return {"format": FORMAT, "id": self.id, "compressed": self.compressed, "encryption": encryption}

    def _mac(self, ring: Ring) -> str:
        key = HKDF(hashes.SHA256(), 32, None, _PURPOSE).derive(ring.oldest.key)
        said = json.dumps(self._said(), sort_keys=True, separators=(",", ":")).encode()
        return hmac.new(key, said, sha256).hexdigest()


def new_settings() -> BucketSettings:
    """Of a bucket that is neither encrypted nor compressed yet."""
    return BucketSettings(str(uuid.uuid4()))


def decode(text: bytes) -> BucketSettings:
    """StoreFormat where it is damaged, or newer than this lfsfs."""
    try:
        return _settings(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreFormat(f"{KEY} of the bucket is damaged: {error}") from error


def _settings(said: dict[str, Any]) -> BucketSettings:
    if said["format"] != FORMAT:
        raise StoreFormat(f"the bucket has the format {said['format']}: upgrade lfsfs")
    found = said["encryption"]
    encryption = found and Encryption(
        _HASHED[found["names"]], bool(found["mixed"]), dict(found["ring"]), bool(found.get("leaving"))
    )
    return BucketSettings(str(said["id"]), bool(said["compressed"]), encryption or None, str(said["mac"]))


class Copy:
    """What a store keeps of its bucket's settings: without the ring, nothing in the bucket can be read."""

    def __init__(self, store: Path, remote: str) -> None:
        """`remote`: which bucket it is that the store has."""
        self._store = store
        self._remote = remote

    def load(self) -> BucketSettings | None:
        """None where there is none of this bucket."""
        try:
            said = json.loads((self._store / KEY).read_bytes())
            return _settings(said["settings"]) if said["remote"] == self._remote else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidConfig(f"{self._store / KEY} cannot be used: {error}") from error

    def save(self, settings: BucketSettings) -> None:
        """Durably; nothing where the store takes no writes."""
        if not os.access(self._store, os.W_OK) or self.load() == settings:
            return
        said = {"remote": self._remote, "settings": json.loads(settings.encode())}
        fresh = self._store / f"{KEY}.new"
        fd = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as opened:
            opened.write(json.dumps(said, indent=1) + "\n")
            opened.flush()
            durable.fsync(fd, "fsync-bucket-file")
        durable.rename(fresh, self._store / KEY, "rename-bucket-file")
        durable.fsync_path(self._store, "fsync-store")
