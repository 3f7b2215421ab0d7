"""verify: whether every object is what its name says."""

import argparse
from typing import TYPE_CHECKING

from lfsfs.cli import output
from lfsfs.cli.bars import bar
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, with_store
from lfsfs.errors import InvalidConfig
from lfsfs.integrity.report import Report
from lfsfs.store.layout import is_served
from lfsfs.units import format_age, format_size, parse_age, parse_share, parse_size

if TYPE_CHECKING:
    from lfsfs.store.store import Store


SHOWN = 10_000  # lines of a kind


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verify = commands.add_parser(
        "verify",
        help="read objects, and compare them with their oids",
        description="Reads every object from the disk, and every vector, and compares it with its name. What is damaged"
        " in one place and whole in another (the local disk, S3) is healed. What is damaged everywhere is marked"
        " corrupt: it is not served, and the next upload of it heals it. Exit status 1: something is corrupt or gone.",
    )
    verify.add_argument("oids", metavar="OID", nargs="*", help="these alone; or the beginning of one")
    verify.add_argument(
        "--sample", metavar="SHARE", type=option(parse_share), help="a part, chosen by chance: 5%%"
    )
    verify.add_argument("--time", metavar="TIME", type=option(parse_age), help="for so long: 10m")
    verify.add_argument("--bytes", metavar="SIZE", type=option(parse_size), help="so much: 10GiB")
    verify.add_argument(
        "--resume",
        action="store_true",
        help="go on where the last run stopped; from the beginning where it did not",
    )
    verify.add_argument(
        "--quick",
        action="store_true",
        help="compare BLAKE3 digests of blocks with the index: less work for the processor",
    )
    verify.add_argument(
        "--s3-bytes",
        action="store_true",
        help="read what lies in S3, all of it; else it is only looked for there",
    )
    verify.add_argument(
        "--parallel", metavar="N", type=option(_parallel), help="threads (one for each processor)"
    )
    add_options(verify)
    verify.set_defaults(run=run_verify)


def run_verify(arguments: argparse.Namespace) -> int:
    """Verifies, and says what is wrong."""
    if arguments.oids and (arguments.sample or arguments.time or arguments.bytes or arguments.resume):
        raise InvalidConfig("OIDs are verified all of them: not with --sample, --time, --bytes or --resume")
    report = with_store(arguments, lambda store: _verify(store, arguments))
    if arguments.json:
        output.as_json(report.described() | {"sound": report.is_sound})
    else:
        _tell(report)
    return output.DONE if report.is_sound else output.FAILED


async def _verify(store: "Store", arguments: argparse.Namespace) -> Report:
    from lfsfs.integrity.verification import Scope, Verification  # brings numpy

    scope = Scope(
        oids=tuple([await store.find(text) for text in arguments.oids]),
        share=arguments.sample, seconds=arguments.time, size=arguments.bytes, resume=arguments.resume,
        quick=arguments.quick, remote_bytes=arguments.s3_bytes,
    )  # fmt: skip
    verification = Verification(
        store, scope, parallel=arguments.parallel, direct_upload=not is_served(store.layout)
    )

    def look() -> tuple[int, int]:
        done = verification.progress
        return max(done.bytes, verification.pace.read), done.total_bytes

    async with bar("verify", look, quiet=arguments.json):
        return await verification.run()


def _tell(report: Report) -> None:
    for kind, found in (
        ("healed", report.healed), ("corrupt", report.corrupt), ("missing", report.missing),
        ("not reached", report.unreachable), ("corrupt", report.damaged_vectors),
    ):  # fmt: skip
        for name, why in list(found.items())[:SHOWN]:
            output.line(f"{kind}: {name}: {why}")
        if len(found) > SHOWN:
            output.line(f"{kind}: and {len(found) - SHOWN} more: --json names all")
    for oid in report.orphans:
        output.line(
            f"orphaned: {oid}: a file that the index does not know (`lfsfs fsck --repair` takes it in)"
        )
    rows = [
        (
            "checked",
            f"{report.checked} objects, {format_size(report.bytes)} read, in {format_age(report.seconds)}",
        ),
        *([("vectors", str(report.vectors))] if report.vectors else []),
        ("healed", str(len(report.healed))),
        ("corrupt", str(len(report.corrupt) + len(report.damaged_vectors))),
        ("missing", str(len(report.missing))),
        *([("not reached", str(len(report.unreachable)))] if report.unreachable else []),
        *([("orphaned", str(report.orphaned))] if report.orphaned is not None else []),
        *([("unindexed", f"{report.unindexed} objects in S3")] if report.unindexed is not None else []),
    ]
    output.table(rows)
    if not report.complete:
        output.line("not all was looked at: `lfsfs verify --resume` goes on from here")


def _parallel(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 256:
        raise InvalidConfig("it is a number from 1 to 256")
    return int(text)
