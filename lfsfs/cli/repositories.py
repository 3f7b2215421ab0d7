"""attach and detach: clones, and the repository roots where they keep their objects."""

import argparse
from pathlib import Path

from lfsfs.cli import output
from lfsfs.git import attach as attaching
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
    attach.set_defaults(run=run_attach)

    detach = commands.add_parser(
        "detach",
        help="undo that",
        description="Copies the objects that repos/NAME refers to back into .git/lfs, unsets lfs.storage,"
        " and removes repos/NAME.",
    )
    detach.add_argument("repository", metavar="REPO", nargs="?", type=Path, default=Path())
    detach.add_argument("--keep", action="store_true", help="copy nothing, and leave repos/NAME as it is")
    detach.set_defaults(run=run_detach)


def run_attach(arguments: argparse.Namespace) -> int:
    """Attaches a clone, and says what became of its objects."""
    done = attaching.attach(
        arguments.repository, name=arguments.name, mountpoint=arguments.mount, progress=_progress
    )
    output.progress("")
    if done.already:
        output.line(f"attached already: lfs.storage is {done.root}")
        return output.DONE
    output.line(f"attached: lfs.storage is {done.root}")
    if done.imported:
        output.line(
            f"{done.imported} objects came along; to free {format_size(done.reclaimable)},"
            f" remove {done.own_storage / 'objects'}"
        )
    for file in done.corrupt:
        output.note(f"left behind, as its bytes are not what its name says: {file}")
    return output.DONE


def run_detach(arguments: argparse.Namespace) -> int:
    """Detaches a clone."""
    done = attaching.detach(arguments.repository, keep=arguments.keep, progress=_progress)
    output.progress("")
    if done.root is None:
        output.line("not attached: nothing to do")
    elif arguments.keep:
        output.line(f"detached; {done.root} stays as it is")
    else:
        output.line(
            f"detached from {done.root}; {done.copied} objects ({format_size(done.copied_bytes)}) copied"
        )
    return output.DONE


def _progress(done: int, total: int) -> None:
    output.progress(f"{done} of {total} objects")
