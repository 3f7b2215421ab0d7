"""completion: what makes a shell complete the commands and options of lfsfs when the tab key is pressed.

The shell asks `lfsfs` itself (argcomplete's protocol), so that what
is offered is what this version knows, and the mounts, repositories and collections that are there now.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lfsfs import mounts
from lfsfs.cli import output
from lfsfs.errors import InvalidConfig

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "lfsfs"
INTERNAL = ("view",)
"""Commands that nobody types."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    completion = commands.add_parser(
        "completion",
        help="what makes the shell complete lfsfs's commands",
        description="Prints what makes a shell complete the commands, options and values of lfsfs. Installed packages"
        " bring it already: this is for where the shell does not find theirs. See docs/COMMANDS.md.",
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=run_completion)


def run_completion(arguments: argparse.Namespace) -> int:
    """Prints the code for one shell."""
    output.raw(script(arguments.shell))
    return output.DONE


def script(shell: str) -> str:
    """What the shell is to read."""
    if find_spec("argcomplete") is None:
        raise InvalidConfig("completion needs argcomplete, which is not installed: pip install argcomplete")
    from argcomplete.shell_integration import shellcode

    return str(shellcode([PROGRAM], shell=shell)).strip("\n") + "\n"


def answer(parser: argparse.ArgumentParser) -> None:
    """Tells the shell what may stand where its cursor is, and ends the process."""
    import argcomplete

    _offer_values(parser)
    argcomplete.autocomplete(parser, always_complete_options=False)


def names(modules: Mapping[str, Sequence[str]]) -> argparse.ArgumentParser:
    """The commands by name alone: all that is asked for before there is one, and quick."""
    top = argparse.ArgumentParser(prog=PROGRAM)
    top.add_argument("--version", action="store_true")
    commands = top.add_subparsers()
    for theirs in modules.values():
        for name in theirs:
            commands.add_parser(name)
    return top


def words() -> list[str]:
    """The words of the command line that is being typed, after `lfsfs`, without the last one."""
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0") or 0) or None]
    return line.split()[1:] if line[-1:].isspace() else line.split()[1:-1]


def _offer_values(parser: argparse.ArgumentParser) -> None:
    """Gives the arguments whose values lie about on this machine something that looks for them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name in INTERNAL:
                action.choices.pop(name, None)
            for below in dict.fromkeys(action.choices.values()):
                _offer_values(below)
        elif offer := _OFFERS.get(
            (parser.prog.partition(" ")[2], action.dest), _OFFERS.get(("", action.dest))
        ):
            action.completer = offer  # type: ignore[attr-defined]


def _mountpoints(**_: Any) -> list[str]:
    return [str(entry.mountpoint) for entry in mounts.lfsfs_mounts()]


def _below(directory: str) -> Callable[..., list[str]]:
    """The names in a directory of the mount that --store or --mount means, or of the only one."""

    def names(parsed_args: argparse.Namespace | None = None, **_: Any) -> list[str]:
        store = getattr(parsed_args, "store", None)
        mounted = mounts.mounts_of_store(store) if isinstance(store, Path) else mounts.lfsfs_mounts()
        return [
            entry for mount in mounted[:1] if mounts.health(mount.mountpoint, 1.0) == "alive"
            for entry in sorted(os.listdir(mount.mountpoint / directory))
        ]  # fmt: skip

    return names


_OFFERS: dict[tuple[str, str], Callable[..., Sequence[str]]] = {
    ("unmount", "mountpoint"): _mountpoints,
    ("attach", "mount"): _mountpoints,
    ("top", "mountpoint"): _mountpoints,
    ("", "repo"): _below("repos"),
    ("detach", "forgotten"): _below("repos"),
    ("", "collection"): _below("embeddings"),
}


if (
    __name__ == "__main__"
):  # writes the files that the package installs: python -m lfsfs.cli.completing DIRECTORY
    for one, file in (("bash", "lfsfs"), ("zsh", "_lfsfs"), ("fish", "lfsfs.fish")):
        (Path(sys.argv[1]) / file).write_text(script(one))
