"""transfer-agent: what git-lfs starts to move objects into a store and out of it without a server."""

import argparse
import hashlib
import json
import os
import shlex
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import trio

from lfsfs.cli import output, waiting
from lfsfs.cli.options import option
from lfsfs.cli.stores import chosen_store
from lfsfs.config import CacheOptions, S3Options, parse_encryption_key, parse_endpoint, parse_s3_url
from lfsfs.errors import InvalidConfig
from lfsfs.git import serverless
from lfsfs.git.agent import Agent, Line
from lfsfs.git.remotes import lfs_storage, repository_of_remote
from lfsfs.git.repository import find_clone
from lfsfs.store import attachment
from lfsfs.store.attachment import Attachment
from lfsfs.store.layout import check_server_name, open_layout
from lfsfs.store.opening import open_store
from lfsfs.store.store import Store


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    agent = commands.add_parser(
        waiting.COMMAND,
        help="what git-lfs runs where there is no server",
        description="A standalone custom transfer agent of git-lfs: moves objects straight into a store, or the bucket"
        " of one, and out of it. `lfsfs attach --serverless` sets it up.",
    )
    add_place(agent)
    agent.add_argument(
        "--repository",
        metavar="OWNER/REPO",
        help="what refers to the objects (default: after the remote's URL)",
    )
    agent.set_defaults(run=run_agent)


def add_place(parser: argparse.ArgumentParser) -> None:
    """--store, --s3, --s3-endpoint and --encryption-key: where the objects are."""
    parser.add_argument(
        "--store", metavar="STORE", type=Path, help="the store, with its bucket if it has one"
    )
    parser.add_argument(
        "--s3",
        metavar="s3://BUCKET/PREFIX",
        type=option(parse_s3_url),
        help="keep the objects in this bucket",
    )
    parser.add_argument(
        "--s3-endpoint", metavar="URL", type=option(parse_endpoint), help="of a server that is not Amazon's"
    )
    parser.add_argument(
        "--encryption-key", metavar="SOURCE", type=option(parse_encryption_key), help="of an encrypted bucket"
    )


def add_serverless(parser: argparse.ArgumentParser) -> None:
    """The options of attach that do without a server."""
    parser.add_argument(
        "--serverless",
        action="store_true",
        help="push and pull straight into a store or a bucket; with --mount or --name, keep the clone's objects in the"
        " mount as well",
    )
    add_place(parser)


def is_all(arguments: argparse.Namespace) -> bool:
    """Whether attaching is this and nothing else: the clone keeps its objects where it has them.

    InvalidConfig where the options do not fit together.
    """
    place = (arguments.store, arguments.s3, arguments.s3_endpoint, arguments.encryption_key)
    if not arguments.serverless and any(place):
        raise InvalidConfig("--store, --s3, --s3-endpoint and --encryption-key go with --serverless")
    return arguments.serverless and arguments.mount is None and arguments.name is None


def attach(arguments: argparse.Namespace) -> int:
    """Has git-lfs run the agent in a clone."""
    if arguments.store is not None or arguments.s3 is None:
        arguments.store = chosen_store(
            arguments.store or arguments.mount
        )  # a mountpoint stands for its store
    path, attached = place_of(arguments)
    if attached is None:
        open_layout(path, create=False)  # or git-lfs would be the first to hear that there is no store
    place = _place_as_arguments(arguments)
    serverless.use_agent(find_clone(arguments.repository), place)
    output.line(f"no server: git-lfs runs lfsfs transfer-agent {shlex.join(place)}")
    return output.DONE


def detach(repository: Path) -> bool:
    """Whether there was an agent of ours."""
    return serverless.forget(find_clone(repository))


def run_agent(arguments: argparse.Namespace) -> int:
    """Talks to git-lfs over standard input and output until it has no more to ask. `init` has been answered."""
    remote, line = arguments.work

    def opened() -> AbstractAsyncContextManager[Store]:
        path, attached = place_of(arguments)
        return open_store(path, create=attached is not None, remote=attached)

    def name() -> str:
        given = arguments.repository
        return check_server_name(f"/{given}") if given is not None else repository_of_remote(remote)

    trio.run(Agent(opened, name, lfs_storage, _say).run, line, _listen)
    return output.DONE


def _place_as_arguments(arguments: argparse.Namespace) -> list[str]:
    """The same place as arguments for another process, in another directory."""
    place: list[str] = []
    if arguments.store is not None:
        place += ["--store", os.path.realpath(arguments.store)]
    if arguments.s3 is not None:
        place += ["--s3", str(arguments.s3)]
    if arguments.s3_endpoint is not None:
        place += ["--s3-endpoint", arguments.s3_endpoint]
    if arguments.encryption_key is not None:
        place += ["--encryption-key", arguments.encryption_key]
    return place


def place_of(arguments: argparse.Namespace) -> tuple[Path, Attachment | None]:
    """The store that is meant, and its bucket. With a bucket alone, the store is a directory of this user's own that
    keeps nothing but the index.
    """
    if arguments.s3_endpoint is not None and arguments.s3 is None:
        raise InvalidConfig("--s3-endpoint needs --s3")
    if arguments.store is None and arguments.s3 is None:
        raise InvalidConfig("where are the objects? Give --store STORE, or --s3 s3://BUCKET/PREFIX")
    if arguments.encryption_key is not None and arguments.s3 is None:
        raise InvalidConfig("--encryption-key needs --s3")
    given = None
    if arguments.s3 is not None:
        given = S3Options(
            arguments.s3, endpoint=arguments.s3_endpoint, encryption_key=arguments.encryption_key
        )
    if arguments.store is None:
        assert given is not None
        return _own_store(given), (given, CacheOptions(mode="s3-only"))
    path = Path(os.path.realpath(arguments.store))
    known = attachment.load(path) if path.is_dir() else None
    if known is not None and (given is None or given.url == known[0].url):
        return path, (known[0], _through(known[1]))
    return path, None if given is None else (given, _through(CacheOptions()))


def _through(cache: CacheOptions) -> CacheOptions:
    """git-lfs takes what we answer for done, and there may be no daemon: so nothing waits for an upload."""
    return replace(cache, mode="write-through") if cache.mode == "write-back" else cache


def _own_store(s3: S3Options) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    digest = hashlib.sha256(f"{s3.endpoint or ''} {s3.url}".encode()).hexdigest()
    return Path(state) / "lfsfs" / f"{s3.url.bucket}-{digest[:16]}"


def _say(event: Line) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def _listen() -> bytes:
    return await trio.to_thread.run_sync(sys.stdin.buffer.readline, abandon_on_cancel=True)
