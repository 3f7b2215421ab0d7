"""What an agent asks git about the clone that it works for: where its LFS objects lie, and which repository it is."""

from pathlib import Path
from urllib.parse import urlsplit

from lfsfs.errors import InvalidName, NotFound
from lfsfs.git.repository import STORAGE, run_git
from lfsfs.store.layout import check_server_name

HERE = Path()
"""The repository that git itself is at work in when it runs us: its environment says which."""
NAME_PARTS = 2
UNNAMED = "/unnamed"
_ABSENT = 1  # `git config --get` of what is not set


def lfs_storage() -> Path:
    """The directory where git-lfs keeps the objects of the repository that we are in, as git-lfs finds it."""
    directory = run_git(HERE, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if not directory:
        raise NotFound("not in a git repository")
    return Path(directory) / (run_git(HERE, "config", "--get", STORAGE, absent=_ABSENT) or "lfs")


def repository_of_remote(remote: str) -> str:
    """The name of the repository that a remote of ours, or a URL, is: "/OWNER/REPO" as a server would call it."""
    url = run_git(HERE, "config", "--get", f"remote.{remote}.url", absent=_ABSENT) if remote else None
    return server_name(url or remote)


def server_name(url: str) -> str:
    """The last two names of its path: "/studio/game" of git@example.org:studio/game.git."""
    path = urlsplit(url).path if "://" in url else url.rpartition(":")[2]
    parts = path.removesuffix("/").removesuffix(".git").split("/")
    parts = [part for part in parts if part not in ("", ".", "..")]
    try:
        return check_server_name("/" + "/".join(part.lstrip(".") for part in parts[-NAME_PARTS:]))
    except InvalidName:
        return UNNAMED
