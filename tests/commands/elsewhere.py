"""A machine that lacks something: lfsfs runs where files are changed or hidden, and where other programs are found.

What is changed is changed in a mount namespace of its own, and ends with the command.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

LFSFS = Path(sys.executable).with_name("lfsfs")
_NEW = ["unshare", "--mount", "--propagation", "slave"]  # what is unmounted outside goes in there too
ALONE = _NEW if os.geteuid() == 0 else [*_NEW, "--map-root-user"]
SECONDS = 30


def run(
    *arguments: str | Path, first: str = "", path: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """`lfsfs ARGUMENTS` after the shell command `first`, which may mount what it likes. `path`: all the programs."""
    typed = shlex.join([str(LFSFS), *map(str, arguments)])
    found = f"export PATH={shlex.quote(str(path))}" if path is not None else "true"
    line = f"{first or 'true'} && {found} && {typed}"
    return subprocess.run(
        [*(ALONE if first else []), shutil.which("bash") or "bash", "-c", line],
        capture_output=True, text=True, timeout=SECONDS, env=os.environ | environment,
    )  # fmt: skip


def programs(folder: Path, *names: str) -> Path:
    """A folder with these programs alone."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name) or name)
    return folder
