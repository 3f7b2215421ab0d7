"""Remembered: what the kernel keeps of a directory's list, and whether that is still so.

Whoever opens the directory asks us, each time: then the kernel is told to use what it has only if that is the list as it
is now, whoever has changed it. What it keeps is put together by all who read the directory, each from where he was: so
it is of no use once two have read different versions at the same time, until all of them have closed it.
"""

from collections import Counter
from typing import Protocol


class Open(Protocol):
    """A directory that somebody has open. `version`: of the list that the kernel keeps as it is read here, or None."""

    version: object


class Remembered:
    """Of one directory."""

    def __init__(self) -> None:
        self._version: object = None  # of all that the kernel may have kept
        self._read: Counter[object] = Counter()  # versions that are being read and kept

    def opened(self, listing: Open, version: object) -> bool:
        """Somebody opens it, and its list has this version (None: nobody knows); whether the kernel may use what it has.

        If not, it drops that. Whether it keeps what is read now, `listing.version` says.
        """
        if version is None or any(other != version for other in self._read):
            self._version = None
            return False
        listing.version = version
        self._read[version] += 1
        known, self._version = self._version == version, version
        return known

    def closed(self, listing: Open) -> None:
        if listing.version is not None:
            self._read[listing.version] -= 1
            if not self._read[listing.version]:
                del self._read[listing.version]
            listing.version = None
