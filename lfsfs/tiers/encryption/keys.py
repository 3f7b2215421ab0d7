"""Keys: the ring of a store, for any number of threads, and the data keys of the objects that were read last."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable

from lfsfs.oid import Oid
from lfsfs.tiers.encryption import frames
from lfsfs.tiers.encryption.frames import Frames, Head
from lfsfs.tiers.encryption.ring import Ring, UnknownKey

REMEMBERED = 4_096  # objects whose keys need not be unwrapped again
Reload = Callable[[], Ring]
"""The ring as it is now: another process may have added a key. Blocks."""


class Keys:
    """`reload`: asked for a key that the ring has not got; None: nobody adds any."""

    def __init__(self, ring: Ring, reload: Reload | None = None) -> None:
        self._ring = ring
        self._reload = reload
        self._known: OrderedDict[tuple[Oid, Head], Frames] = OrderedDict()
        self._lock = threading.Lock()

    def new(self, oid: Oid) -> tuple[bytes, Frames]:
        """The head of a sealed form of the object that is about to be made, and what seals its frames."""
        newest, data_key = self._ring.newest, os.urandom(frames.KEY_BYTES)
        head = frames.encode_head(oid, newest.id, newest.key, data_key, os.urandom(frames.NONCE_BYTES))
        return head, Frames(oid, data_key)

    def frames(self, oid: Oid, head: Head) -> Frames:
        """What opens the frames after this head. Corrupt where it is damaged, or another object's; UnknownKey."""
        with self._lock:
            known = self._known.get((oid, head))
            if known is not None:
                self._known.move_to_end((oid, head))
                return known
        found = Frames(oid, frames.unwrap(head, oid, self._find(head.key_id)))
        with self._lock:
            self._known[oid, head] = found
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def _find(self, key_id: bytes) -> bytes:
        try:
            return self._ring.find(key_id)
        except UnknownKey:
            if self._reload is None:
                raise
        self._ring = self._reload()
        return self._ring.find(key_id)
