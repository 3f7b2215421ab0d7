"""attach and detach: clones, and the repository roots where they keep their objects."""

import argparse
import shutil
from pathlib import Path

from lfsfs.cli import agent, output
from lfsfs.cli.bars import Bar
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_quiet, chosen_store, with_store_at
from lfsfs.errors import InvalidConfig, LfsfsError, NotFound
from lfsfs.exchange.finding import Problems, find_clones
from lfsfs.git import attach as attaching
from lfsfs.git import clones, endpoint
from lfsfs.git.endpoint import parse_server_url
from lfsfs.git.repository import find_clone
from lfsfs.store import feeds
from lfsfs.store.layout import open_layout
from lfsfs.store.store import Store
from lfsfs.units import format_size


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    attach = commands.add_parser(
        "attach",
        help="make a clone keep its LFS objects in the mount",
        description="Makes repos/NAME in the mount, and sets lfs.storage of the clone to it. Objects that the"
        " clone has are brought along; the files in .git/lfs stay, until you remove them.",
    )
    attach.add_argument("repository", metavar="REPO", nargs="?", type=Path, default=Path())
    attach.add_argument("--name", metavar="NAME", help="default: the name of the repository's directory")
    attach.add_argument("--mount", metavar="MNT", type=Path, help="default: the only lfsfs mount")
    attach.add_argument(
        "--url", metavar="URL", type=option(parse_server_url),
        help="also make it the clone's LFS server: http://HOST:PORT/OWNER/REPO of the mount's own server (--listen):"
        " pushes move no bytes that the mount has",
    )  # fmt: skip
    attach.add_argument(
        "--register", action="store_true",
        help="only have gc read the repository: it keeps its objects where it does. For clones whose lfs.storage is the"
        " mountpoint itself",
    )  # fmt: skip
    attach.add_argument(
        "--all", metavar="DIR", type=Path, dest="tree",
        help="attach every clone below DIR that uses Git LFS, bare repositories included",
    )  # fmt: skip
    agent.add_serverless(attach)
    add_quiet(attach)
    attach.set_defaults(run=run_attach)

    detach = commands.add_parser(
        "detach",
        help="undo that",
        description="Copies the objects that repos/NAME refers to back into .git/lfs, unsets lfs.storage,"
        " and removes repos/NAME.",
    )
    detach.add_argument("repository", metavar="REPO", nargs="?", type=Path, default=Path())
    detach.add_argument("--keep", action="store_true", help="copy nothing, and leave repos/NAME as it is")
    detach.add_argument(
        "--forgotten", metavar="NAME",
        help="remove repos/NAME, whose clone is gone: gc does not look for it any more",
    )  # fmt: skip
    detach.add_argument(
        "--store", metavar="STORE", type=Path, help="of repos/NAME (default: the only one mounted)"
    )
    add_quiet(detach)
    detach.set_defaults(run=run_detach)


def run_attach(arguments: argparse.Namespace) -> int:
    """Attaches a clone, and says what became of its objects."""
    if shutil.which("git-lfs") is None:
        output.note(
            "git-lfs is not installed: git cannot use the objects without it (apt-get install git-lfs)"
        )
    if arguments.tree is not None:
        return _attach_all(arguments)
    if arguments.register:
        root = attaching.register(arguments.repository, name=arguments.name, mountpoint=arguments.mount)
        output.line(f"registered as {root.name}: gc keeps what it refers to")
        return output.DONE
    store = endpoint.check(find_clone(arguments.repository), arguments.url) if arguments.url else None
    if agent.is_all(arguments):
        if arguments.url:
            endpoint.point(find_clone(arguments.repository), arguments.url)
            output.line(f"locks are at {arguments.url.url}")
        return agent.attach(arguments)
    with Bar("bring along", "objects") as shown:
        done = attaching.attach(
            arguments.repository, name=arguments.name, mountpoint=arguments.mount, progress=shown.show
        )
    if arguments.url:
        _point(arguments, done.root, store)
    if done.already:
        output.line(f"attached already: lfs.storage is {done.root}")
        return agent.attach(arguments) if arguments.serverless else output.DONE
    output.line(f"attached: lfs.storage is {done.root}")
    if done.imported:
        output.line(
            f"{done.imported} objects came along; to free {format_size(done.reclaimable)},"
            f" remove {done.own_storage / 'objects'}"
        )
    for file in done.corrupt:
        output.note(f"left behind, as its bytes are not what its name says: {file}")
    if arguments.serverless:
        agent.attach(arguments)
    return output.DONE


def _attach_all(arguments: argparse.Namespace) -> int:
    """Attaches each clone of a tree. One that fails is told, and the others are attached."""
    if arguments.name or arguments.url or arguments.register or arguments.repository != Path():
        raise InvalidConfig(
            "--all DIR takes the clones as it finds them: give no REPO, --name, --url or --register"
        )
    if agent.is_all(arguments):
        raise InvalidConfig(
            "--all DIR makes clones use the mount, and --serverless without one is for one clone"
        )
    attaching.find_mount(arguments.mount)
    problems = Problems()
    status, number = output.DONE, 0
    for clone in find_clones(arguments.tree, problems):
        if not clone.uses_lfs():
            continue
        number += 1
        output.line(f"{clone.path}:")
        one = argparse.Namespace(**{**vars(arguments), "repository": clone.path, "tree": None})
        try:
            status = run_attach(one) or status
        except (LfsfsError, OSError) as error:
            status = output.error(error)
    for path, why in problems.found:
        output.note(f"{path}: {why}")
    if not number:
        raise NotFound(f"no clone below {arguments.tree} uses Git LFS")
    return status or (output.FAILED if problems.found else output.DONE)


def _point(arguments: argparse.Namespace, root: Path, store: str | None) -> None:
    """Makes the server the clone's, and the clone's root a feed of its repository there."""
    url: endpoint.Endpoint = arguments.url
    mount = attaching.find_mount(arguments.mount)
    if open_layout(mount.store, create=False).id != store:
        output.note(f"{url.url} is not the server of {mount.mountpoint}: pushes move all bytes")
    else:

        async def feed(opened: Store) -> None:
            await opened.index.update(lambda tx: feeds.add(tx, root.name, url.repository))

        with_store_at(mount.store, feed)
    endpoint.point(find_clone(arguments.repository), url)
    output.line(f"pushes go to {url.url}")


def run_detach(arguments: argparse.Namespace) -> int:
    """Detaches a clone."""
    if arguments.forgotten is not None:
        return _forget(arguments)
    had_agent = agent.detach(arguments.repository)
    with Bar("bring back", "objects") as shown:
        done = attaching.detach(arguments.repository, keep=arguments.keep, progress=shown.show)
    endpoint.forget(find_clone(arguments.repository))
    if done.root is None:
        output.line("detached" if had_agent else "not attached: nothing to do")
    elif arguments.keep:
        output.line(f"detached; {done.root} stays as it is")
    else:
        output.line(
            f"detached from {done.root}; {done.copied} objects ({format_size(done.copied_bytes)}) copied"
        )
    return output.DONE


def _forget(arguments: argparse.Namespace) -> int:
    """Removes the repository root of a clone that is gone."""

    async def use(store: Store) -> None:
        clone = clones.forgotten(store.layout, arguments.forgotten)
        await store.remove_repository(arguments.forgotten)
        output.line(f"removed repos/{clone.name}, which was that of {clone.directory} on {clone.host}")

    with_store_at(chosen_store(arguments.store), use)
    return output.DONE
