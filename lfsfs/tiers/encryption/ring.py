"""The ring: the keys that wrap the data keys of objects, themselves wrapped by a master key. A small text.

To change the master key the ring's keys are wrapped anew: no object is touched. The newest key wraps what is put from
then on; older ones open what they wrapped. Layout: docs/FORMAT.md.
"""

import base64
import binascii
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lfsfs.errors import Corrupt, InvalidConfig, StoreFormat
from lfsfs.tiers.encryption.frames import KEY_BYTES, KEY_ID_BYTES
from lfsfs.tiers.encryption.masters import MasterKey, Refused

FORMAT = 1


class WrongKey(InvalidConfig):
    """The master key is not the one that this store was encrypted with."""


class UnknownKey(Corrupt):
    """It was sealed with a key that this ring does not have: a newer ring may."""


@dataclass(frozen=True, slots=True)
class RingKey:
    """`created`: nanoseconds since 1970."""

    id: bytes
    key: bytes
    created: int


class Ring:
    """The keys of one store, open. Never changed: `with_new_key` makes another one."""

    def __init__(self, keys: Sequence[RingKey]) -> None:
        if not keys:
            raise InvalidConfig("a ring has at least one key")
        self.keys = tuple(sorted(keys, key=lambda key: key.created))
        self._by_id = {key.id: key for key in self.keys}

    @property
    def oldest(self) -> RingKey:
        """Never leaves the ring: what has to stay the same for ever is derived from it."""
        return self.keys[0]

    @property
    def newest(self) -> RingKey:
        """Wraps what is put from now on."""
        return self.keys[-1]

    def find(self, key_id: bytes) -> bytes:
        """UnknownKey where the ring has no such key."""
        found = self._by_id.get(key_id)
        if found is None:
            raise UnknownKey(f"it was sealed with the key {key_id.hex()}, which is not on the ring")
        return found.key

    def with_new_key(self) -> "Ring":
        last = self.newest.created
        return Ring([*self.keys, _new_key(max(time.time_ns(), last + 1))])

    def encode(self, master: MasterKey) -> bytes:
        """The text, its keys wrapped by this master key. Blocks."""
        return json.dumps(self.wrapped(master), indent=1).encode() + b"\n"

    def wrapped(self, master: MasterKey) -> dict[str, object]:
        """What the text says. Blocks."""
        keys = [
            {
                "id": key.id.hex(),
                "created": key.created,
                "wrapped": base64.b64encode(master.wrap(key.key)).decode(),
            }
            for key in self.keys
        ]
        return {"format": FORMAT, "master": master.name, "keys": keys}


def new_ring() -> Ring:
    """With one key, made by chance."""
    return Ring([_new_key(time.time_ns())])


def open_ring(text: bytes, master: MasterKey) -> Ring:
    """WrongKey where another master key wrapped it; StoreFormat where it is damaged, or newer. Blocks."""
    try:
        said = json.loads(text)
        version, name = said["format"], str(said["master"])
        wrapped = [
            (bytes.fromhex(key["id"]), base64.b64decode(key["wrapped"], validate=True), int(key["created"]))
            for key in said["keys"]
        ]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        raise StoreFormat(f"the ring of keys is damaged: {error}") from error
    if version != FORMAT:
        raise StoreFormat(f"the ring of keys has the format {version}: upgrade lfsfs")
    if name != master.name:
        raise WrongKey(f"the store is encrypted with the master key {name}; the one given is {master.name}")
    try:
        return Ring([_checked(RingKey(id, master.unwrap(key), created)) for id, key, created in wrapped])
    except Refused as refused:
        raise WrongKey(f"the master key {name} does not open the ring of keys: {refused}") from refused


def _checked(key: RingKey) -> RingKey:
    if len(key.key) != KEY_BYTES or len(key.id) != KEY_ID_BYTES:
        raise StoreFormat("the ring of keys is damaged: a key of another length")
    return key


def _new_key(created: int) -> RingKey:
    return RingKey(os.urandom(KEY_ID_BYTES), os.urandom(KEY_BYTES), created)
