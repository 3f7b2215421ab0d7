"""Rendering: templates into answers. Whatever a name holds is escaped; nothing is loaded from elsewhere."""

import functools
import hashlib
import importlib.resources
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

import jinja2
from starlette.responses import Response

from lfsfs.store.layout import is_server_name
from lfsfs.units import SECOND_NS, format_size, iso_time, safe

_HERE = "lfsfs.server.page"
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Vary": "Authorization",
}
_ASSETS = {"style.css": "text/css", "icon.svg": "image/svg+xml"}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


class Rendering:
    """`prefix`: the path below which clients reach the server, without a slash at the end: empty, or a proxy's."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.home = f"{prefix}/"
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader(_HERE),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_finalized,
        )
        self._environment.filters |= {
            "size": format_size, "count": count, "ago": ago, "utc": utc, "iso": iso_time, "named": named,
        }  # fmt: skip
        self._environment.globals |= {
            "home": self.home,
            "path": self.path,
            "repository_path": self.repository_path,
            "object_path": self.object_path,
            "download_path": self.download_path,
            "asset": lambda name: f"{prefix}/-/{name}?{_asset(name)[1]}",
        }

    def page(self, template: str, content: Mapping[str, object], status: int = 200) -> Response:
        """The page that the template makes of the content."""
        text = self._environment.get_template(template).render(content)
        return Response(text, status, SECURITY, media_type="text/html")

    def asset(self, name: str) -> Response:
        """What the pages load. Its address changes with it."""
        content, _ = _asset(name)
        headers = SECURITY | {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(content, 200, headers, media_type=_ASSETS[name])

    def path(self, below: str) -> str:
        """Of a page."""
        return f"{self._prefix}/-/{below}"

    def repository_path(self, name: str) -> str:
        kind = "repository" if is_server_name(name) else "root"
        return self.path(f"{kind}/{quote(name.removeprefix('/'))}")

    def download_path(self, repository: str, oid: str) -> str:
        """Of the bytes of an object, in the API."""
        return f"{self._prefix}{quote(repository)}.git/info/lfs/objects/{oid}"

    def object_path(self, oid: str) -> str:
        return self.path(f"object/{oid}")


def count(number: int) -> str:
    """1,234,567"""
    return f"{number:,}"


def ago(nanoseconds: int) -> str:
    """How long ago that was, roughly; the date where it is long."""
    seconds = time.time() - nanoseconds / SECOND_NS
    if seconds < _MINUTE:
        return "just now"
    for unit, length, limit in (("min", _MINUTE, _HOUR), ("h", _HOUR, _DAY), ("d", _DAY, 30 * _DAY)):
        if seconds < limit:
            return f"{int(seconds // length)} {unit} ago"
    return f"{datetime.fromtimestamp(nanoseconds / SECOND_NS, UTC):%Y-%m-%d}"


def utc(nanoseconds: int) -> str:
    return f"{datetime.fromtimestamp(nanoseconds / SECOND_NS, UTC):%Y-%m-%d %H:%M:%S} UTC"


def named(name: str) -> str:
    """A repository as people call it: "studio/game", or "repos/game" of the mount."""
    return name[1:] if is_server_name(name) else f"repos/{name}"


def _finalized(value: object) -> object:
    """Every text that goes into a page is one that can be shown."""
    return safe(value) if type(value) is str else value


@functools.cache
def _asset(name: str) -> tuple[bytes, str]:
    content = importlib.resources.files(_HERE).joinpath("assets", name).read_bytes()
    return content, hashlib.blake2b(content, digest_size=6).hexdigest()


ASSETS = tuple(_ASSETS)
