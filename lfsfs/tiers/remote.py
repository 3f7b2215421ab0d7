"""RemoteTier: a tier behind a network. What the store above needs of it, beside the five methods of every tier."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from lfsfs.oid import Oid
from lfsfs.tiers.tier import Tier

Sink = Callable[[bytes], None]
"""Takes the next piece. Called in a worker thread; what it raises ends what calls it."""

PIECE_BYTES = 1 << 20
"""A sink gets at most so many bytes at once."""

NOTE_BYTES = 256 << 20
"""No note is larger: more is what somebody else has put there."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as a listing tells of it: `size` in bytes, `modified` in nanoseconds since 1970."""

    oid: Oid
    size: int
    modified: int


class RemoteTier(Tier, Protocol):
    """A tier whose every call may take long and fail for a while.

    Unavailable is what passes by itself: nobody answers, timeouts, a server that is overloaded. Denied and
    InvalidConfig do not: their messages say what a person has to do. Retries of single requests are inside.
    A call that is cancelled returns at once where it only reads, and otherwise after the socket operation, or
    the pause of a few seconds before another try, that it is in.
    """

    async def fetch(self, oid: Oid, offset: int, size: int, sink: Sink) -> None:
        """Hands up to `size` bytes from `offset` on to `sink`, in order, as they arrive.

        Short only at the object's end. A body that is cut is resumed where it was cut; Unavailable when that
        brings nothing several times in a row. What the sink raises ends the fetch and is raised here. When
        this call has ended, for whatever reason, the sink is not called any more. NotFound if absent.
        """

    async def survey(self, after: Oid | None, limit: int) -> list[Stored]:
        """As `scan`, with what a listing tells beside the oids."""

    async def put_note(self, key: str, content: bytes, *, only_new: bool = False) -> bool:
        """Writes a small named blob beside the objects; one of that name is replaced. True.

        With `only_new` nothing is replaced: False where there was one already. Of any number of machines
        that try at once, one gets True.
        """

    async def note(self, key: str, limit: int = NOTE_BYTES) -> bytes:
        """A note's content. NotFound if absent; Corrupt where it has more than `limit` bytes: no more are read."""

    async def delete_note(self, key: str) -> None:
        """Removes it. Absent is success."""

    async def notes(self, prefix: str, after: str | None, limit: int) -> list[str]:
        """One ascending page of at most `limit` (1 or more) keys greater than `after` that begin with `prefix`.

        Empty at the end.
        """

    async def check(self) -> None:
        """One cheap request that tells whether the tier can be used: an error says what to do."""

    async def abort_uploads(self, older_than_seconds: float, among: Collection[Oid] | None = None) -> int:
        """Aborts uploads that began so long ago and never ended, all or those of these objects; how many."""
