"""Limits: what is refused because it is too much, each with its own errno and HTTP status.

An object that is too large is EFBIG (413), a disk or a store that is to hold no more ENOSPC (507), a path that is too
long ENAMETOOLONG, one file too many being written ENFILE (429). What is not limited costs nothing: then there is no
Limits, or the store's tables are not looked at.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lfsfs.config_policy import LimitOptions, Policy, QuotaOptions
from lfsfs.errors import MAKE_ROOM, NameTooLong, NoSpace, TooLarge, TooManyUploads
from lfsfs.store import catalog, names
from lfsfs.store.index import Tx
from lfsfs.units import format_size


class Limits:
    """The limits of one process on a store whose directory is `path`. Used from one trio thread."""

    def __init__(self, options: LimitOptions, quota: QuotaOptions, path: Path) -> None:
        self.options = options
        self._quota = quota.store
        self._path = path
        self._writing: set[int] = set()

    # Files being written.

    def check_size(self, size: int) -> None:
        """TooLarge where no object may have so many bytes."""
        most = self.options.object_size
        if most is not None and size > most:
            raise TooLarge(f"an object may have {format_size(most)} here")

    def check_growth(self, size: int, end: int) -> None:
        """Of a file with `size` bytes that is to be written up to `end`. TooLarge, NoSpace."""
        if end > size:
            self.check_size(end)
            self.check_disk(end - size)

    def check_disk(self, size: int) -> None:
        """NoSpace where so many bytes more would take what is to be left free of the disk."""
        left = self.options.free_space
        if left is None:
            return
        disk = os.statvfs(self._path)
        if disk.f_bavail * disk.f_frsize - size < left:
            raise NoSpace(f"{format_size(left)} of the store's disk are left free. {MAKE_ROOM}")

    def check_uploads(self) -> None:
        """TooManyUploads where no further file may be written now."""
        most = self.options.open_uploads
        if most is not None and len(self._writing) >= most:
            raise TooManyUploads(f"{most} files are being written: no more may be at once")

    def begin(self, file: object) -> None:
        """The file is being written, until `end`."""
        if self.options.open_uploads is not None:
            self._writing.add(id(file))

    def end(self, file: object) -> None:
        """Repeating is harmless."""
        self._writing.discard(id(file))

    @contextmanager
    def writing(self, file: object) -> Iterator[None]:
        """The file is being written inside. TooManyUploads."""
        self.check_uploads()
        self.begin(file)
        try:
            yield
        finally:
            self.end(file)

    # What the store holds.

    def check_object(self, tx: Tx, size: int) -> None:
        """NoSpace where the store may not hold one more object, of so many bytes."""
        most = self.options.objects
        if most is None and self._quota is None:
            return
        objects, held = catalog.totals(tx)
        if most is not None and objects >= most:
            raise NoSpace(f"the store may hold {most} objects, and does")
        if self._quota is not None and held + size > self._quota:
            raise NoSpace(
                f"the store may hold {format_size(self._quota)}, and holds {format_size(held)}:"
                f" no room for {format_size(size)} more"
            )

    # Names in incoming/.

    def check_names(self, tx: Tx, coming: int = 0) -> None:
        """NoSpace where there may be no further name, beside `coming` that the index does not know yet."""
        most = self.options.names
        if most is not None and tx.count("entries") + coming >= most:
            raise NoSpace(f"incoming/ may hold {most} names, and does")

    def check_path(self, tx: Tx, parent: int, name: bytes, number: int | None = None) -> None:
        """NameTooLong where the path of `name` in `parent`, or of anything below inode `number`, would be too long."""
        most = self.options.path_length
        if most is None:
            return
        longest = _length_above(tx, parent) + len(name)
        if number is not None:
            longest += _length_below(tx, number)
        self.check_length(longest)

    def check_length(self, length: int) -> None:
        """NameTooLong where no path may have so many bytes."""
        most = self.options.path_length
        if most is not None and length > most:
            raise NameTooLong(f"a path of {length} bytes: {most} is the most here")


def limits_of(policy: Policy, path: Path) -> Limits | None:
    """None where the policy limits nothing."""
    if policy.limits == LimitOptions() and policy.quota.store is None:
        return None
    return Limits(policy.limits, policy.quota, path)


def _length_above(tx: Tx, number: int) -> int:
    """Bytes of the path to the directory, with a slash after it."""
    length = 0
    while number != names.ROOT:
        above = tx.seek("parents", catalog.u64(number))
        if above is None or above[:8] != catalog.u64(number):
            return length  # it was removed: whoever asks is told that
        length += len(above) - 16 + 1
        number = int.from_bytes(above[8:16], "big")
    return length


def _length_below(tx: Tx, number: int) -> int:
    """Bytes of the longest path below the inode, with a slash before it; 0 where nothing is below it."""
    longest = 0
    pending = [(number, 0)]
    while pending:
        above, length = pending.pop()
        for name, below in names.children(tx, above):
            longest = max(longest, length + 1 + len(name))
            pending.append((below, length + 1 + len(name)))
    return longest
