"""scan: has the store's scanner look at objects that are there already."""

import argparse
from typing import TYPE_CHECKING

from lfsfs.cli import output
from lfsfs.cli.bars import Bar
from lfsfs.cli.stores import add_options, with_store
from lfsfs.errors import InvalidConfig
from lfsfs.oid import Oid
from lfsfs.store import verdicts
from lfsfs.store.verdicts import Verdict

if TYPE_CHECKING:
    from lfsfs.store.store import Store


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    scan = commands.add_parser(
        "scan",
        help="have the configured scanner look at what the store has",
        description="Has the scanner of the store's last daemon ([scan] in its configuration) look at every object that"
        " it has not said anything of lately. What is infected goes to the trash. Exit status 1: something is.",
    )
    scan.add_argument("oids", metavar="OID", nargs="*", help="these alone, whatever was said of them before")
    scan.add_argument(
        "--list", action="store_true", help="only list what was found infected, and what was accepted"
    )
    scan.add_argument(
        "--accept", action="store_true",
        help="do not scan: the objects OID may be in the store from now on, whatever a scanner finds",
    )  # fmt: skip
    add_options(scan)
    scan.set_defaults(run=run_scan)


def run_scan(arguments: argparse.Namespace) -> int:
    """Scans, and says what is infected."""
    if arguments.accept and not arguments.oids:
        raise InvalidConfig("which objects are to be accepted? Give OIDs, whole")
    if arguments.list or arguments.accept:
        oids = [Oid(oid) for oid in arguments.oids]
        with_store(
            arguments, lambda store: _list(store, arguments.json) if arguments.list else _accept(store, oids)
        )
        return output.DONE

    async def use(store: "Store") -> int:
        return await _scan(store, [await store.find(oid) for oid in arguments.oids], json=arguments.json)

    return output.FAILED if with_store(arguments, use) else output.DONE


async def _scan(store: "Store", wanted: list[Oid], *, json: bool) -> int:
    """How many are infected."""
    from lfsfs.store.rescreening import Rescreening

    if store.screening is None:
        raise InvalidConfig("the store has no scanner: give one in [scan] of its daemon's configuration")
    screening = Rescreening(store, store.screening)
    scanned = infected = 0
    with (
        Bar("scan", "objects") as shown,
        output.Listing[Verdict](json=json, element=_element, text=_text) as listing,
    ):
        chosen = wanted or await screening.unknown()
        for oid in chosen:
            finding = await screening.scan(oid)
            scanned += 1
            if finding is not None:
                infected += 1
                found = store.index.view(lambda tx, oid=oid: verdicts.get(tx, oid))  # type: ignore[misc]
                if found is not None:
                    listing.add(found)
            shown.show(scanned, len(chosen))
    if not json:
        output.note(f"{scanned} objects scanned, {infected} infected")
    return infected


async def _accept(store: "Store", oids: list[Oid]) -> None:
    for oid in oids:
        await store.index.update(lambda tx, oid=oid: verdicts.put(tx, oid, "accepted"))  # type: ignore[misc]
        output.line(f"{oid} may be in the store")


async def _list(store: "Store", json: bool) -> None:
    found = store.index.view(lambda tx: [one for one in verdicts.every(tx) if one.state != "clean"])
    with output.Listing[Verdict](json=json, element=_element, text=_text) as listing:
        for one in found:
            listing.add(one)


def _element(verdict: Verdict) -> dict[str, object]:
    return {
        "oid": verdict.oid,
        "state": verdict.state,
        "when": output.iso_time(verdict.when),
        "finding": verdict.finding,
    }


def _text(verdict: Verdict) -> str:
    return f"{verdict.oid}  {verdict.state}  {verdict.finding}".rstrip()
