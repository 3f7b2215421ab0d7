"""remote.toml: which remote tier a store has, so that every command on the store finds it.

The first mount with a remote tier writes it. It holds credentials only where a configuration file gave them, and is
then as private as that file.
"""

import os
from pathlib import Path

from lfsfs import durable
from lfsfs.config import CacheOptions, S3Options
from lfsfs.config_file import Settings, read_file, remote_of, render_remote

REMOTE_FILE = "remote.toml"
Attachment = tuple[S3Options, CacheOptions]


def identity(s3: S3Options) -> str:
    """What tells one remote tier from another: where its objects lie."""
    return " ".join((str(s3.url), s3.layout, s3.endpoint or "")).rstrip()


def load(store: Path) -> Attachment | None:
    """What the store's last mount with a remote tier said; None where there was none. InvalidConfig if damaged."""
    return remote_of(settings(store))


def settings(store: Path) -> Settings:
    """The same as settings of a configuration file; none where there was no such mount."""
    file = store / REMOTE_FILE
    return read_file(file) if file.exists() else {}


def save(store: Path, attachment: Attachment) -> None:
    """Durably, and only where it says something else than the file."""
    text = "# Written by lfsfs mount: change it there.\n" + render_remote(*attachment)
    file = store / REMOTE_FILE
    if file.exists() and file.read_text() == text:
        return
    fresh = store / f"{REMOTE_FILE}.new"
    fd = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as opened:
        opened.write(text)
        opened.flush()
        durable.fsync(fd, "fsync-remote-file")
    durable.rename(fresh, file, "rename-remote-file")
    durable.fsync_path(store, "fsync-store")
