"""lfsfs: the command. One subcommand each from the modules beside this one."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from lfsfs.cli import output, waiting
from lfsfs.errors import LfsfsError

if TYPE_CHECKING:
    from lfsfs.cli.options import Parser

DESCRIPTION = "The Git LFS store that is a file system."
EPILOG = (
    "`lfsfs` alone shows what is mounted, and what to do next. Exit status: 0 done; 1 failed; 2 wrong usage or"
    " configuration; 3 no such object; 4 refused or in use; 130 interrupted. See docs/COMMANDS.md."
)
COMPLETING = "_ARGCOMPLETE"
"""In the environment: a shell asks what could stand where its cursor is."""

MODULES = {
    "mounting": ("mount", "unmount"),
    "serving": ("serve",),
    "restarting": ("restart",),
    "repositories": ("attach", "detach"),
    "exchange": ("import", "export"),
    "agent": ("transfer-agent",),
    "objects": ("put", "get", "stat", "rm"),
    "listing": ("ls",),
    "collecting": ("gc", "why"),
    "trashing": ("trash", "undelete", "vacuum"),
    "scanning": ("scan",),
    "embedding": ("embed", "view"),
    "remote": ("sync", "pin", "unpin", "prefetch"),
    "keys": ("key",),
    "converting": ("encrypt", "decrypt"),
    "locking": ("unlock", "lock"),
    "verifying": ("verify",),
    "fsck": ("fsck",),
    "indexing": ("index",),
    "doctor": ("doctor",),
    "status": ("status",),
    "top": ("top",),
    "statistics": ("stats",),
    "completing": ("completion",),
    "users": ("user",),
    "ssh": ("ssh-session",),
}
"""The modules beside this one and their commands, as the help lists them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return _run(given)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough. Python flushes once more at exit: that shall not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return output.FAILED
    except KeyboardInterrupt:
        return output.INTERRUPTED
    except (LfsfsError, OSError) as error:
        return output.error(error)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        return output.INTERRUPTED


def _run(given: list[str]) -> int:
    if COMPLETING in os.environ:
        from lfsfs.cli import completing

        words = completing.words()
        completing.answer(parser(words) if words else completing.names(MODULES))
    if given == ["--version"]:
        from lfsfs.cli import version

        return version.show()
    if not given:
        from lfsfs.cli import overview

        return overview.show()
    work = None
    if given[:1] == [waiting.COMMAND] and not {"-h", "--help"} & set(given):
        work = waiting.first_work()
        if work is None:
            return output.DONE
    parsed = parser(given).parse_args(given)
    parsed.arguments = given
    if getattr(parsed, "quiet", False) or getattr(parsed, "json", False):
        output.hush()
    parsed.work = work
    status: int = parsed.run(parsed)
    return status


def parser(given: Sequence[str] = ()) -> "Parser":
    """The command line. Of a command that is given, only its own module: the others take longer than it works."""
    from lfsfs.cli.options import Parser

    top = Parser(prog="lfsfs", description=DESCRIPTION, epilog=EPILOG)
    top.add_argument(
        "--version", action="store_true", help="show the versions of lfsfs and of what it stands on"
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    wanted = next((name for name, theirs in MODULES.items() if given and given[0] in theirs), None)
    for name in MODULES if wanted is None else [wanted]:
        import_module(f"lfsfs.cli.{name}").add_to(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
