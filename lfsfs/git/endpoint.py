"""The LFS server of an attached clone: its URL, whether it answers and lets us in, and the clone's lfs.url.

Credentials are git's business: its credential helpers are asked for them, and told whether they were good.
"""

import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from lfsfs.config import parse_endpoint
from lfsfs.errors import Denied, InvalidConfig, InvalidName, LfsfsError, NotFound, Unavailable
from lfsfs.git.repository import Clone, ask_git
from lfsfs.store.layout import check_server_name

LFS_URL = "lfs.url"
OURS = "lfsfs.url"
"""What attaching set lfs.url to: so that detaching takes away its own, and nothing else."""
STORE_HEADER = "X-Lfsfs-Store"
_JSON = "application/vnd.git-lfs+json"
_SECONDS = 15
_REFUSALS = {403: "may not use it", 404: "may not see it, or there is none"}


@dataclass(frozen=True)
class Endpoint:
    """A repository of a server. `url`: for lfs.url. `repository`: its name there, "/studio/game"."""

    url: str
    repository: str


def parse_server_url(text: str) -> Endpoint:
    """InvalidConfig unless it is http(s)://HOST[:PORT]/OWNER/REPO, with or without .git and /info/lfs."""
    plain = parse_endpoint(text).removesuffix("/info/lfs").removesuffix(".git")
    parts = urlsplit(plain)
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidConfig(
            f"not the URL of a repository: {text!r}: git keeps credentials elsewhere, and no ? and #"
        )
    try:
        repository = check_server_name(parts.path)
    except InvalidName as error:
        raise InvalidConfig(f"not the URL of a repository: {text!r}: {error}") from error
    return Endpoint(f"{plain}.git/info/lfs", repository)


def check(clone: Clone, endpoint: Endpoint) -> str | None:
    """The id of the server's store, where it says one. Asks git for credentials where they are needed.

    Unavailable, Denied, NotFound: nothing was changed.
    """
    status, store = _ask(endpoint, None)
    if status == 401:
        said = _asked_for(endpoint)
        credential = ask_git(clone.path, said, "credential", "fill")
        status, store = _ask(endpoint, _basic(credential))
        ask_git(clone.path, credential, "credential", "reject" if status == 401 else "approve")
    if status == 401:
        raise Denied(f"{endpoint.url} does not accept these credentials")
    if status in _REFUSALS:
        raise (NotFound if status == 404 else Denied)(f"{endpoint.url}: we {_REFUSALS[status]}")
    if status != 200:
        raise LfsfsError(f"{endpoint.url} answers with HTTP status {status}")
    return store


def point(clone: Clone, endpoint: Endpoint) -> None:
    """From now on git-lfs in this clone uses that server."""
    clone.set(OURS, endpoint.url)
    clone.set(LFS_URL, endpoint.url)


def forget(clone: Clone) -> None:
    """Takes back what `point` did. Another lfs.url that somebody has set since stays."""
    ours = clone.get(OURS)
    if ours is not None:
        if clone.get(LFS_URL) == ours:
            clone.unset(LFS_URL)
        clone.unset(OURS)


def _ask(endpoint: Endpoint, authorization: str | None) -> tuple[int, str | None]:
    """An upload of nothing: who may push may do it, and it changes nothing."""
    body = json.dumps({"operation": "upload", "objects": []}).encode()
    headers = {"Accept": _JSON, "Content-Type": _JSON} | (
        {"Authorization": authorization} if authorization else {}
    )
    request = urllib.request.Request(f"{endpoint.url}/objects/batch", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return answer.status, answer.headers.get(STORE_HEADER)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get(STORE_HEADER)
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(f"{endpoint.url} does not answer: {reason}") from error


def _asked_for(endpoint: Endpoint) -> str:
    """What git's credential helpers are told (gitcredentials(7))."""
    parts = urlsplit(endpoint.url)
    return f"protocol={parts.scheme}\nhost={parts.netloc}\n\n"


def _basic(credential: str) -> str:
    fields = dict(line.split("=", 1) for line in credential.splitlines() if "=" in line)
    pair = f"{fields.get('username', '')}:{fields.get('password', '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
