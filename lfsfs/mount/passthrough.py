"""Passage: which way the kernel takes the open files of a node, by asking, or to a local file itself.

An object's file itself only after each of its blocks was compared with its digest, in the life of the node's reader:
what is served then is what a reader that asks would be served, without a request. A plain file of git-lfs's itself where
nothing bounds what is written to it: the hash follows what is there (see StagedFile.lend).
"""

from typing import TYPE_CHECKING

from lfsfs.fuse import BackingFiles
from lfsfs.mount.nodes import Handle, Opened

if TYPE_CHECKING:
    from lfsfs.store.transfers import Reader


class Passage:
    """Of one node. The kernel takes all open files of an inode one way: the first of them decides."""

    def __init__(self) -> None:
        self._asking = 0
        self._passing = 0
        self._number = 0
        self._read_from: Reader | None = None

    @property
    def decided(self) -> bool:
        """Whether it is open."""
        return bool(self._asking or self._number)

    def enter(
        self, handle: Handle, files: BackingFiles | None, descriptor: int,
        *, reader: "Reader | None" = None, keep_cache: bool = False,
    ) -> Opened:  # fmt: skip
        """A handle that was just opened; `leave` when it is released.

        `descriptor`: of the file that the kernel may go to by itself, -1 where it may not. `reader`: that of an object.
        """
        if files is not None and not self.decided and descriptor >= 0:
            self._number, self._read_from = files.open(descriptor), reader
        handle.passed = bool(self._number)
        if not handle.passed:
            self._asking += 1
            return Opened(handle, keep_cache=keep_cache)
        self._passing += 1
        # Found damaged and healed while others have it open: this one asks, so that it gets the healed bytes.
        return Opened(handle, backing=self._number, direct_io=reader is not self._read_from)

    @property
    def number(self) -> int:
        """The kernel's number of the file; 0: it asks for what is read."""
        return self._number

    def rejoin(self, handle: Handle, number: int) -> None:
        """An open file that another daemon has answered: a number is that of the file by which the kernel reads it."""
        handle.passed = bool(number)
        if number:
            self._number = number
            self._passing += 1
        else:
            self._asking += 1

    def leave(self, handle: Handle, files: BackingFiles | None) -> None:
        """The kernel has released it."""
        if not handle.passed:
            self._asking -= 1
            return
        self._passing -= 1
        if not self._passing and files is not None:
            files.close(self._number)
            self._number, self._read_from = 0, None
