"""Failures: what boto3 raises, as lfsfs says it. Every message tells a person what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from lfsfs.errors import (
    Denied,
    HashMismatch,
    InvalidConfig,
    LfsfsError,
    NoSpace,
    NotFound,
    ReadOnly,
    TooLarge,
    Unavailable,
)

_FILE_A_KEY = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, or [s3] in the configuration"
)
_CHECK_SECRET = "the secret key is not the one of this access key id: check AWS_SECRET_ACCESS_KEY"
_RENEW = "the temporary credentials are over: get new ones, and set AWS_SESSION_TOKEN with them"
_SET_CLOCK = (
    "the clock of this machine and the server's differ too much: set it (timedatectl, chronyc makestep)"
)

_SAID: dict[str, tuple[type[LfsfsError], str]] = {
    "NoSuchKey": (NotFound, "it is not there"),
    "NoSuchUpload": (Unavailable, "somebody has aborted the upload: it is begun anew"),
    "NoSuchBucket": (
        InvalidConfig,
        "there is no such bucket: make it, or correct the address or the endpoint",
    ),
    "InvalidBucketName": (InvalidConfig, "the server does not take this name for a bucket"),
    "PermanentRedirect": (
        InvalidConfig,
        "the bucket is in another region: give --s3-endpoint or region in [s3]",
    ),
    "AuthorizationHeaderMalformed": (
        InvalidConfig,
        "the region is not the bucket's: set AWS_REGION, or region in [s3]",
    ),
    "IllegalLocationConstraintException": (InvalidConfig, "the bucket is in another region: set AWS_REGION"),
    "InvalidAccessKeyId": (Denied, f"the server does not know this access key id: {_FILE_A_KEY}"),
    "SignatureDoesNotMatch": (Denied, _CHECK_SECRET),
    "AccessDenied": (
        Denied,
        "these credentials may not do that: check the policy of the user and of the bucket",
    ),
    "AllAccessDisabled": (Denied, "all access to the bucket is switched off"),
    "AccountProblem": (Denied, "the server's operator has a problem with the account: ask there"),
    "ExpiredToken": (Denied, _RENEW),
    "ExpiredTokenException": (Denied, _RENEW),
    "TokenRefreshRequired": (Denied, _RENEW),
    "InvalidToken": (
        Denied,
        "the session token is not valid: unset AWS_SESSION_TOKEN, or get new credentials",
    ),
    "RequestTimeTooSkewed": (Denied, _SET_CLOCK),
    "RequestExpired": (Denied, _SET_CLOCK),
    "MethodNotAllowed": (ReadOnly, "the server does not allow it: the bucket may be read-only"),
    "InvalidObjectState": (LfsfsError, "the object is archived: restore it first (aws s3api restore-object)"),
    "QuotaExceeded": (NoSpace, "the quota of the bucket or the user is used up"),
    "XAdminBucketQuotaExceeded": (NoSpace, "the quota of the bucket is used up"),
    "XMinioStorageFull": (NoSpace, "the server's disks are full"),
    "EntityTooLarge": (TooLarge, "the server does not take an object that large"),
    "BadDigest": (HashMismatch, "the bytes were damaged on their way to the server"),
    "InvalidDigest": (HashMismatch, "the bytes were damaged on their way to the server"),
    "XAmzContentSHA256Mismatch": (HashMismatch, "the bytes were damaged on their way to the server"),
    "XAmzContentChecksumMismatch": (HashMismatch, "the bytes were damaged on their way to the server"),
    "RequestTimeout": (Unavailable, "the connection is slow, or cuts what is sent"),
    "SlowDown": (Unavailable, "the server is overloaded and asks to slow down"),
    "Throttling": (Unavailable, "the server is overloaded and asks to slow down"),
    "ThrottlingException": (Unavailable, "the server is overloaded and asks to slow down"),
    "RequestLimitExceeded": (Unavailable, "the server is overloaded and asks to slow down"),
    "TooManyRequests": (Unavailable, "the server is overloaded and asks to slow down"),
    "OperationAborted": (Unavailable, "another operation on the same key or bucket is under way"),
    "ConditionalRequestConflict": (Unavailable, "another write of the same key is under way"),
}
REDIRECTS = (301, 302, 307, 308)
_STATUS: dict[int, tuple[type[LfsfsError], str]] = {
    400: (
        LfsfsError,
        "the server does not understand the request: is the endpoint an S3 one, and is it http or https?",
    ),
    **dict.fromkeys(
        REDIRECTS,
        (InvalidConfig, "the server sends us elsewhere: give the endpoint, perhaps https://, it means"),
    ),
    403: _SAID["AccessDenied"],
    404: _SAID["NoSuchKey"],
    405: _SAID["MethodNotAllowed"],
    429: _SAID["SlowDown"],
    501: (LfsfsError, "the server cannot do that: `lfsfs doctor` shows what it can"),
    507: (NoSpace, "the server's disks are full"),
}


@dataclass(frozen=True)
class Where:
    """What a message names: the endpoint and the bucket."""

    endpoint: str
    bucket: str


def code(error: BaseException | None) -> str:
    """The server's own word for it, "NoSuchKey" or "404"; empty where the server said nothing."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, boto.ClientError) else ""


def status(error: BaseException) -> int:
    """The HTTP status; 0 where there was no answer."""
    if not isinstance(error, boto.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def told(answer: dict[str, Any], name: str) -> Any:
    """A part of an answer. LfsfsError where the server, or what stands before it, left it out."""
    value = answer.get(name)
    if value is None:
        raise LfsfsError(f"the server's answer has no {name}: is that an S3 server?")
    return value


@contextmanager
def translated(what: str, where: Where) -> Iterator[None]:
    """Turns what boto3 raises into ours. `what` could not be done: "cannot read <oid>"."""
    try:
        yield
    except boto.ClientError as error:
        raise _of_answer(what, where, error) from error
    except (boto.BotoCoreError, boto.HTTPClientError, HTTPError) as error:
        raise _of_no_answer(what, where, error) from error
    except ResponseParserError as error:
        raise LfsfsError(f"{what}: {where.endpoint} does not answer as S3 does: {_words(error)}") from error


def _of_answer(what: str, where: Where, error: Any) -> LfsfsError:
    """The server answered, and not what we hoped for."""
    word, number = code(error), status(error)
    kind, hint = _SAID.get(word) or _STATUS.get(number) or (LfsfsError, "")
    if number >= 500 and kind is LfsfsError and number != 501:
        kind, hint = Unavailable, "the server has an error of its own"
    message, region = (error.response.get("Error", {}).get(name) for name in ("Message", "Region"))
    if region:
        hint = f"the bucket is in the region {region}: set AWS_REGION={region}, or region in [s3]"
    words = word if word and not word.isdigit() else f"HTTP status {number}"
    words += f" ({message})" if message else ""
    return kind(f"{what}: {where.endpoint}, bucket {where.bucket}: {words}{': ' if hint else ''}{hint}")


def _of_no_answer(what: str, where: Where, error: Any) -> LfsfsError:
    """Nothing came back, or nothing was sent."""
    if isinstance(error, boto.SSLError):
        return _of_tls(what, where, _words(_cause(error)))
    cause = _cause(error)
    if isinstance(cause, LfsfsError):  # our own, from within boto3: it could not go on reading the source
        return type(cause)(f"{what}: {cause}")
    for kinds, kind, hint in _SILENT:
        if isinstance(error, kinds):
            return kind(f"{what}: {hint.format(endpoint=where.endpoint, error=_words(cause))}")
    kind = Unavailable if isinstance(error, _BROKEN) else LfsfsError
    return kind(f"{what}: {where.endpoint}: {_words(cause)}")


def _of_tls(what: str, where: Where, cause: str) -> LfsfsError:
    """A handshake that never can succeed, or one that was cut."""
    for sign, hint in _TLS_SIGNS.items():
        if sign in cause:
            return InvalidConfig(f"{what}: no TLS with {where.endpoint}: {hint} ({cause})")
    return Unavailable(f"{what}: no TLS with {where.endpoint}: {cause}")


_PLAIN = "the server does not speak it: give the endpoint as http://…, or the right port"
_TLS_SIGNS = {
    "WRONG_VERSION_NUMBER": _PLAIN,
    "record layer failure": _PLAIN,
    "HTTP_REQUEST": _PLAIN,
    "CERTIFICATE_VERIFY_FAILED": "this machine does not trust its certificate: give its authority as ca_bundle in [s3]",
    "CERTIFICATE_UNKNOWN": "the server does not accept our certificate",
}

_SILENT: tuple[tuple[tuple[type[BaseException], ...], type[LfsfsError], str], ...] = (
    ((boto.NoCredentialsError,), Denied, f"no credentials were found: {_FILE_A_KEY}"),
    (
        (boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError),
        Denied,
        f"the credentials cannot be used: {{error}}: {_FILE_A_KEY}",
    ),
    (
        (boto.EndpointConnectionError,),
        Unavailable,
        "nobody answers at {endpoint}: is the server up, are endpoint and network right? ({error})",
    ),
    ((boto.ConnectTimeoutError,), Unavailable, "no connection to {endpoint} in time"),
    ((boto.ReadTimeoutError,), Unavailable, "{endpoint} did not go on in time"),
    ((boto.ProxyConnectionError,), Unavailable, "the proxy does not answer: {error}"),
    ((boto.ParamValidationError,), LfsfsError, "{error}"),
    (
        (boto.ProfileNotFound, boto.InvalidRegionError, boto.NoRegionError, boto.InvalidProxiesConfigError),
        InvalidConfig,
        "{error}",
    ),
)


_BROKEN = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, HTTPError)


def _cause(error: Any) -> Any:
    """The innermost reason: boto3 wraps the one that tells."""
    while isinstance(
        inner := getattr(error, "kwargs", {}).get("error", getattr(error, "reason", None)), Exception
    ):
        error = inner
    return error


def _words(error: Any) -> str:
    return " ".join(str(error).split()) or type(error).__name__
