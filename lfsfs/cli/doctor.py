"""doctor: what a machine lacks for lfsfs, or what an S3 server can do; what that means, and what to do about it."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lfsfs.cli import examining, output
from lfsfs.cli.options import option
from lfsfs.config import S3Options, parse_endpoint, parse_s3_url
from lfsfs.config_file import default_file, read_file, remote_of
from lfsfs.errors import InvalidConfig

if TYPE_CHECKING:
    from lfsfs.tiers.s3.probe import Finding, Report

NAME_WIDTH = 27
_MARKS: dict[str, tuple[str, output.Style]] = {
    "FAILS": ("FAILS", "bad"),
    "ok": ("ok", "good"),
    "no": ("no", "warn"),
}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    doctor = commands.add_parser(
        "doctor",
        help="find out what is wrong with this machine, or what an S3 server can do",
        description="Looks whether this machine has what lfsfs needs, at the disks of its stores, and whether their"
        " buckets answer; says what to do where something is amiss, or with --fix does it. With a bucket: tries what"
        " lfsfs needs of an S3 server, in a corner of the bucket that is empty again afterwards. Exit status 0: lfsfs"
        " works here, or can keep objects there.",
    )
    doctor.add_argument(
        "url", metavar="s3://BUCKET/PREFIX", nargs="?", type=option(parse_s3_url),
        help="look at this bucket (with --config and none: at that of the file)",
    )  # fmt: skip
    doctor.add_argument(
        "--s3-endpoint", metavar="URL", type=option(parse_endpoint), help="default: the file's"
    )
    doctor.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="its section [s3] has the other options (credentials, sse, …)",
    )
    doctor.add_argument(
        "--fix", action="store_true", help="mend what can be mended here; asks before each command"
    )
    doctor.add_argument("--yes", action="store_true", help="with --fix: do not ask")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=run_doctor)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Tries everything, and tells each finding as it comes."""
    if arguments.url is None and arguments.config is None and arguments.s3_endpoint is None:
        return examining.run(arguments)
    if arguments.fix:
        raise InvalidConfig("--fix mends this machine: give no bucket with it")
    from lfsfs.tiers.s3.probe import examine  # brings boto3

    options = _options(arguments)
    if not arguments.json:
        output.line(f"{options.url}{f' at {options.endpoint}' if options.endpoint else ''}")
    report = trio.run(examine, options, _unseen if arguments.json else _tell)
    if arguments.json:
        output.as_json({**asdict(report), "usable": report.usable})
    else:
        _conclude(report)
    return output.DONE if report.usable else output.FAILED


def _options(arguments: argparse.Namespace) -> S3Options:
    """What was given on the command line, and for the rest the file's [s3]."""
    file = arguments.config or default_file(None)
    given = {"s3.url": arguments.url, "s3.endpoint": arguments.s3_endpoint}
    settings = {
        **(read_file(file) if file is not None else {}),
        **{key: value for key, value in given.items() if value is not None},
    }
    remote = remote_of(settings)
    if remote is None:
        raise InvalidConfig("which bucket? Give s3://BUCKET/PREFIX, or a configuration file with [s3]")
    return remote[0]


def _tell(finding: "Finding") -> None:
    mark, style = _MARKS["FAILS" if finding.fatal else "ok" if finding.verdict == "yes" else "no"]
    output.line(f"{finding.name:<{NAME_WIDTH}}  {finding.detail}".rstrip(), mark=f"  {mark:<7}", style=style)
    if finding.meaning:
        output.line(f"{'':9}{finding.meaning}")


def _unseen(finding: "Finding") -> None:
    """Everything is in the report."""


def _conclude(report: "Report") -> None:
    if report.boto:
        output.line()
        output.line("lfsfs talks to this server with:")
        output.table([(f"  {name}", value) for name, value in report.boto.items()])
    output.line()
    if report.usable:
        output.line(f"lfsfs can keep its objects there: lfsfs mount STORE MNT --s3 {report.address} …")
    else:
        output.line("lfsfs cannot keep its objects there: see what FAILS above.")
