"""Gathered: what open files hold of slices that are not full yet, bounded for all of them together.

A file's writes are gathered to a slice before a thread hashes them, as a thread is not asked for little. Of some files
that is little memory; of five hundred that are written at once it would be half a gigabyte.
"""

from typing import Protocol

LIMIT_BYTES = 32 << 20


class Gatherer(Protocol):
    """A file that gathers a slice."""

    def hash_gathered(self) -> None:
        """Has it hashed as it is, and calls `went`."""
        ...


class Gathered:
    """Of one staging. Beyond LIMIT_BYTES the files that began their slices first have them hashed. From one thread."""

    def __init__(self) -> None:
        self._sizes: dict[Gatherer, int] = {}
        self.bytes = 0
        """What all of them hold now."""

    def grew(self, file: Gatherer, size: int) -> None:
        """The slice of the file has so many bytes more."""
        self._sizes[file] = self._sizes.get(file, 0) + size
        self.bytes += size
        while self.bytes > LIMIT_BYTES:
            next(iter(self._sizes)).hash_gathered()

    def went(self, file: Gatherer) -> None:
        """It has no slice. Repeating is harmless."""
        held = self._sizes.pop(file, 0)
        if held:  # a seal's thread may say so too, of a file that holds none
            self.bytes -= held
