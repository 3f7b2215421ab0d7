"""put, get, stat and rm: single objects, straight in the store."""

import argparse
import stat as file_modes
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lfsfs import steps
from lfsfs.cli import output
from lfsfs.cli.bars import Bar, bar
from lfsfs.cli.stores import add_options, with_store
from lfsfs.errors import InvalidConfig, LfsfsError, Refused
from lfsfs.oid import Oid
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.store import Store
from lfsfs.units import format_size, format_time

STDIN = STDOUT = "-"
CHUNK_BYTES = 1 << 20


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    put = commands.add_parser("put", help="store files; prints their oids")
    put.add_argument("files", metavar="FILE", nargs="+", help="a file, or - for standard input")
    put.add_argument("--repo", metavar="NAME", help="let repos/NAME refer to the objects")
    add_options(put)
    put.set_defaults(run=run_put)

    get = commands.add_parser("get", help="write an object to a file, verified")
    get.add_argument("oid", metavar="OID", help="an oid, or its first digits")
    get.add_argument("-o", "--output", metavar="FILE", help="default, and -: standard output")
    add_options(get)
    get.set_defaults(run=run_get)

    stat = commands.add_parser("stat", help="what the store knows of an object, and what refers to it")
    stat.add_argument("oid", metavar="OID", help="an oid, or its first digits")
    add_options(stat)
    stat.set_defaults(run=run_stat)

    rm = commands.add_parser("rm", help="remove objects that nothing refers to")
    rm.add_argument("oids", metavar="OID", nargs="+", help="an oid, or its first digits")
    rm.add_argument("--force", action="store_true", help="remove them even if something refers to them")
    add_options(rm)
    rm.set_defaults(run=run_rm)


def run_put(arguments: argparse.Namespace) -> int:
    """Stores each file. One that fails is told, and the others are stored."""
    if arguments.files.count(STDIN) > 1:
        raise InvalidConfig("standard input can be read only once")
    results = with_store(arguments, lambda store: _put_all(store, arguments.files, arguments.repo))
    stored = [
        (name, result)
        for name, result in zip(arguments.files, results, strict=True)
        if isinstance(result, ObjectStat)
    ]
    with output.Listing[tuple[str, ObjectStat]](
        json=arguments.json,
        element=lambda item: {"file": item[0], **described(item[1])},
        text=lambda item: f"{item[1].oid}  {item[0]}",
    ) as listing:
        for item in stored:
            listing.add(item)
    return told_all(result for result in results if isinstance(result, Exception))


def run_get(arguments: argparse.Namespace) -> int:
    """Writes one object out."""
    if arguments.output not in (None, STDOUT):
        return _get_file(arguments, Path(arguments.output))
    if arguments.json:
        raise InvalidConfig("--json tells about a file: give -o FILE")
    if arguments.output is None and sys.stdout.isatty():
        raise InvalidConfig(
            "an object may hold anything, and standard output is a terminal: give -o FILE or -o -"
        )

    async def use(store: Store) -> None:
        oid = await store.find(arguments.oid)
        size, done = (await store.stat(oid)).size, 0
        with nullcontext() if sys.stdout.isatty() else Bar("get") as shown:
            async for piece in store.download(oid):
                sys.stdout.buffer.write(piece)
                done += len(piece)
                if shown is not None:
                    shown.show(done, size)
        sys.stdout.buffer.flush()

    with_store(arguments, use)
    return output.DONE


def run_stat(arguments: argparse.Namespace) -> int:
    """Shows one object."""

    async def use(store: Store) -> tuple[ObjectStat, list[str], list[str]]:
        oid = await store.find(arguments.oid)
        return await store.stat(oid), await store.names_of(oid), await store.why(oid)

    row, names, why = with_store(arguments, use, read_only=True)
    if arguments.json:
        output.as_json({**described(row), "names": names, "why": why})
        return output.DONE
    output.table(
        [
            ("oid", row.oid),
            ("size", f"{row.size} bytes" + (f" ({format_size(row.size)})" if row.size >= 1024 else "")),
            ("type", row.content_type),
            ("created", format_time(row.created)),
            ("accessed", format_time(row.accessed)),
            ("mode", f"{file_modes.S_IMODE(row.mode):04o}"),
            ("state", row.state),
            ("kept by", "\n".join(map(output.safe, why)) or "nothing: `lfsfs rm` would remove it"),
        ]
    )
    return output.DONE


def run_rm(arguments: argparse.Namespace) -> int:
    """Removes each object. One that fails is told, and the others are removed."""

    async def use(store: Store) -> list[Oid | LfsfsError]:
        steps.begin("", len(arguments.oids))
        return [await _remove(store, oid, force=arguments.force) for oid in arguments.oids]

    return told_each(with_store(arguments, use, busy="rm"), "removed", json=arguments.json)


def told_each(results: Sequence[Oid | LfsfsError], what: str, *, json: bool) -> int:
    """Lists the objects to which `what` was done, and says each error; the exit status."""
    with output.Listing[Oid](
        json=json, element=lambda oid: {"oid": oid}, text=lambda oid: f"{what} {oid}"
    ) as listing:
        for result in results:
            if isinstance(result, Oid):
                listing.add(result)
    return told_all(result for result in results if isinstance(result, Exception))


def told_all(errors: Iterable[BaseException]) -> int:
    """Says each error; the exit status of the first, or that all is done."""
    statuses = [output.error(error) for error in errors]
    return statuses[0] if statuses else output.DONE


def described(row: ObjectStat) -> dict[str, Any]:
    """The object as JSON has it: times in UTC, the mode in octal."""
    return {
        "oid": row.oid,
        "size": row.size,
        "type": row.content_type,
        "created": output.iso_time(row.created),
        "accessed": output.iso_time(row.accessed),
        "mode": f"{file_modes.S_IMODE(row.mode):04o}",
        "blocks": row.blocks,
        "state": row.state,
    }


async def _put_all(
    store: Store, names: list[str], repository: str | None
) -> list[ObjectStat | LfsfsError | OSError]:
    """In the order of `names`; files in parallel."""
    files = [Path(name) for name in names if name != STDIN]
    good = [file for file in files if _problem(file) is None]
    total, done = sum(file.stat().st_size for file in good), 0

    def came(size: int) -> None:
        nonlocal done
        done += size

    async with bar("put", lambda: (done, total)):
        results: list[ObjectStat | LfsfsError | OSError] = [
            *await store.put_many(good, repository=repository, came=came)
        ]
    for place, name in enumerate(names):
        problem = _problem(Path(name)) if name != STDIN else None
        if problem is not None:
            results.insert(place, problem)
        elif name == STDIN:
            results.insert(place, await _put_stdin(store, repository))
    return results


def _problem(file: Path) -> LfsfsError | OSError | None:
    """Why the file cannot be put, where that can be told before reading it."""
    try:
        if file.is_dir():
            return Refused(f"{file}: is a directory: only files can be stored")
        file.open("rb").close()
    except OSError as error:
        return error
    return None


async def _put_stdin(store: Store, repository: str | None) -> ObjectStat:
    async with store.create_upload(repository=repository) as upload:
        while piece := sys.stdin.buffer.read(CHUNK_BYTES):
            await upload.write(piece)
        return await upload.finalize()


def _get_file(arguments: argparse.Namespace, target: Path) -> int:
    if target.is_dir():
        raise InvalidConfig(f"{target} is a directory: name the file")

    async def use(store: Store) -> ObjectStat:
        row = await store.stat(await store.find(arguments.oid))
        with Bar("get") as shown:
            await store.get(row.oid, target, progress=lambda done, _: shown.show(done, row.size))
        return row

    row = with_store(arguments, use)
    if arguments.json:
        output.as_json({"file": str(target), **described(row)})
    return output.DONE


async def _remove(store: Store, prefix: str, *, force: bool) -> Oid | LfsfsError:
    try:
        oid = await store.find(prefix)
        await store.discard(oid, force=force)
    except LfsfsError as error:
        return error
    finally:
        steps.add()
    return oid
