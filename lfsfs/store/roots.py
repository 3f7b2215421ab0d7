"""Roots: what beyond the index may refer to objects. Whoever deletes asks them first."""

from typing import Protocol

from lfsfs.errors import Refused


class RootUnreadable(Refused):
    """What may refer to objects cannot be read: nothing is deleted. The message names it and says what to do."""


class Roots(Protocol):
    """Something beyond the index that refers to objects: the clones, the other machines."""

    async def strike(self, candidates: set[bytes]) -> None:
        """Takes away what it refers to. RootUnreadable where that cannot be told."""
