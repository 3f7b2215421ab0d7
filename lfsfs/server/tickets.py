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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lfsfs import durable
from lfsfs.server.access.access import Action, Unidentified

SCHEME = "RemoteAuth"
KEY_FILE = "server.key"
"""In the store: what its tickets are signed with. Whoever can read it can make tickets."""
KEY_BYTES = 32
_SIGNATURE_BYTES = 16
_SIZE_BYTES = 8
_ANY = bytes(32)
_NAMED_BYTES = len(_ANY) + _SIZE_BYTES


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
    """Makes and reads tickets. Any number of processes may do so on one store.

    A ticket is a keyed BLAKE2b of the rest, the oid, the size, and JSON that all tickets of a batch have in common.
    """

    def __init__(self, key: bytes) -> None:
        self._mac = hashlib.blake2b(key=key, digest_size=_SIGNATURE_BYTES)

    def header(self, ticket: Ticket) -> str:
        """The value of an Authorization header."""
        make = self.series(ticket.action, ticket.repository, ticket.user, ticket.expires, ticket.parcel)
        return make(bytes.fromhex(ticket.oid) or _ANY, ticket.size)

    def series(
        self, action: Action, repository: str, user: str, expires: int, parcel: str = ""
    ) -> Callable[[bytes, int], str]:
        """Makes the headers of tickets that differ in oid (its 32 bytes) and size: a batch has many."""
        common = json.dumps([action, repository, user, expires, parcel], separators=(",", ":")).encode()
        begun = self._mac.copy()
        begun.update(common)

        def make(oid: bytes, size: int) -> str:
            named = oid + size.to_bytes(_SIZE_BYTES, "big")
            mac = begun.copy()
            mac.update(named)
            token = binascii.b2a_base64(mac.digest() + named + common, newline=False)
            return f"{SCHEME} {token.decode()}"

        return make

    def read(self, header: str) -> Ticket | None:
        """The ticket of an Authorization header; None where it holds something else. Unidentified, TicketExpired."""
        scheme, _, token = header.partition(" ")
        if scheme.lower() != SCHEME.lower():
            return None
        try:
            content = base64.b64decode(token.strip(), validate=True)
        except (binascii.Error, ValueError) as error:
            raise Unidentified("the ticket is none of ours") from error
        signature, rest = content[:_SIGNATURE_BYTES], content[_SIGNATURE_BYTES:]
        named, common = rest[:_NAMED_BYTES], rest[_NAMED_BYTES:]
        mac = self._mac.copy()
        mac.update(common + named)
        if len(named) != _NAMED_BYTES or not hmac.compare_digest(signature, mac.digest()):
            raise Unidentified("the ticket is none of ours")
        action, repository, user, expires, parcel = json.loads(common)
        if expires < time.time():
            raise TicketExpired("the action has expired: ask for another")
        oid = named[:-_SIZE_BYTES]
        size = int.from_bytes(named[-_SIZE_BYTES:], "big")
        return Ticket(action, repository, user, expires, "" if oid == _ANY else oid.hex(), size, parcel)


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
