"""gc and why: what keeps an object alive, and what becomes of those that nothing does."""

import argparse
import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lfsfs.cli import output
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, with_store
from lfsfs.errors import InvalidConfig
from lfsfs.git import clones
from lfsfs.oid import Oid
from lfsfs.store import rebuild, trashed, unreferenced
from lfsfs.store.gc import GRACE_SECONDS, Budget, Collected, OtherMachines, collect
from lfsfs.store.index import Tx
from lfsfs.store.roots import Roots
from lfsfs.units import SECOND_NS, format_age, format_size, format_time, parse_age, parse_size

if TYPE_CHECKING:
    from lfsfs.store.store import Store

SHARE, SMALL_STORE = 0.5, 100
"""Unless told otherwise, a run does not take more than half of the objects of a store that has more than a few."""
_COUNT = re.compile(r"\d+\Z", re.ASCII)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    gc = commands.add_parser(
        "gc",
        help="what nothing refers to any more goes to the trash",
        description="Finds the objects that no repository, name, pin, pack of vectors, registered clone or other"
        " machine refers to. With --yes, those of which an earlier run found that as long ago as --grace go to the"
        " trash. Where something cannot be read that may refer to objects, nothing is deleted.",
    )
    gc.add_argument("--yes", action="store_true", help="delete; default: only say what would be deleted")
    gc.add_argument(
        "--grace", metavar="AGE", type=option(_grace), default=GRACE_SECONDS,
        help="how long nothing must have referred to an object (14d); 0: this run deletes what it finds",
    )  # fmt: skip
    gc.add_argument(
        "--budget", metavar="N|SIZE|N%", type=option(_budget),
        help="delete nothing if it were more objects, bytes (with a unit), or percent of all objects (50%%)",
    )  # fmt: skip
    gc.add_argument(
        "--trust-index", action="store_true",
        help="after the loss of an index: what is needed is referred to again",
    )  # fmt: skip
    add_options(gc)
    gc.set_defaults(run=run_gc)

    why = commands.add_parser(
        "why",
        help="what keeps an object alive: repositories, names, pins, clones, other machines",
        description="Says what refers to an object, and where in a registered clone; of one that nothing refers to,"
        " since when, and when gc may take it.",
    )
    why.add_argument("oid", metavar="OID", help="an oid, or its first digits")
    add_options(why)
    why.set_defaults(run=run_why)


def _grace(text: str) -> float:
    return 0.0 if text == "0" else parse_age(text)


def _budget(text: str) -> Budget:
    if text.endswith("%") and text[:-1].replace(".", "", 1).isdigit():
        return Budget(share=float(text[:-1]) / 100)
    if _COUNT.match(text):
        return Budget(objects=int(text))
    try:
        return Budget(bytes=parse_size(text))
    except InvalidConfig as error:
        raise InvalidConfig(f"not a budget: {text!r}: 1000 (objects), 10GiB or 20%") from error


def roots_of(store: "Store") -> list[Roots]:
    """What refers to objects of the store beside its index. RootUnreadable."""
    found: list[Roots] = [clones.Clones(clones.registered(store.layout))]
    if store.remote is not None:
        found.append(OtherMachines(store.remote.records))
    return found


def run_gc(arguments: argparse.Namespace) -> int:
    """Finds what nothing refers to, and with --yes deletes it."""

    async def use(store: "Store") -> Collected:
        if arguments.trust_index:
            await store.index.update(rebuild.trust_references)
        budget = arguments.budget
        if budget is None and (await store.usage()).objects > SMALL_STORE:
            budget = Budget(share=SHARE)
        return await collect(store, roots_of(store), grace=arguments.grace, act=arguments.yes, budget=budget)

    done = with_store(arguments, use, busy="gc")
    if arguments.json:
        output.as_json({"dry_run": not arguments.yes, **_described(done)})
        return output.DONE
    _tell(done, acted=arguments.yes)
    return output.DONE


def _described(done: Collected) -> dict[str, Any]:
    return {**asdict(done), "next": output.iso_time(done.next) if done.next else None}


def _tell(done: Collected, *, acted: bool) -> None:
    found, ripe, deleted = done.unreferenced, done.ripe, done.deleted
    output.line(
        f"nothing refers to {found.objects} of {done.store.objects} objects ({format_size(found.bytes)})"
    )
    if acted:
        output.line(f"{deleted.objects} went to the trash ({format_size(deleted.bytes)})")
    elif ripe.objects:
        output.line(
            f"`lfsfs gc --yes` would move {ripe.objects} of them to the trash ({format_size(ripe.bytes)})"
        )
    if done.restored:
        output.line(f"{done.restored} of these came back: a clone has come to need them meanwhile")
    if done.next:
        left = (done.next - time.time_ns()) / SECOND_NS
        output.line(f"the next may go in {format_age(left)}, at {format_time(done.next)}")


def run_why(arguments: argparse.Namespace) -> int:
    """Says what keeps one object."""

    async def use(store: "Store") -> tuple[Oid, list[str], dict[str, Any]]:
        oid = await _find(store, arguments.oid)
        kept = await store.why(oid) + clones.why(clones.registered(store.layout), oid)
        if store.remote is not None:
            kept += [
                f"the machine {one.host}, {one.store}" for one in await store.remote.records.referring(oid)
            ]
        return oid, kept, store.index.view(lambda tx: _dead(tx, oid))

    oid, kept, dead = with_store(arguments, use, busy="why")
    if arguments.json:
        output.as_json({"oid": oid, "kept_by": kept, **dead})
        return output.DONE
    for reason in kept:
        output.line(reason)
    if dead["trashed"]:
        output.line(f"in the trash since {dead['trashed']}: `lfsfs undelete {oid[:12]}` brings it back")
    elif not kept and dead["unreferenced_since"]:
        output.line(
            f"nothing refers to it since {dead['unreferenced_since']} at the latest:"
            f" gc may take it from {dead['gc_may_take_it']} on"
        )
    elif not kept:
        output.line(
            "nothing refers to it: the next `lfsfs gc` writes that down, and gc may take it 14 days after that"
        )
    return output.DONE


async def _find(store: "Store", prefix: str) -> Oid:
    """An object, or one of the trash."""
    if len(prefix) == 64:
        oid = Oid(prefix)
        return oid if store.index.view(lambda tx: trashed.get(tx, oid)) else (await store.stat(oid)).oid
    return await store.find(prefix)


def _dead(tx: Tx, oid: Oid) -> dict[str, Any]:
    since, gone = unreferenced.since(tx, oid), trashed.get(tx, oid)
    return {
        "unreferenced_since": None if since is None else output.iso_time(since),
        "gc_may_take_it": None if since is None else output.iso_time(since + int(GRACE_SECONDS * SECOND_NS)),
        "trashed": None if gone is None else output.iso_time(gone.when),
    }
