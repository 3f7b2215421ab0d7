"""Configuration of what a store puts up with: limits, quotas, the scanner of what comes, who may use a mount."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lfsfs.errors import InvalidConfig

ScanTime = Literal["before", "after"]
Unreachable = Literal["refuse", "accept"]


@dataclass(frozen=True)
class LimitOptions:
    """What is refused because it is too much. None: nothing is."""

    object_size: int | None = None
    """Bytes of the largest object, and of the largest file of git-lfs's own."""
    objects: int | None = None
    """In the store."""
    names: int | None = None
    """In incoming/: files, directories and links together."""
    path_length: int | None = None
    """Bytes of the longest path below incoming/, and of the name of a repository or a lock of the server."""
    open_uploads: int | None = None
    """Files and uploads being written at once, by one process."""
    free_space: int | None = None
    """Bytes of the store's disk that are left free."""


@dataclass(frozen=True)
class QuotaOptions:
    """How many bytes may be there. None: any."""

    store: int | None = None
    """Of all objects, each counted once."""
    repository: int | None = None
    """Of the objects that a repository refers to, for each that `repositories` does not name."""
    repositories: Mapping[str, int] = field(default_factory=dict)
    """By name: of a root below repos/, or, with a slash in front, of a repository of the server."""


@dataclass(frozen=True)
class ScanOptions:
    """The scanner that looks at every object. Neither `clamd` nor `command`: there is none."""

    clamd: str | None = None
    """HOST:PORT, [IPV6]:PORT or unix:/PATH, where clamd listens."""
    command: tuple[str, ...] = ()
    """A program and its arguments. The object is its standard input, or the file that stands for {path}."""
    when: ScanTime = "before"
    """before: what is infected never becomes an object. after: it does, and goes to the trash when that is found out."""
    unreachable: Unreachable = "refuse"
    """What happens to an object while the scanner says nothing of it. accept: it is scanned later."""
    timeout: float = 60.0
    """Seconds for one object, and for each further 10 MiB of it one more."""
    size: int | None = None
    """Bytes: larger objects are not scanned. None: all are."""
    verdict_age: float = 30 * 86400.0
    """Seconds for which a verdict counts when the same object comes once more."""
    parallel: int = 4
    """Objects that are scanned at once."""

    def __post_init__(self) -> None:
        if self.clamd is not None and self.command:
            raise InvalidConfig("clamd and command in [scan] exclude each other")

    @property
    def is_on(self) -> bool:
        return self.clamd is not None or bool(self.command)


@dataclass(frozen=True)
class Policy:
    """What holds for every process that writes to the store: the daemon's last configuration."""

    limits: LimitOptions = field(default_factory=LimitOptions)
    quota: QuotaOptions = field(default_factory=QuotaOptions)
    scan: ScanOptions = field(default_factory=ScanOptions)


@dataclass(frozen=True)
class PermissionOptions:
    """Who may do what in the mount: users by name or number, groups as @NAME, everybody as *. All empty: no rules."""

    admins: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()

    @property
    def is_on(self) -> bool:
        return bool(self.admins or self.writers or self.readers)
