"""Other file systems in user space, on the same disk: scripts/bench has a mount of lfsfs beside theirs.

Each is used where its command is installed (PATH, or .peers/bin of this folder: `scripts/install peers`), with its own
defaults but for what is said here; docs/BENCHMARKS.md has the commands.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_ground import Ground, run, served

OWN = Path(__file__).resolve().parents[1] / ".peers" / "bin"
"""A Python environment of their own: what they need is not what lfsfs needs."""


def command(name: str) -> str | None:
    """Where it is installed."""
    return shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{OWN}")


@contextmanager
def rclone(ground: Ground) -> Iterator[Path]:
    """A folder as a remote. Without its cache: then a file is written straight into the folder, its quickest way."""
    with (
        _places(ground, "rclone") as (data, mountpoint),
        served(mountpoint, _found("rclone"), "mount", data, mountpoint, "--config", "/dev/null"),
    ):
        yield mountpoint


@contextmanager
def juicefs(ground: Ground) -> Iterator[Path]:
    """Its objects in a folder, its metadata in Badger: the quickest of those that need no server. With `--writeback`,
    so that a file does not wait for its object."""
    with _places(ground, "juicefs") as (data, mountpoint):
        program, metadata = _found("juicefs"), f"badger://{data}/metadata"
        run(program, "format", "--storage", "file", "--bucket", data / "objects", metadata, "bench")
        options = ("--no-usage-report", "--writeback", "--cache-dir", data / "cache")
        with served(mountpoint, program, "mount", *options, metadata, mountpoint):
            yield mountpoint


@contextmanager
def s3ql(ground: Ground) -> Iterator[Path]:
    """Its local backend."""
    with _places(ground, "s3ql") as (data, mountpoint):
        url, own = f"local://{data}", ("--cachedir", data / "cache", "--authfile", "/dev/null")
        run(_found("mkfs.s3ql"), "--plain", *own, url)
        with served(mountpoint, _found("mount.s3ql"), "--fg", *own, url, mountpoint):
            yield mountpoint


@contextmanager
def _places(ground: Ground, name: str) -> Iterator[tuple[Path, Path]]:
    """A folder for what it keeps, which goes with the block, and a mountpoint."""
    data, mountpoint = ground.fresh(name), ground.fresh(f"{name}-mnt")
    data.mkdir()
    mountpoint.mkdir()
    try:
        yield data, mountpoint
    finally:
        mountpoint.rmdir()
        shutil.rmtree(data)


def _found(name: str) -> str:
    path = command(name)
    if path is None:
        raise SystemExit(f"{name} is not installed")
    return path


@dataclass(frozen=True)
class Peer:
    """`needs`: its command; `get`: what installs it."""

    name: str
    needs: str
    get: str
    mounted: Callable[[Ground], AbstractContextManager[Path]]

    @property
    def installed(self) -> bool:
        return command(self.needs) is not None


PEERS = (
    Peer("rclone", "rclone", "scripts/install peers", rclone),
    Peer("JuiceFS", "juicefs", "scripts/install peers", juicefs),
    Peer("s3ql", "mkfs.s3ql", "https://github.com/s3ql/s3ql, which Debian 12 does not have", s3ql),
)


def missing(needed: dict[str, str]) -> list[str]:
    """A line for each of these that is not installed: how to get it."""
    return [f"Not installed, so not beside it: {name} ({get})." for name, get in needed.items()]
