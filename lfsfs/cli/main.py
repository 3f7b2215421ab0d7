"""lfsfs: the command. One subcommand each from the modules beside this one."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lfsfs.cli import output, waiting
from lfsfs.errors import LfsfsError

if TYPE_CHECKING:
    from lfsfs.cli.options import Parser

DESCRIPTION = "The Git LFS store that is a file system."
EPILOG = (
    "Exit status: 0 done; 1 failed; 2 wrong usage or configuration; 3 no such object; 4 refused or in use."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    work = None
    if given[:1] == [waiting.COMMAND] and not {"-h", "--help"} & set(given):
        work = waiting.first_work()
        if work is None:
            return output.DONE
    parsed = parser().parse_args(given)
    parsed.arguments = given
    parsed.work = work
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough. Python flushes once more at exit: that shall not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return output.FAILED
    except KeyboardInterrupt:
        return output.INTERRUPTED
    except (LfsfsError, OSError) as error:
        return output.error(error)
    return status


def parser() -> "Parser":
    """The whole command line."""
    from lfsfs.cli import (
        agent,
        doctor,
        embedding,
        indexing,
        listing,
        mounting,
        objects,
        remote,
        repositories,
        serving,
        ssh,
        status,
        users,
    )
    from lfsfs.cli.options import Parser

    top = Parser(prog="lfsfs", description=DESCRIPTION, epilog=EPILOG)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    modules = (
        mounting,
        serving,
        repositories,
        agent,
        objects,
        listing,
        embedding,
        remote,
        indexing,
        doctor,
        status,
        users,
        ssh,
    )
    for module in modules:
        module.add_to(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
