"""RemoteTier: a tier behind a network. What the store above needs of it, beside the five methods of every tier."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lfsfs.oid import Oid
from lfsfs.tiers.tier import Tier

Sink = Callable[[bytes], None]
"""Takes the next piece. Called in a worker thread; what it raises ends what calls it."""

Check = Callable[[], Awaitable[None]]
"""Raises where the bytes are not what they should be."""

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


@dataclass(frozen=True, slots=True)
class Signed:
    """A URL that is good for a while, and the headers that a request to it must have."""

    url: str
    headers: dict[str, str]


class Direct(Protocol):
    """What lets others move bytes past us: out of the tier, and into notes of it that are not objects yet."""

    async def url_to_read(self, oid: Oid, seconds: int) -> Signed:
        """For GET, by ranges too, of an object's bytes. Whether it is there is not looked at."""

    async def url_to_write(self, note: str, oid: Oid, size: int, seconds: int) -> Signed:
        """For PUT of that many bytes under this name. A server that checks_sha256 takes none but those of `oid`."""

    async def checks_sha256(self) -> bool:
        """Whether such a URL takes no other bytes than it is for. Tried out at the first call."""

    async def length(self, note: str) -> int:
        """Bytes. NotFound."""

    async def fetch(self, note: str, sink: Sink) -> None:
        """Hands all of the note's bytes on to `sink`, in order, as RemoteTier.fetch does. NotFound."""

    async def copy(self, note: str, target: str) -> None:
        """Copies a note inside the tier. NotFound."""

    async def adopt(self, note: str, oid: Oid) -> None:
        """Copies a note inside the tier: the object of this oid, from now on. The caller knows its bytes. NotFound."""


class Source(Protocol):
    """The bytes that are to lie in a tier under an oid: the object's own, or what a decorator has made of them."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> bytes | None:
        """Of these bytes; None: not known."""

    @property
    def exact(self) -> bool:
        """Whether what lies there with another length is damaged; False: it may be the same object in another form."""

    @property
    def over(self) -> bool:
        """Whether what lies there is replaced in any case: it was found damaged. At no moment is there nothing."""

    def read_at(self, offset: int, size: int) -> bytes:
        """So many bytes from `offset`; the same ones each time. LocalDamage where they are not there any more.

        Called in worker threads, several at once.
        """


class RemoteTier(Tier, Protocol):
    """A tier whose every call may take long and fail for a while.

    Unavailable is what passes by itself: nobody answers, timeouts, a server that is overloaded. Denied and
    InvalidConfig do not: their messages say what a person has to do. Retries of single requests are inside.
    A call that is cancelled returns at once where it only reads, and otherwise after the socket operation, or
    the pause of a few seconds before another try, that it is in.
    """

    @property
    def direct(self) -> Direct | None:
        """None where what lies in the tier is not the object's bytes as they are, or where they need a key of ours."""

    async def put_checked(self, oid: Oid, source: Path, check: Check) -> None:
        """As `put`, with `check` awaited before the object appears: where it raises, nothing does.

        The parts of a large object are sent meanwhile.
        """

    async def put_source(self, oid: Oid, source: Source, check: Check) -> None:
        """As `put_checked`, of bytes that need not be a file's, nor the object's own."""

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

    async def grants_names(self) -> bool:
        """Whether `only_new` keeps that promise here. Tried out at the first call: some servers do not say that they
        do not. What was written for that is gone afterwards.
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


class RemoteLeaf(RemoteTier, Protocol):
    """A remote tier that stands on no other one."""

    def below(self, name: str) -> "RemoteLeaf":
        """A tier of its own in the same place: all that it has lies below `name`, where this one keeps nothing."""
