"""Which store a command means, and opening it for that command."""

import argparse
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lfsfs import mounts
from lfsfs.cli.bars import bar, opening
from lfsfs.errors import InvalidConfig

if TYPE_CHECKING:
    from lfsfs.store.store import Store

T = TypeVar("T")


def add_options(parser: argparse.ArgumentParser, *, quiet: str = "show no progress") -> None:
    """--store, --json and --quiet."""
    parser.add_argument(
        "--store",
        metavar="STORE",
        type=Path,
        help="the store, or where it is mounted (default: LFSFS_STORE, or the store of the only lfsfs mount)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_quiet(parser, quiet)


def add_quiet(parser: argparse.ArgumentParser, says: str = "show no progress") -> None:
    """--quiet: of every command that may show a bar."""
    parser.add_argument("-q", "--quiet", action="store_true", help=says)


def is_named(given: Path | None) -> bool:
    """Whether somebody said which store: not where it is that of the only mount."""
    return given is not None or bool(os.environ.get("LFSFS_STORE"))


def chosen_store(given: Path | None) -> Path:
    """The store: the one given, of LFSFS_STORE, or of the only mount. A mountpoint stands for its store."""
    named = given or (Path(os.environ["LFSFS_STORE"]) if os.environ.get("LFSFS_STORE") else None)
    if named is not None:
        mounted = mounts.mount_of(named)
        return mounted.store if mounted is not None else named
    stores = sorted({entry.store for entry in mounts.lfsfs_mounts()})
    if not stores:
        raise InvalidConfig("which store? Nothing is mounted: give --store STORE, or set LFSFS_STORE")
    if len(stores) > 1:
        raise InvalidConfig(f"which store? Mounted are {', '.join(map(str, stores))}: give --store STORE")
    return stores[0]


def with_store(
    arguments: argparse.Namespace,
    use: Callable[["Store"], Awaitable[T]],
    *,
    read_only: bool = False,
    busy: str = "",
) -> T:
    """Runs `use` with the store that the command line means. `busy`: what a bar says where that takes long."""
    return with_store_at(chosen_store(arguments.store), use, read_only=read_only, busy=busy)


def with_store_at(
    path: Path, use: Callable[["Store"], Awaitable[T]], *, read_only: bool = False, busy: str = ""
) -> T:
    """Runs `use` with the store at `path`."""
    import trio

    from lfsfs.store.opening import open_store

    def store() -> AbstractAsyncContextManager["Store"]:
        return open_store(path, read_only=read_only or not os.access(path, os.W_OK))

    async def opened() -> T:
        if busy:
            async with bar(busy), store() as found:
                return await use(found)
        async with AsyncExitStack() as stack:
            with opening():
                found = await stack.enter_async_context(store())
            return await use(found)

    return trio.run(opened)
