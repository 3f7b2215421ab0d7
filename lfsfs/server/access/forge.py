"""A forge: asked who a credential belongs to, and what that one may do to the repository of the same name.

Gitea and Forgejo: GET /api/v1/user and /api/v1/repos/OWNER/REPO, whose `permissions` are pull, push and admin
(https://docs.gitea.com/api). GitHub: the same below its own root, with maintain and triage between
(https://docs.github.com/rest/repos/repos#get-a-repository). The credential is sent to nobody else.
"""

import hashlib
import hmac
import json
import secrets
import ssl
import time
from collections import OrderedDict
from typing import Any
from urllib.parse import quote

import httpx
import trio

from lfsfs.config_access import ForgeOptions
from lfsfs.errors import InvalidConfig, Unavailable
from lfsfs.server.access.access import Action, Unidentified
from lfsfs.server.access.users import NOBODIES, check_user_name

REMEMBERED = 10_000
"""Answers."""
PARALLEL = 16
"""Questions at once."""
_ANSWER_LIMIT_BYTES = 1 << 20
_PREFIXES = {"gitea": "/api/v1", "github": ""}


class Forge:
    """One forge. An answer is believed for a while; Unavailable where there is none in time."""

    def __init__(self, options: ForgeOptions) -> None:
        self._options = options
        self._prefix = options.url + _PREFIXES[options.kind]
        try:
            self._tls = ssl.create_default_context(cafile=options.ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise InvalidConfig(f"ca_bundle in [forge] cannot be used: {error}") from error
        self._limiter = trio.CapacityLimiter(PARALLEL)
        self._key = secrets.token_bytes(32)
        self._answers: OrderedDict[bytes, tuple[float, Any]] = OrderedDict()

    async def user(self, authorization: str) -> str:
        """The login of whose credential it is. Unidentified if the forge does not know it."""
        mark = self._mark(authorization, "")
        known = self._remembered(mark)
        if known is None:
            known = await self._ask_user(authorization)
            self._remember(mark, known)
        return str(known)

    def knows(self, authorization: str) -> bool:
        """Whether the forge said lately whose it is: no question is needed."""
        return self._remembered(self._mark(authorization, "")) is not None

    async def role(self, authorization: str, repository: str) -> Action | None:
        """What the credential may do to the repository ("/studio/game"); None: nothing, or there is none."""
        mark = self._mark(authorization, repository)
        known = self._remembered(mark)
        if known is None:
            known = await self._ask_role(authorization, repository) or ""
            self._remember(mark, known)
        return known or None

    async def _ask_user(self, authorization: str) -> str:
        status, said = await self._get("/user", authorization)
        if status == 403 and self._options.kind == "github":  # an app's token is no user's
            return f"app-{hashlib.sha256(authorization.encode()).hexdigest()[:12]}"
        if status != 200:
            raise Unidentified("the forge does not know this credential")
        try:
            name = check_user_name(said.get("login"))
        except InvalidConfig as error:
            raise Unavailable("the forge gives its user no name") from error
        if name in NOBODIES:
            raise Unidentified(f"{name} is nobody")
        return name

    async def _ask_role(self, authorization: str, repository: str) -> Action | None:
        names = repository[1:].split("/")
        if len(names) != 2:
            return None
        path = "/repos/" + "/".join(quote(name, safe="") for name in names)
        status, said = await self._get(path, authorization)
        allowed = said.get("permissions")
        if status != 200 or not isinstance(allowed, dict):
            return None
        if allowed.get("admin") is True or allowed.get("maintain") is True:
            return "admin"
        if allowed.get("push") is True:
            return "write"
        return "read" if allowed.get("pull") is True else None

    async def _get(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an answer. Unavailable: none in time, one that makes no sense, or we asked too often."""
        headers = {"Authorization": authorization, "Accept": "application/json", "User-Agent": "lfsfs"}
        try:
            with trio.fail_after(self._options.timeout):
                async with (
                    self._limiter,
                    httpx.AsyncClient(verify=self._tls, timeout=self._options.timeout) as client,
                    client.stream("GET", self._prefix + path, headers=headers) as answer,
                ):
                    return answer.status_code, await _json(answer)
        except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, ValueError) as error:
            raise Unavailable("the forge does not answer who may") from error

    def _remembered(self, mark: bytes) -> Any:
        expires, answer = self._answers.get(mark, (0.0, None))
        return answer if time.monotonic() < expires else None

    def _remember(self, mark: bytes, answer: object) -> None:
        self._answers[mark] = (time.monotonic() + self._options.cache, answer)
        self._answers.move_to_end(mark)
        while len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)

    def _mark(self, authorization: str, repository: str) -> bytes:
        said = f"{repository}\0{authorization}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, said, hashlib.sha256)


async def _json(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer; of one that is no success, nothing. Unavailable where it is the forge's trouble."""
    limited = answer.status_code == 429 or answer.headers.get("x-ratelimit-remaining") == "0"
    if answer.status_code >= 500 or (limited and answer.status_code in (403, 429)):
        raise Unavailable(f"the forge answers {answer.status_code}")
    if answer.status_code != 200:
        return {}
    body = b""
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > _ANSWER_LIMIT_BYTES:
            raise Unavailable("the forge says too much")
    said = json.loads(body)
    if not isinstance(said, dict):
        raise Unavailable("the forge says no JSON object")
    return said
