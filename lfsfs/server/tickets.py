"""Tickets: what an action's header carries, so that the transfer needs no other credentials, and for how long.

A ticket is signed with the store's server key and says what its holder may do, to which repository, until when; where
it is for one object, with which oid and size. It is also what `git-lfs-authenticate` hands out, for a whole repository.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from lfsfs import durable
from lfsfs.server.access.access import Action, Unidentified

SCHEME = "RemoteAuth"
KEY_FILE = "server.key"
"""In the store: what its tickets are signed with. Whoever can read it can make tickets."""
KEY_BYTES = 32
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave to do something. `expires`: seconds since 1970. `oid` empty: any object, and `size` means nothing."""

    action: Action
    repository: str
    user: str
    expires: int
    oid: str = ""
    size: int = 0
    parcel: str = ""
    """What was uploaded past us, for the verify action."""


class TicketExpired(Unidentified):
    """It was good once. The client asks for a new one: for git-lfs, 403 means that and 401 means a password."""

    status = 403


class Tickets:
    """Makes and reads tickets. Any number of processes may do so on one store."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def header(self, ticket: Ticket) -> str:
        """The value of an Authorization header."""
        said = [
            ticket.action,
            ticket.repository,
            ticket.user,
            ticket.expires,
            ticket.oid,
            ticket.size,
            ticket.parcel,
        ]
        body = json.dumps(said, separators=(",", ":")).encode()
        return f"{SCHEME} {base64.urlsafe_b64encode(self._signature(body) + body).decode()}"

    def read(self, header: str) -> Ticket | None:
        """The ticket of an Authorization header; None where it holds something else. Unidentified, TicketExpired."""
        scheme, _, token = header.partition(" ")
        if scheme.lower() != SCHEME.lower():
            return None
        try:
            content = base64.b64decode(token.strip(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise Unidentified("the ticket is none of ours") from error
        signature, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if not hmac.compare_digest(signature, self._signature(body)):
            raise Unidentified("the ticket is none of ours")
        action, repository, user, expires, oid, size, parcel = json.loads(body)
        if action not in get_args(Action):
            raise Unidentified("the ticket is none of ours")
        if expires < time.time():
            raise TicketExpired("the action has expired: ask for another")
        return Ticket(action, repository, user, expires, oid, size, parcel)

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)[:_DIGEST_BYTES]


def server_key(store: Path) -> bytes:
    """The store's key; made if there is none. Only the store's owner can read its file."""
    file = store / KEY_FILE
    try:
        key = file.read_bytes()
        if len(key) == KEY_BYTES:
            return key
    except FileNotFoundError:
        pass
    fresh = store / f"{KEY_FILE}.{os.getpid()}"
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(KEY_BYTES))
        durable.fsync(descriptor, "fsync-server-key")
    finally:
        os.close(descriptor)
    try:
        os.link(fresh, file)  # of two processes that make one at once, one is the first
    except FileExistsError:
        if len(file.read_bytes()) != KEY_BYTES:
            os.replace(fresh, file)
    finally:
        fresh.unlink(missing_ok=True)
    return file.read_bytes()
