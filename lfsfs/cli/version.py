"""`lfsfs --version`: of lfsfs, and of what it stands on."""

import platform
import subprocess
from importlib.metadata import version

from lfsfs.cli import output

LIBRARIES = ("trio", "lmdb", "boto3", "numpy")
SECONDS = 10.0  # git-lfs gets to say what it is


def show() -> int:
    """Prints the versions, a line each."""
    print(f"lfsfs {version('lfsfs')}")
    for name, found in versions().items():
        print(f"{name} {found}")
    return output.DONE


def versions() -> dict[str, str]:
    """Of Python, the libraries, git-lfs and the kernel."""
    return {
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "git-lfs": _git_lfs(),
        "Linux": platform.release(),
    }


def _git_lfs() -> str:
    try:
        done = subprocess.run(
            ["git-lfs", "version"], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "is not installed, or does not answer"
    return done.stdout.partition("/")[2].partition(" ")[0] or "does not say which"
