"""index rebuild: a new index from what the tiers hold."""

import argparse
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from lfsfs.cli import output
from lfsfs.cli.daemons import LOCK_FILE
from lfsfs.cli.options import option
from lfsfs.cli.stores import chosen_store
from lfsfs.config import CacheOptions, S3Options, parse_endpoint, parse_s3_url
from lfsfs.errors import InUse
from lfsfs.store import attachment
from lfsfs.store.attachment import Attachment
from lfsfs.store.layout import Layout, open_layout
from lfsfs.store.store import Usage, open_store
from lfsfs.units import format_size


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    index = commands.add_parser("index", help="make the index anew").add_subparsers(
        metavar="ACTION", required=True
    )
    rebuild = index.add_parser(
        "rebuild",
        help="from the objects themselves, local and in S3",
        description="Makes the index anew from the objects on the local disk and in S3. With an empty STORE and"
        " --s3, an empty machine gets back all that the bucket has. The store must not be mounted.",
    )
    rebuild.add_argument("--store", metavar="STORE", type=Path, help="default: LFSFS_STORE")
    rebuild.add_argument(
        "--s3", metavar="s3://BUCKET/PREFIX", type=option(parse_s3_url), help="default: the store's own"
    )
    rebuild.add_argument("--s3-endpoint", metavar="URL", type=option(parse_endpoint))
    rebuild.add_argument("--json", action="store_true", help="print JSON")
    rebuild.set_defaults(run=run_rebuild)


def run_rebuild(arguments: argparse.Namespace) -> int:
    """Rebuilds, and says what there is now."""
    layout = open_layout(chosen_store(arguments.store), create=arguments.s3 is not None)
    given = (
        (S3Options(arguments.s3, endpoint=arguments.s3_endpoint), CacheOptions()) if arguments.s3 else None
    )
    with _unmounted(layout.path):
        usage = trio.run(_rebuild, layout, given or attachment.load(layout.path))
    if arguments.json:
        output.as_json({"objects": usage.objects, "bytes": usage.bytes, "names": usage.names})
    else:
        output.line(f"the index has {usage.objects} objects ({format_size(usage.bytes)})")
    return output.DONE


async def _rebuild(layout: Layout, remote: Attachment | None) -> Usage:
    old = layout.path / "index.old"
    await trio.to_thread.run_sync(lambda: shutil.rmtree(old, ignore_errors=True))
    if layout.index.exists():
        layout.index.rename(old)
    async with open_store(layout.path, remote=remote) as store:
        await store.rebuild_from_remote()
        if remote is not None:
            attachment.save(layout.path, remote)
        await trio.to_thread.run_sync(lambda: shutil.rmtree(old, ignore_errors=True))
        return await store.usage()


@contextmanager
def _unmounted(store: Path) -> Iterator[None]:
    with (store / LOCK_FILE).open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise InUse(f"{store} is mounted: unmount it, then rebuild its index") from taken
        yield
