"""Attempts: how often somebody may be wrong. Counted by name and address, and by address."""

import hashlib
import ipaddress
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lfsfs.server.access.access import TooManyAttempts, Unidentified

COUNTED = 10_000
"""Names and addresses of which wrong attempts are known; beyond, the oldest are forgotten."""
_PER_ADDRESS = 10
_IPV6_BITS = 64


class Attempts:
    """At most `limit` wrong ones of a name from one address in `window` seconds; of the address, ten times as many."""

    def __init__(self, limit: int, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._wrong: OrderedDict[bytes, deque[float]] = OrderedDict()

    @contextmanager
    def one(self, name: str, address: str) -> Iterator[None]:
        """An attempt: a wrong one where it ends with Unidentified. TooManyAttempts before it begins.

        It counts from its beginning, so that many at once get no further than one after the other.
        """
        kept = (
            (_key(f"name {name}", address), self._limit),
            (_key("any", address), self._limit * _PER_ADDRESS),
        )
        now = self._clock()
        for key, limit in kept:
            self._check(key, limit, now)
        for key, _ in kept:
            self._add(key, now)
        try:
            yield
        except Unidentified:
            raise
        except BaseException:
            self._take_back(kept, now)
            raise
        else:
            self._take_back(kept, now)

    def _check(self, key: bytes, limit: int, now: float) -> None:
        moments = self._wrong.get(key)
        while moments and moments[0] <= now - self._window:
            moments.popleft()
        if moments and len(moments) >= limit:
            seconds = max(1, math.ceil(moments[0] + self._window - now))
            raise TooManyAttempts("too many wrong passwords: wait", seconds)

    def _add(self, key: bytes, now: float) -> None:
        self._wrong.setdefault(key, deque()).append(now)
        self._wrong.move_to_end(key)
        while len(self._wrong) > COUNTED:
            self._wrong.popitem(last=False)

    def _take_back(self, kept: tuple[tuple[bytes, int], ...], moment: float) -> None:
        for key, _ in kept:
            moments = self._wrong.get(key)
            if moments is not None and moment in moments:
                moments.remove(moment)
                if not moments:
                    del self._wrong[key]


def _key(name: str, address: str) -> bytes:
    said = f"{_network(address)}\0{name}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, digest_size=16).digest()


def _network(address: str) -> str:
    """One customer's: of IPv6, the 64 bits that a network has; the rest is whatever its owner likes."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_BITS), strict=False))
