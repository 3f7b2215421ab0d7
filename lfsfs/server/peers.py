"""Peers: where a request comes from, as far as that can be believed."""

from starlette.requests import Request

from lfsfs.server.access.access import is_loopback

_LIMIT_CHARACTERS = 64


def address_of(request: Request) -> str:
    """The client's address. A proxy on this machine or on a unix socket is believed to say who it speaks for.

    It is so with the last entry of X-Forwarded-For alone: those before it, the client may have written itself.
    """
    peer = request.client.host if request.client is not None else ""
    if peer and not is_loopback(f"[{peer}]:0" if ":" in peer else f"{peer}:0"):
        return peer
    said = request.headers.getlist("x-forwarded-for")
    last = said[-1].rpartition(",")[2].strip() if said else ""
    return last[:_LIMIT_CHARACTERS] or peer
