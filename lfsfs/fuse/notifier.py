"""Notifier: what the kernel is told unasked: that it is to forget a name, attributes or pages."""

import errno
import logging
import os
import queue
import threading

from lfsfs.fuse.protocol import INVAL_ENTRY_OUT, INVAL_INODE_OUT, Notification, notification

log = logging.getLogger("lfsfs.fuse")
CLOSE_SECONDS = 1.0
_EVERYTHING, _ATTRIBUTES_ONLY = 0, -1
_UNKNOWN = frozenset((errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EBADF))


class Notifier:
    """Of one mount. From any thread.

    The kernel takes the lock of a directory to forget a name of it, and of pages to drop them; whoever holds them may
    wait for an answer of ours. So names are forgotten by a thread, and `forget_pages` is for threads.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._names: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._forget_names, name="lfsfs-notify", daemon=True)
        self._thread.start()

    def forget_name(self, directory: int, name: bytes) -> None:
        """What is known under this name; soon."""
        self._names.put((directory, name))

    def forget_name_now(self, directory: int, name: bytes) -> None:
        """What is known under this name. Waits for requests under way in the directory: for threads."""
        self._tell_entry(directory, name)

    def forget_attributes(self, inode: int) -> None:
        """At once; waits for nobody."""
        self._tell(Notification.INVAL_INODE, INVAL_INODE_OUT.pack(inode, _ATTRIBUTES_ONLY, 0))

    def forget_pages(self, inode: int) -> None:
        """Attributes and pages. May wait for a request under way."""
        self._tell(Notification.INVAL_INODE, INVAL_INODE_OUT.pack(inode, _EVERYTHING, 0))

    def close(self) -> None:
        """Before the device is closed."""
        self._names.put(None)
        self._thread.join(CLOSE_SECONDS)
        self._descriptor = -1

    def _forget_names(self) -> None:
        while (found := self._names.get()) is not None:
            self._tell_entry(*found)

    def _tell_entry(self, directory: int, name: bytes) -> None:
        content = INVAL_ENTRY_OUT.pack(directory, len(name), 0) + name + b"\0"
        self._tell(Notification.INVAL_ENTRY, content)

    def _tell(self, kind: Notification, content: bytes) -> None:
        try:
            os.write(self._descriptor, notification(kind, content))
        except OSError as refused:
            if refused.errno not in _UNKNOWN:
                log.warning("%s: the kernel does not take it: %s", kind.name, refused.strerror)
