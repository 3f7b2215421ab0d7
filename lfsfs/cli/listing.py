"""ls: the objects of a store, by any of the indexes, a page at a time."""

import argparse
import time
from dataclasses import replace
from typing import get_args

from lfsfs.cli import output
from lfsfs.cli.objects import described
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, with_store
from lfsfs.errors import InvalidConfig
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.query import LIMIT, ListQuery, Match, Sort
from lfsfs.store.store import Store
from lfsfs.units import SIZES, TIMES, format_size, format_time, parse_size, parse_time

SEARCH_LIMIT = 100
_FILTERS = ("prefix", "min_size", "max_size", "since", "until", "type", "repo", "sort", "reverse", "cursor")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    ls = commands.add_parser(
        "ls",
        help="list objects, by size, time, type, repository or name",
        description=f"Lists objects. Sizes: {SIZES}. Times: {TIMES}.",
    )
    moment = option(lambda text: parse_time(text, time.time()))
    size = option(parse_size)
    ls.add_argument("--prefix", metavar="HEX", default="", help="oids that begin with these digits")
    ls.add_argument("--min-size", metavar="SIZE", type=size, help="this size or larger")
    ls.add_argument("--max-size", metavar="SIZE", type=size, help="this size or smaller")
    ls.add_argument("--since", metavar="TIME", type=moment, help="created then or later")
    ls.add_argument("--until", metavar="TIME", type=moment, help="created then or earlier")
    ls.add_argument("--type", metavar="TYPE", help="content type: image/png, or all of image/")
    ls.add_argument("--repo", metavar="NAME", help="what repos/NAME refers to")
    ls.add_argument("--sort", choices=get_args(Sort), help="default: oid")
    ls.add_argument("-r", "--reverse", action="store_true", help="largest, latest, last first")
    ls.add_argument("--limit", metavar="N", type=option(_limit), help="at most so many; says how to go on")
    ls.add_argument("--cursor", metavar="CURSOR", help="go on where --limit stopped")
    ls.add_argument(
        "--search",
        metavar="TERM",
        help=f"what begins with TERM: oid, name in incoming/ or type (at most {SEARCH_LIMIT}, or --limit)",
    )
    add_options(ls)
    ls.set_defaults(run=run_ls)


def run_ls(arguments: argparse.Namespace) -> int:
    """Lists what fits; everything, unless there is a limit."""
    if arguments.search is not None:
        return _search(arguments)
    query = ListQuery(
        prefix=arguments.prefix.lower(),
        min_size=arguments.min_size,
        max_size=arguments.max_size,
        since=arguments.since,
        until=arguments.until,
        content_type=arguments.type.removesuffix("*") if arguments.type else None,
        repository=arguments.repo,
        sort=arguments.sort or "oid",
        descending=arguments.reverse,
        limit=arguments.limit or LIMIT,
        cursor=arguments.cursor,
    )

    async def use(store: Store) -> str | None:
        with output.Listing[ObjectStat](json=arguments.json, element=described, text=_columns) as listing:
            page = await store.list(query)
            while True:
                for row in page.objects:
                    listing.add(row)
                if page.cursor is None or arguments.limit is not None:
                    return page.cursor
                page = await store.list(replace(query, cursor=page.cursor))

    cursor = with_store(arguments, use, read_only=True)
    if cursor is not None:
        output.note(f"there are more: --cursor {cursor}")
    return output.DONE


def _search(arguments: argparse.Namespace) -> int:
    used = [f"--{name.replace('_', '-')}" for name in _FILTERS if getattr(arguments, name)]
    if used:
        raise InvalidConfig(f"--search cannot be combined with {used[0]}")

    async def use(store: Store) -> list[Match]:
        return await store.search(arguments.search, limit=arguments.limit or SEARCH_LIMIT)

    matches = with_store(arguments, use, read_only=True)
    with output.Listing[Match](
        json=arguments.json,
        element=lambda match: {**described(match.stat), "matched": match.matched},
        text=lambda match: f"{_columns(match.stat)}  {match.matched}",
    ) as listing:
        for match in matches:
            listing.add(match)
    return output.DONE


def _columns(row: ObjectStat) -> str:
    mark = "" if row.state == "whole" else f"  ({row.state})"
    return (
        f"{row.oid}  {format_size(row.size):>8}  {format_time(row.created)}  {row.content_type or '-'}{mark}"
    )


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise InvalidConfig("it is a number, 1 or more")
    return int(text)
