"""index rebuild: a new index from what the tiers hold."""

import argparse
import os
import shutil
import socket
import uuid
from pathlib import Path

import trio

from lfsfs.cli import output
from lfsfs.cli.bars import bar
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_quiet, chosen_store
from lfsfs.cli.unmounted import unmounted
from lfsfs.config import S3Options, parse_encryption_key, parse_endpoint, parse_s3_url
from lfsfs.config_file import default_file, read_file, remote_of
from lfsfs.errors import InvalidConfig, Refused
from lfsfs.store import attachment
from lfsfs.store.attachment import Attachment
from lfsfs.store.layout import Layout, is_store, open_layout
from lfsfs.store.opening import open_store
from lfsfs.store.records import machines
from lfsfs.store.store import Usage
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
    rebuild.add_argument(
        "--s3-endpoint", metavar="URL", type=option(parse_endpoint), help="default: the store's own"
    )
    rebuild.add_argument(
        "--encryption-key", metavar="SOURCE", type=option(parse_encryption_key), help="of an encrypted bucket"
    )
    rebuild.add_argument(
        "--config", metavar="FILE", type=Path,
        help="its sections [s3] and [cache] have the other options; default: STORE/lfsfs.toml, /etc/lfsfs/lfsfs.toml",
    )  # fmt: skip
    rebuild.add_argument(
        "--as", dest="machine", metavar="ID", type=option(_identity),
        help="take the place of a lost machine: its repository roots, references and names come back too",
    )  # fmt: skip
    rebuild.add_argument("--json", action="store_true", help="print JSON")
    add_quiet(rebuild)
    rebuild.set_defaults(run=run_rebuild)


def run_rebuild(arguments: argparse.Namespace) -> int:
    """Rebuilds, and says what there is now."""
    path = chosen_store(arguments.store).absolute()
    remote = _remote(path, arguments)
    new = arguments.s3 is not None or arguments.config is not None
    layout = open_layout(path, create=new, identity=_place(path, remote if new else None, arguments.machine))
    with unmounted(layout.path, "then rebuild its index"):
        usage = trio.run(_rebuild, layout, remote)
    if arguments.json:
        output.as_json({"objects": usage.objects, "bytes": usage.bytes, "names": usage.names})
    else:
        output.line(
            f"the index has {usage.objects} objects ({format_size(usage.bytes)}), {usage.names} names"
        )
    return output.DONE


def _remote(store: Path, arguments: argparse.Namespace) -> Attachment | None:
    """What the command line says, for the rest the configuration file, for the rest what the store remembers."""
    file = arguments.config or default_file(store)
    given = {
        "s3.url": arguments.s3,
        "s3.endpoint": arguments.s3_endpoint,
        "s3.encryption_key": arguments.encryption_key,
    }
    return remote_of(
        {
            **attachment.settings(store),
            **(read_file(file) if file is not None else {}),
            **{key: value for key, value in given.items() if value is not None},
        }
    )


def _place(store: Path, remote: Attachment | None, asked: str | None) -> str | None:
    """Whose place a new store takes: the machine's that was asked for, or that had its store here."""
    if is_store(store):
        if asked is not None:
            raise Refused(f"{store} is a store already, and has a place of its own")
        return None
    return asked if asked is not None or remote is None else trio.run(_lost_machine, remote[0], store)


async def _lost_machine(options: S3Options, store: Path) -> str | None:
    """The machine that had a store at this path on this host. Says what other choice there is."""
    from lfsfs.tiers.bucket import open_bucket  # brings what encryption needs

    async with open_bucket(options) as tier:
        found = await machines(tier)
    here = (socket.gethostname(), os.fspath(store))
    lost = [machine for machine in found if (machine.host, machine.store) == here]
    if len(lost) == 1:
        output.note(f"taking the place of machine {lost[0].id}, which had its store here")
        return lost[0].id
    for machine in found:
        output.note(
            f"to bring back the repositories and names of {machine.host}, {machine.store}: --as {machine.id}"
        )
    return None


def _identity(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise InvalidConfig(f"not the id of a machine: {text!r}") from error


async def _rebuild(layout: Layout, remote: Attachment | None) -> Usage:
    old = layout.path / "index.old"
    await trio.to_thread.run_sync(lambda: shutil.rmtree(old, ignore_errors=True))
    if layout.index.exists():
        layout.index.rename(old)
    async with bar("rebuild"), open_store(layout.path, remote=remote) as store:
        await store.rebuild_from_remote()
        if remote is not None:
            attachment.save(layout.path, remote)
        await trio.to_thread.run_sync(lambda: shutil.rmtree(old, ignore_errors=True))
        return await store.usage()
