"""fsck: whether the index agrees with itself, with the local disk and with S3."""

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lfsfs.cli import output
from lfsfs.cli.stores import add_options, chosen_store, with_store_at
from lfsfs.cli.unmounted import unmounted
from lfsfs.errors import NotFound, StoreFormat
from lfsfs.integrity.fault import Fault
from lfsfs.store.layout import Layout, is_store, open_layout

if TYPE_CHECKING:
    from lfsfs.integrity.fsck import Findings
    from lfsfs.store.store import Store

SHOWN = 1_000


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    fsck = commands.add_parser(
        "fsck",
        help="compare the index with itself, the disk and S3",
        description="Looks for rows without bytes, bytes without rows, wrong counters, entries that lead nowhere, and"
        " references to objects that are not there. Changes nothing unless told to. It reads no object that seems right:"
        " `lfsfs verify` does. Exit status 1: something is wrong, or was and could not be repaired.",
    )
    add_options(fsck)
    fsck.add_argument(
        "--repair", action="store_true", help="put right what is wrong; the store must not be mounted"
    )
    fsck.set_defaults(run=run_fsck)


def run_fsck(arguments: argparse.Namespace) -> int:
    """Compares, and repairs where told to."""
    path = chosen_store(arguments.store)
    if not is_store(path):
        raise NotFound(f"no store at {path}")
    layout = open_layout(path.absolute(), create=False)
    with unmounted(layout.path, "then `lfsfs fsck --repair`") if arguments.repair else nullcontext():
        lost = _lost_index(layout, repair=arguments.repair)
        if lost is not None and not arguments.repair:
            from lfsfs.integrity.fsck import Findings  # brings numpy

            findings = Findings([lost])
        else:
            findings = _check(layout.path, repair=arguments.repair, rebuilt=lost is not None)
            findings.faults[:0] = [] if lost is None else [lost]
    if arguments.json:
        output.as_json(findings.described())
    else:
        _tell(findings, repair=arguments.repair)
    return output.FAILED if findings.left else output.DONE


def _check(path: Path, *, repair: bool, rebuilt: bool) -> "Findings":
    async def use(store: "Store") -> "Findings":
        from lfsfs.integrity.fsck import check

        if rebuilt:
            await store.rebuild_from_remote()
        return await check(store, repair=repair)

    return with_store_at(path, use, read_only=not repair, busy="fsck")


def _lost_index(layout: Layout, *, repair: bool) -> Fault | None:
    """An index that is gone, or cannot be opened. With `repair` it is out of the way: the store is about to make one."""
    from lfsfs.store.index import Index

    if not layout.index.exists():
        return Fault("index", str(layout.index), "it is gone: it is made anew from the objects", repair)
    try:
        Index(layout.index, read_only=True).close()
    except StoreFormat as damaged:
        if repair:
            layout.index.rename(layout.path / f"index.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        return Fault("index", str(layout.index), f"{damaged}", repair)
    return None


def _tell(findings: "Findings", *, repair: bool) -> None:
    for fault in findings.faults[:SHOWN]:
        done = "repaired: " if fault.repaired else ""
        output.line(f"{done}{fault.kind}: {fault.what}: {fault.why}")
    if len(findings.faults) > SHOWN:
        output.line(f"and {len(findings.faults) - SHOWN} more: --json has all")
    repaired = len(findings.faults) - len(findings.left)
    output.line(f"{findings.objects} objects, {len(findings.faults)} faults, {repaired} repaired")
    if findings.corrupt:
        output.line(
            f"{findings.corrupt} objects are marked corrupt: `lfsfs verify` names them, uploading them heals them"
        )
    if findings.unindexed:
        output.line(f"{findings.unindexed} objects in S3 that this machine has not met: no fault")
    if findings.left and not repair:
        output.line("`lfsfs fsck --repair` puts right what can be; the store must not be mounted then")
