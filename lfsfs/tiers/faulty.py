"""FaultyTier: a tier with planned faults, to see what all above it does when a disk or a network fails."""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

from lfsfs.errors import InvalidConfig, LfsfsError, Unavailable
from lfsfs.oid import Oid
from lfsfs.tiers.tier import Tier, Wrapper

Method = Literal["put", "read", "size", "delete", "scan"]
_WITH_BYTES = frozenset(("put", "read"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Happens to call number `call` of `method`, and to the `times` - 1 after it. Calls count from 1."""

    method: Method
    call: int = 1
    times: float = 1

    def hits(self, method: str, number: int) -> bool:
        return method == self.method and self.call <= number < self.call + self.times


@dataclass(frozen=True, kw_only=True, slots=True)
class Fail(Fault):
    """The call raises `error`. With `after` it has taken effect all the same: only the answer is lost."""

    error: type[LfsfsError] = Unavailable
    after: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay(Fault):
    """The call begins so many seconds later; with math.inf it hangs until it is cancelled."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Truncate(Fault):
    """Only the first `keep` bytes come through: of a read's answer, or of a put's source."""

    keep: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FlipBit(Fault):
    """One bit comes through wrong, in a read's answer or a put's source. Bit 0 is the first byte's lowest.

    Where there are no bytes, or not so many, the bit is counted round.
    """

    bit: int = 0


ALWAYS = math.inf
"""`times` of a fault that never ends."""


class FaultyTier(Wrapper):
    """Passes every call on to `inner`, but for the `faults`. `calls` counts those of each method.

    Several faults of one call all happen: first it is late, then it fails, then its bytes are damaged.
    """

    def __init__(self, inner: Tier, faults: Iterable[Fault] = ()) -> None:
        super().__init__(inner)
        self.faults = list(faults)
        self.calls: Counter[str] = Counter()
        for fault in self.faults:
            if isinstance(fault, Truncate | FlipBit) and fault.method not in _WITH_BYTES:
                raise InvalidConfig(f"{type(fault).__name__} has no bytes to damage in {fault.method}")

    async def put(self, oid: Oid, source: Path) -> None:
        faults = await self._begin("put")
        if not _damages(faults):
            await super().put(oid, source)
        else:
            with tempfile.TemporaryDirectory(dir=source.parent, prefix="faulty-") as directory:
                damaged = Path(directory, "damaged")
                damaged.write_bytes(_damaged(source.read_bytes(), faults))
                await super().put(oid, damaged)
        self._end("put", faults)

    async def read(self, oid: Oid, offset: int, size: int) -> bytes:
        faults = await self._begin("read")
        content = await super().read(oid, offset, size)
        self._end("read", faults)
        return _damaged(content, faults)

    async def size(self, oid: Oid) -> int:
        faults = await self._begin("size")
        size = await super().size(oid)
        self._end("size", faults)
        return size

    async def delete(self, oid: Oid) -> None:
        faults = await self._begin("delete")
        await super().delete(oid)
        self._end("delete", faults)

    async def scan(self, after: Oid | None, limit: int) -> list[Oid]:
        faults = await self._begin("scan")
        page = await super().scan(after, limit)
        self._end("scan", faults)
        return page

    async def _begin(self, method: Method) -> list[Fault]:
        self.calls[method] += 1
        number = self.calls[method]
        faults = [fault for fault in self.faults if fault.hits(method, number)]
        for fault in faults:
            if isinstance(fault, Delay):
                await trio.sleep(fault.seconds)
        _fail(method, faults, after=False)
        return faults

    def _end(self, method: Method, faults: list[Fault]) -> None:
        _fail(method, faults, after=True)


def _fail(method: Method, faults: list[Fault], *, after: bool) -> None:
    for fault in faults:
        if isinstance(fault, Fail) and fault.after == after:
            raise fault.error(f"fault injected {'after' if after else 'into'} {method}")


def _damages(faults: list[Fault]) -> bool:
    return any(isinstance(fault, Truncate | FlipBit) for fault in faults)


def _damaged(content: bytes, faults: list[Fault]) -> bytes:
    for fault in faults:
        if isinstance(fault, Truncate):
            content = content[: fault.keep]
        elif isinstance(fault, FlipBit) and content:
            at, bit = divmod(fault.bit % (8 * len(content)), 8)
            content = content[:at] + bytes((content[at] ^ 1 << bit,)) + content[at + 1 :]
    return content
