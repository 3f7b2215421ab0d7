"""Answers that are no success: a status, a message for a person, and the headers that the status asks for."""

from collections.abc import Mapping

from starlette.responses import Response

from lfsfs.errors import LfsfsError
from lfsfs.server.access.access import TooManyAttempts, Unidentified
from lfsfs.server.media import LFS_JSON, as_json

DOCUMENTATION_URL = "https://github.com/git-lfs/git-lfs/blob/main/docs/api/README.md"
RETRY_SECONDS = 5
"""What a client is told to wait with 429 and 503: git-lfs 3.3.0 panics on a 429 that does not say."""
_RETRIED = (429, 503)
_CHALLENGE = 'Basic realm="Git LFS"'


class HttpError(LfsfsError):
    """A request that is answered with this status."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def error_response(error: LfsfsError, request_id: str) -> Response:
    """The answer that tells the error, with the body that git-lfs shows to its user."""
    headers = headers_of(error)
    body = {"message": told(error), "documentation_url": DOCUMENTATION_URL, "request_id": request_id}
    return Response(as_json(body), error.status, headers, media_type=LFS_JSON)


def headers_of(error: LfsfsError) -> dict[str, str]:
    """What the status of the error asks for."""
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if error.status == 401:
        headers |= {"LFS-Authenticate": _CHALLENGE, "WWW-Authenticate": _CHALLENGE}
    if isinstance(error, TooManyAttempts):
        headers["Retry-After"] = str(error.seconds)
    if error.status in _RETRIED:
        headers.setdefault("Retry-After", str(RETRY_SECONDS))
    return headers


def told(error: LfsfsError) -> str:
    """The message, without what a file name may have that is no UTF-8. What went wrong inside the server is in its log,
    and no client's business.
    """
    if error.status == 500:
        return "internal error: the server's log has it under this request id"
    return str(error).encode("utf-8", "replace").decode() or type(error).__name__


def unidentified() -> Unidentified:
    return Unidentified("credentials are needed")
