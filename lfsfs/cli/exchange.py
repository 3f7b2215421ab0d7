"""import and export: the objects of clones, of other servers and of buckets, into a store and out of it."""

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from lfsfs.cli import output
from lfsfs.cli.bars import bar
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, with_store
from lfsfs.config import S3Options, S3Url, parse_endpoint, parse_s3_url
from lfsfs.config_file import default_file, read_file, remote_of
from lfsfs.errors import InvalidConfig
from lfsfs.exchange.forms import Form
from lfsfs.units import format_size

if TYPE_CHECKING:
    from lfsfs.exchange.exporting import Export, Exported, Target
    from lfsfs.exchange.importing import Import, Imported, Tally
    from lfsfs.store.store import Store
    from lfsfs.tiers.s3.foreign import ForeignBucket

BUCKET = "s3://"
SHOWN = 20
T = TypeVar("T")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    adopt = commands.add_parser(
        "import",
        help="bring objects of clones, of other servers or of a bucket into the store",
        description="Finds every clone and bare repository below PATH, and every folder that holds objects as git-lfs,"
        " GitLab (lfs-objects), Gitea (lfs) or giftless (ORG/REPO/oid) keep them. Each object is compared with its name;"
        " what is damaged is named, and left. Bytes are shared with the files where the file system can do that, and the"
        " files stay where they are. Interrupted, and typed again, it goes on. What comes from a clone is referred to by"
        " repos/NAME, what comes from a server by one root of the folder's name, or by the server's repository ORG/REPO:"
        " gc takes nothing of it until you remove that.",
    )
    adopt.add_argument(
        "places",
        metavar="PATH",
        nargs="+",
        help="a folder, or s3://BUCKET/PREFIX with objects as one of them has it",
    )
    adopt.add_argument(
        "--repo", metavar="NAME", help="let repos/NAME, or /OWNER/REPO of the server, refer to all of it"
    )
    adopt.add_argument(
        "--copy", action="store_true",
        help="share nothing by hard links (a file that is linked becomes read-only, as git's own objects are)",
    )  # fmt: skip
    _add_bucket_options(adopt)
    adopt.set_defaults(run=run_import)

    leave = commands.add_parser(
        "export",
        help="write the objects of the store as git-lfs or another server keeps them",
        description="Writes every object to TARGET, compared with its name: whole, or not at all. What is there is not"
        " written again, so that an export that was interrupted goes on when it is typed again.",
    )
    leave.add_argument("target", metavar="TARGET", help="a folder, or s3://BUCKET/PREFIX")
    leave.add_argument(
        "--layout", choices=get_args(Form), default="git-lfs",
        help="git-lfs: objects/aa/bb/OID, for lfs.storage or .git/lfs (the default); gitlab, gitea: aa/bb/REST, for"
        " lfs-objects and lfs; giftless: ORG/REPO/OID",
    )  # fmt: skip
    leave.add_argument(
        "--repo", metavar="NAME", action="append", default=[],
        help="only what repos/NAME, or /OWNER/REPO of the server, refers to; may be repeated",
    )  # fmt: skip
    leave.add_argument("--project", metavar="ORG/REPO", help="what giftless is to call the one --repo")
    _add_bucket_options(leave)
    leave.set_defaults(run=run_export)


def _add_bucket_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only say what there is, and change nothing"
    )
    parser.add_argument(
        "--s3-endpoint", metavar="URL", type=option(parse_endpoint), help="of a bucket that is not Amazon's"
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="its section [s3] has the other options of that bucket"
    )
    add_options(parser, quiet="no progress, and no word but of what went wrong")


def _bucket_options(arguments: argparse.Namespace, url: S3Url) -> S3Options:
    """What was given on the command line, and for the rest the file's [s3]."""
    file = arguments.config or default_file(None)
    settings = dict(read_file(file)) if file is not None else {}
    for key in ("s3.encryption_key", "s3.object_names", "s3.compression", "s3.layout"):
        settings.pop(key, None)  # those are of buckets of ours
    settings["s3.url"] = url
    if arguments.s3_endpoint is not None:
        settings["s3.endpoint"] = arguments.s3_endpoint
    remote = remote_of(settings)
    if remote is None:
        raise InvalidConfig(f"not a bucket: {url}")
    return remote[0]


@asynccontextmanager
async def _bucket(arguments: argparse.Namespace, text: str) -> "AsyncIterator[ForeignBucket]":
    from lfsfs.tiers.s3.foreign import open_foreign  # brings boto3

    async with open_foreign(_bucket_options(arguments, parse_s3_url(text))) as bucket:
        await bucket.check()
        yield bucket


# import


def run_import(arguments: argparse.Namespace) -> int:
    """Imports, or says what there is to import."""
    buckets = [place for place in arguments.places if place.startswith(BUCKET)]
    if buckets and len(arguments.places) > 1:
        raise InvalidConfig("a bucket is imported alone: give it as the only PATH")

    async def use(store: "Store") -> "Imported":
        from lfsfs.exchange.importing import Import

        run = Import(store, repository=arguments.repo, may_link=not arguments.copy)
        if buckets:
            async with _bucket(arguments, buckets[0]) as bucket:
                return await _import_bucket(run, bucket, buckets[0], arguments)
        return await _import(run, arguments)

    done = with_store(arguments, use, read_only=arguments.dry_run)
    if arguments.json:
        output.as_json(_described_import(done, dry=arguments.dry_run))
    else:
        _tell_import(done, arguments)
    return output.FAILED if done.corrupt or done.problems.found else output.DONE


async def _import(run: "Import", arguments: argparse.Namespace) -> "Imported":
    import trio

    async with bar("look", lambda: (0, run.result.found.bytes), quiet=_is_quiet(arguments)):
        sources = await trio.to_thread.run_sync(run.look, [Path(place) for place in arguments.places])
    if arguments.dry_run:
        return run.result
    return await _shown("import", run, run.result.found.bytes, arguments, lambda: run.run(sources))


async def _import_bucket(
    run: "Import", bucket: "ForeignBucket", place: str, arguments: argparse.Namespace
) -> "Imported":
    name = place.rstrip("/").rpartition("/")[2]
    async with bar("look", lambda: (0, run.result.found.bytes), quiet=_is_quiet(arguments)):
        await run.look_at_bucket(bucket, name)
    if arguments.dry_run:
        return run.result
    return await _shown(
        "import", run, run.result.found.bytes, arguments, lambda: run.run_bucket(bucket, name)
    )


async def _shown(
    label: str,
    run: "Import | Export",
    total: int,
    arguments: argparse.Namespace,
    work: Callable[[], Awaitable[T]],
) -> T:
    async with bar(label, lambda: (run.result.done_bytes, total), quiet=_is_quiet(arguments)):
        return await work()


def _is_quiet(arguments: argparse.Namespace) -> bool:
    return bool(arguments.quiet or arguments.json)


def _tell_import(done: "Imported", arguments: argparse.Namespace) -> None:
    if not arguments.quiet:
        for path, (repository, tally) in done.sources.items():
            output.line(f"{path}: {_amount(tally)}, of {_shown_name(repository)}")
        for path in done.attached:
            output.line(f"{path}: attached to a mount, nothing to import")
        if arguments.dry_run:
            output.line(
                f"{_amount(done.new)} would be imported; {_amount(done.known)} are in the store, or come twice"
            )
        else:
            output.line(f"imported {_amount(done.new)}; {_amount(done.known)} were there already")
            _tell_saved(done)
    for path in done.corrupt[:SHOWN]:
        output.note(f"left behind, as its bytes are not what its name says: {path}")
    for path, why in done.problems.found[:SHOWN]:
        output.note(f"{path}: {why}")
    more = len(done.corrupt[SHOWN:]) + len(done.problems.found[SHOWN:])
    if more:
        output.note(f"and {more} more: --json has them all")


def _tell_saved(done: "Imported") -> None:
    saved = done.known.bytes + done.shared.bytes
    if saved:
        shared = (
            f", {format_size(done.shared.bytes)} of it shared with the files" if done.shared.bytes else ""
        )
        output.line(f"that takes {format_size(saved)} less than a copy of each would{shared}")


def _described_import(done: "Imported", *, dry: bool) -> dict[str, Any]:
    return {
        "dry_run": dry,
        "sources": [
            {"path": path, "repository": repository, **_tally(tally)}
            for path, (repository, tally) in done.sources.items()
        ],
        "found": _tally(done.found),
        "new": _tally(done.new),
        "known": _tally(done.known),
        "shared": _tally(done.shared),
        "attached": done.attached,
        "corrupt": done.corrupt,
        "problems": [{"path": path, "problem": why} for path, why in done.problems.found],
    }


# export


def run_export(arguments: argparse.Namespace) -> int:
    """Exports, or says what there is to export."""

    async def use(store: "Store") -> "Exported":
        from lfsfs.exchange.exporting import BucketTarget, Export, chosen, open_directory

        form: Form = arguments.layout
        run = Export(store, form, chosen(store, form, arguments.repo, arguments.project))
        await run.look()
        if arguments.dry_run:
            return run.result
        if arguments.target.startswith(BUCKET):
            async with _bucket(arguments, arguments.target) as bucket:
                return await _export(run, BucketTarget(bucket), arguments)
        async with open_directory(store, Path(arguments.target)) as target:
            return await _export(run, target, arguments)

    done = with_store(arguments, use, read_only=arguments.dry_run)
    if arguments.json:
        output.as_json(
            {
                "dry_run": arguments.dry_run,
                "found": _tally(done.found),
                "written": _tally(done.written),
                "known": _tally(done.known),
                "shared": _tally(done.shared),
                "failed": [{"oid": oid, "problem": why} for oid, why in done.failed],
            }
        )
    else:
        _tell_export(done, arguments)
    return output.FAILED if done.failed else output.DONE


async def _export(run: "Export", target: "Target", arguments: argparse.Namespace) -> "Exported":
    return await _shown("export", run, run.result.found.bytes, arguments, lambda: run.run(target))


def _tell_export(done: "Exported", arguments: argparse.Namespace) -> None:
    if arguments.dry_run:
        output.line(f"{_amount(done.found)} would be exported")
    elif not arguments.quiet:
        output.line(f"exported {_amount(done.written)}; {_amount(done.known)} were there already")
        if done.shared.bytes:
            output.line(f"{format_size(done.shared.bytes)} share their room with the store")
    for oid, why in done.failed[:SHOWN]:
        output.note(f"{oid}: {why}")
    if done.failed[SHOWN:]:
        output.note(f"and {len(done.failed) - SHOWN} more: --json has them all")


# Both.


def _amount(tally: "Tally") -> str:
    return f"{tally.objects} object{'' if tally.objects == 1 else 's'} ({format_size(tally.bytes)})"


def _shown_name(repository: str) -> str:
    return f"the server's {repository}" if repository.startswith("/") else f"repos/{repository}"


def _tally(tally: "Tally") -> dict[str, int]:
    return {"objects": tally.objects, "bytes": tally.bytes}
