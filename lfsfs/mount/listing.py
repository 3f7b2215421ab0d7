"""Listing: an open directory, read page by page, so that one of a million names takes no more memory than one of few.

A position is the number of the page and of the name in it. Where a page begins stays as it was, whatever comes or goes
elsewhere; a position that is asked for again is found again.
"""

from lfsfs.mount.nodes import Entry, Node

_SHIFT = 32  # bits for the number of a name in its page


class Listing:
    """One open directory."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.version: object = None  # of the list, while the kernel may keep what it reads here
        self._starts: list[object] = [None]
        self._number = -1
        self._page: list[Entry] = []

    async def entries(self, position: int) -> tuple[list[tuple[int, Entry]], int | None]:
        """What is left of a page from this position on (0: the first), each with the position after it; and where the
        next page begins, or None.
        """
        number, at = position >> _SHIFT, position & (1 << _SHIFT) - 1
        if position == 0:
            self._starts, self._number = [None], -1
        if number != self._number:
            await self._load(number)
        following = number + 1 << _SHIFT if number + 1 < len(self._starts) else None
        first = number << _SHIFT | at + 1
        found = [entry for entry in enumerate(self._page[at:], first) if entry[1][1]]
        return found, following

    def state(self) -> tuple[list[object], int, list[bytes]]:
        """Where its pages begin, the number of the one that is read, and the names in it."""
        return list(self._starts), self._number, [name for name, _ in self._page]

    async def resume(self, starts: list[object], number: int, names: list[bytes]) -> None:
        """Goes on where another one was: each name that is still there has the place that it had."""
        self._starts = list(starts)
        if number < 0:
            return
        await self._load(number)
        found = {entry[0]: entry for entry in self._page}
        self._page = [found.pop(name, (name, ())) for name in names] + list(found.values())

    async def _load(self, number: int) -> None:
        if number >= len(self._starts):  # no position of ours
            self._page, self._number = [], number
            return
        self._page, following = await self.node.page(self._starts[number])
        self._number = number
        if following is not None and number + 1 == len(self._starts):
            self._starts.append(following)
