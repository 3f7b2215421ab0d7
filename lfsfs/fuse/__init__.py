"""FUSE: the kernel's file system protocol, from its device to handlers and back, on trio.

A Python binding of libfuse (pyfuse3) takes two rounds of the event loop for a request; here it is one read and one write
of the device. The protocol is the kernel's, version 7 (include/uapi/linux/fuse.h), which never changes for those who
speak it; 7.31, of Linux 5.4, is enough.
"""

from lfsfs.fuse.answers import EntryAttributes, FileInfo, ListingPage, StatfsData
from lfsfs.fuse.backing import BackingFiles
from lfsfs.fuse.device import MountRefused
from lfsfs.fuse.notifier import Notifier
from lfsfs.fuse.protocol import RENAME_NOREPLACE, ROOT_INODE
from lfsfs.fuse.requests import Caller, Changes, Ended, Operations, TakesMore
from lfsfs.fuse.session import Session

__all__ = [
    "RENAME_NOREPLACE",
    "ROOT_INODE",
    "BackingFiles",
    "Caller",
    "Changes",
    "Ended",
    "EntryAttributes",
    "FileInfo",
    "ListingPage",
    "MountRefused",
    "Notifier",
    "Operations",
    "Session",
    "StatfsData",
    "TakesMore",
]
