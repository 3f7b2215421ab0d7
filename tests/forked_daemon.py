"""The daemon in a process that was forked: what `lfsfs mount` does before it executes one, and then that one itself."""

import os
from pathlib import Path
from typing import Any

import forking

from lfsfs import durable
from lfsfs.cli import background
from lfsfs.store.layout import open_layout


def serve(command: str, store: str, *given: Any) -> int:
    """`lfsfs COMMAND --foreground GIVEN`; the last of what is given is the pipe of the one who waits. No fault of
    the environment counts before the daemon itself begins.
    """
    *arguments, pipe = given
    try:
        open_layout(Path(store), create="--read-only" not in arguments)
        log = os.open(Path(store) / background.LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    except BaseException as error:
        background.Parent(pipe).failed(error)
        raise
    durable.read_environment()
    return forking.command(command, "--foreground", "--ready-fd", str(pipe), *arguments)
