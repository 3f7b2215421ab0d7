"""A clone without a server: git-lfs starts the transfer agent, which moves objects into a store, or a bucket, itself."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from lfsfs.errors import NotFound, Refused
from lfsfs.git.repository import Clone

AGENT = "lfs.standalonetransferagent"
NAME = "lfsfs"
COMMAND = f"lfs.customtransfer.{NAME}.path"
ARGUMENTS = f"lfs.customtransfer.{NAME}.args"


def use_agent(clone: Clone, arguments: list[str]) -> None:
    """The clone's objects go through the transfer agent from now on. Refused where it has another one."""
    other = clone.get(AGENT)
    if other not in (None, NAME):
        raise Refused(f"{AGENT} of {clone.path} is set to {other}: `git config --unset {AGENT}` first")
    clone.set(COMMAND, os.fspath(our_command()))
    clone.set(ARGUMENTS, shlex.join(["transfer-agent", *arguments]))
    clone.set(AGENT, NAME)


def forget(clone: Clone) -> bool:
    """No agent of ours any more; whether there was one."""
    if clone.get(AGENT) != NAME:
        return False
    for key in (AGENT, COMMAND, ARGUMENTS):
        clone.unset(key)
    return True


def our_command() -> Path:
    """The lfsfs command, as git-lfs is to start it. NotFound."""
    beside = Path(sys.executable).with_name("lfsfs")
    found = os.fspath(beside) if beside.exists() else shutil.which("lfsfs")
    if found is None:
        raise NotFound("the lfsfs command is not on the PATH: git-lfs could not start it")
    return Path(found)
