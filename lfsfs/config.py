"""Configuration: a TOML file and the command line, as frozen dataclasses.

The whole file, every key with its default:

    [store]
    path = "/var/lib/lfsfs"         # or the STORE argument
    durability = "sync"             # or "fast"
    temp = "/fast/disk/tmp"         # where files are staged; by default inside the store

    [mount]
    mountpoint = "/mnt/lfs"         # or the MNT argument
    uid = 1000                      # by default those of the process
    gid = 1000
    umask = "022"
    allow_other = false
    xattr = false
    read_only = false
    sharing = "open"                # or "isolated"
    delete = "refuse"               # or "allow"
    incomplete_age = "7d"

    [log]
    level = "info"                  # "debug", "info", "warning" or "error"

An unknown section or key, and a value of the wrong kind, is InvalidConfig: it names the file, the key and
what would have been right. Nothing in a file is ever ignored.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DAY = 24 * 60 * 60.0
INCOMPLETE_AGE = 7 * DAY
"""Seconds after which an abandoned download in incomplete/ is removed."""

Durability = Literal["sync", "fast"]
Sharing = Literal["open", "isolated"]
Deletion = Literal["refuse", "allow"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True)
class MountOptions:
    """How the tree under the mountpoint looks and what it allows."""

    uid: int | None = None
    """Owner of everything in the mount; None: the daemon's own."""
    gid: int | None = None
    umask: int = 0o022
    allow_other: bool = False
    """Other users may use the mount (needs user_allow_other in /etc/fuse.conf unless root mounts)."""
    xattr: bool = False
    """Answer extended attributes. Costs one more round trip for each write(2)."""
    read_only: bool = False
    sharing: Sharing = "open"
    """open: looking up an oid that the store has succeeds in any repository root, and adds the reference."""
    delete: Deletion = "refuse"
    """What an unlink of an object in the shared root does."""
    incomplete_age: float = INCOMPLETE_AGE
    """Seconds."""


@dataclass(frozen=True)
class Config:
    """What one daemon needs to know."""

    store: Path
    """Absolute."""
    mountpoint: Path
    """Absolute."""
    durability: Durability = "sync"
    mount: MountOptions = field(default_factory=MountOptions)
    log_level: LogLevel = "info"
    temp: Path | None = None
    """Where files are staged; None: inside the store."""
    foreground: bool = False
