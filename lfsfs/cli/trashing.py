"""trash, undelete and vacuum: what was deleted, back again, or gone for good."""

import argparse
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from lfsfs import steps
from lfsfs.cli import output
from lfsfs.cli.collecting import roots_of
from lfsfs.cli.objects import told_each
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, with_store
from lfsfs.errors import InvalidConfig, LfsfsError, NotFound, Refused
from lfsfs.oid import Oid
from lfsfs.store.trash import KEEP_SECONDS
from lfsfs.store.trashed import Trashed
from lfsfs.store.vacuum import Vacuumed, vacuum
from lfsfs.units import format_size, format_time, parse_age, parse_time

if TYPE_CHECKING:
    from lfsfs.store.store import Store


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    trash = commands.add_parser("trash", help="list what was deleted and can be brought back")
    _add_since(trash)
    add_options(trash)
    trash.set_defaults(run=run_trash)

    undelete = commands.add_parser(
        "undelete",
        help="bring back what was deleted",
        description="Brings objects back from the trash. Nothing refers to them yet: gc takes them again after its"
        " grace time, if nothing has come to.",
    )
    undelete.add_argument("oids", metavar="OID", nargs="*", help="an oid, or its first digits")
    undelete.add_argument("--all", action="store_true", help="all that is in the trash, or went --since")
    _add_since(undelete)
    add_options(undelete)
    undelete.set_defaults(run=run_undelete)

    empty = commands.add_parser(
        "vacuum",
        help="empty the trash of what is past its time, and give back what is not used",
        description="Removes for good what went to the trash longer ago than --trash-time. Rewrites packs of vectors,"
        " gives free pages of the index back to the file system, removes what dead processes left staged, uploads that"
        " nobody goes on with, and empty directories.",
    )
    empty.add_argument(
        "--trash-time", metavar="AGE", type=option(_age), default=KEEP_SECONDS,
        help="what was deleted more recently stays in the trash (7d)",
    )  # fmt: skip
    empty.add_argument(
        "--forget-machine", metavar="ID",
        help="first remove what this machine has recorded in S3, which will not come back",
    )  # fmt: skip
    add_options(empty)
    empty.set_defaults(run=run_vacuum)


def _age(text: str) -> float:
    return 0.0 if text == "0" else parse_age(text)


def _add_since(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since", metavar="TIME", type=option(partial(parse_time, now=time.time())), default=0,
        help="only what was deleted then or later: a date, a date and time, or an age such as 2h",
    )  # fmt: skip


def run_trash(arguments: argparse.Namespace) -> int:
    """Lists the trash."""

    async def use(store: "Store") -> None:
        with output.Listing[Trashed](json=arguments.json, element=_element, text=_text) as listing:
            for row in store.trash.since(arguments.since):
                listing.add(row)

    with_store(arguments, use, read_only=True)
    return output.DONE


def _element(row: Trashed) -> dict[str, object]:
    where = "file" if row.file else "remote"
    return {
        "oid": row.oid,
        "size": row.size,
        "deleted": output.iso_time(row.when),
        "by": row.reason,
        "in": where,
    }


def _text(row: Trashed) -> str:
    return f"{row.oid}  {format_size(row.size):>8}  {format_time(row.when)}  {row.reason}"


def run_undelete(arguments: argparse.Namespace) -> int:
    """Brings objects back. One that fails is told, and the others come back."""
    if bool(arguments.oids) == arguments.all:
        raise InvalidConfig("which objects? Give OIDs, or --all")
    if arguments.since and not arguments.all:
        raise InvalidConfig("--since goes with --all")

    async def use(store: "Store") -> list[Oid | LfsfsError]:
        wanted = arguments.oids or [row.oid for row in store.trash.since(arguments.since)]
        steps.begin("", len(wanted))
        return [await _restore(store, prefix) for prefix in wanted]

    return told_each(with_store(arguments, use, busy="undelete"), "brought back", json=arguments.json)


async def _restore(store: "Store", prefix: str) -> Oid | LfsfsError:
    try:
        return (await store.trash.restore(_find(store, prefix))).oid
    except LfsfsError as error:
        return error
    finally:
        steps.add()


def _find(store: "Store", prefix: str) -> Oid:
    """The one object of the trash that begins so."""
    if len(prefix) == 64:
        return Oid(prefix)
    found = [row.oid for row in store.trash.since(0) if row.oid.startswith(prefix)]
    if not found or len(prefix) < 4:
        raise NotFound(f"the trash has no object that begins with {prefix} (at least 4 digits)")
    if len(found) > 1:
        raise Refused(f"several objects begin with {prefix}: {found[0]}, {found[1]}…")
    return found[0]


async def _forget(store: "Store", machine: str) -> None:
    if store.remote is None:
        raise InvalidConfig("this store has no bucket that other machines use")
    await store.remote.withdrawals.forget_machine(machine)
    output.note(f"what the machine {machine} had recorded is forgotten")


def run_vacuum(arguments: argparse.Namespace) -> int:
    """Empties the trash, and says what that freed."""

    async def use(store: "Store") -> Vacuumed:
        if arguments.forget_machine is not None:
            await _forget(store, arguments.forget_machine)
        return await vacuum(store, roots_of(store), keep=arguments.trash_time)

    done = with_store(arguments, use, busy="vacuum")
    if arguments.json:
        output.as_json(asdict(done))
        return output.DONE
    output.line(f"{format_size(done.bytes)} reclaimed: {done.trashed} objects left the trash")
    rest = [
        (done.packs, "packs of vectors were written"),
        (done.directories, "empty directories removed"),
        (done.staged, "directories of dead processes removed from staging"),
        (done.uploads, "abandoned uploads aborted"),
        (done.restored, "objects came back from the trash: a clone has come to need them"),
        (done.remote, "objects deleted from S3"),
        (done.wanted, "objects stay in S3: another machine needs them"),
        (
            done.waiting,
            "objects in S3 wait until other machines have answered; run this again in some minutes",
        ),
    ]
    for number, what in rest:
        if number:
            output.line(f"{number} {what}")
    for machine in done.silent:
        output.line(f"no answer yet from {machine}: mount it, or, if it is gone for good, --forget-machine")
    return output.DONE
