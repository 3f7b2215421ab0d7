"""Scanner: the interface of what looks into objects, and what it is handed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from lfsfs.oid import Oid

PIECE_BYTES = 1 << 20
LONGEST_FINDING = 200


@dataclass(frozen=True, slots=True)
class Subject:
    """An object to be looked into. Its bytes are `content`, or, where that is None, those of the file `path`."""

    oid: Oid
    size: int
    path: Path
    content: bytes | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, in order, in pieces of up to 1 MiB."""
        if self.content is not None:
            yield self.content
            return
        async with await trio.open_file(self.path, "rb") as file:
            while piece := await file.read(PIECE_BYTES):
                yield piece


class Scanner(Protocol):
    """What looks into objects."""

    name: str
    """Which one it is, for a person."""

    async def scan(self, subject: Subject) -> str | None:
        """What it found, in its own words, one line; None: nothing.

        Unavailable where it does not say: it cannot be reached, or failed. May take for ever: the caller has a deadline.
        """


def shown(finding: str) -> str:
    """What a scanner says, as it can be shown."""
    line = " ".join(finding.split())
    return "".join(sign if sign.isprintable() else "?" for sign in line)[:LONGEST_FINDING]
