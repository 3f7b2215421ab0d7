"""The pure SSH protocol of git-lfs (docs/proposals/ssh_adapter.md there), version 1: one client, one repository.

Where the document and the clients differ, we are as the clients need it: `list-locks` is `list-lock`, the size of
verify-object may be an argument, unlock answers with the lock. A batch has no way to say that an object is missing,
and a client takes `noop` for "nothing to do": so a missing one is offered, and get-object says 404.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal

from lfsfs.config import ServerOptions
from lfsfs.errors import HashMismatch, LfsfsError, Refused, TooLarge
from lfsfs.oid import Oid
from lfsfs.server.access.access import Action
from lfsfs.server.access.roles import includes
from lfsfs.server.ssh.admission import Admitted
from lfsfs.server.ssh.holdings import Holdings
from lfsfs.server.ssh.messages import PIECE_BYTES, Answers, Request, Requests
from lfsfs.server.ssh.pktline import PacketReader, PacketWriter, ProtocolError
from lfsfs.store import activity
from lfsfs.store.activity import Activity
from lfsfs.store.locks import PAGE_LIMIT, Lock, LockFilter, Locks, LockTaken
from lfsfs.store.store import Store, as_error
from lfsfs.units import SECOND_NS

VERSION = "1"
_LARGEST = 2**63 - 1


class Session:
    """One client's. What it may do was decided when it came: the role holds to its end.

    `operation`: whether a batch asks for objects ("download") or offers them ("upload").
    """

    def __init__(
        self,
        store: Store,
        locks: Locks,
        admitted: Admitted,
        operation: str,
        options: ServerOptions,
        reader: PacketReader,
        writer: PacketWriter,
    ) -> None:
        self._store = store
        self._locks = locks
        self._admitted = admitted
        self._repository = admitted.repository
        self._operation = operation
        self._options = options
        self._holdings = Holdings(store, admitted.repository)
        self._requests = Requests(reader)
        self._answers = Answers(writer)
        self._handlers: dict[str, Callable[[Request], Awaitable[None]]] = {
            "version": self._version,
            "batch": self._batch,
            "get-object": self._get,
            "put-object": self._put,
            "verify-object": self._verify,
            "lock": self._lock,
            "list-lock": self._list,
            "list-locks": self._list,
            "unlock": self._unlock,
        }

    async def run(self) -> None:
        """Serves until the client quits, or goes. An error where it makes no sense any more."""
        self._answers.capabilities(f"version={VERSION}", "locking")
        while (request := await self._requests.next()) is not None:
            if request.command == "quit":
                self._answers.status(200)
                return
            await self._answer(request)

    async def _answer(self, request: Request) -> None:
        """A failure is an answer, and the session goes on; half an answer ends it."""
        try:
            handler = self._handlers.get(request.command)
            if handler is None:
                raise ProtocolError(f"unknown command {request.command!r}")
            await handler(request)
        except BrokenAnswer:
            raise
        except LfsfsError as error:
            await self._refuse(error)
        except OSError as error:
            await self._refuse(as_error(error))

    async def _refuse(self, error: LfsfsError) -> None:
        await self._requests.skip()
        self._answers.status(error.status, {}, [str(error) or type(error).__name__])

    def _need(self, action: Action) -> None:
        if not includes(self._admitted.role, action):
            raise Refused(f"{self._admitted.identity.name} may not {action} in {self._repository[1:]}")

    async def _version(self, request: Request) -> None:
        if request.words != (VERSION,):
            raise ProtocolError(f"the version is {VERSION}")
        self._answers.status(200, {}, [])

    # Objects.

    async def _batch(self, request: Request) -> None:
        lines = await self._requests.lines(self._options.batch_objects)
        if request.arguments.get("hash-algo", "sha256") != "sha256":
            raise HashUnknown("hash-algo must be sha256")
        wanted = [_wanted(line) for line in lines]
        if self._operation == "upload":
            self._need("write")
            for _, size in wanted:
                self._check_size(size)
            there = await self._holdings.take(wanted)
            for oid, size in wanted:
                if oid in there and there[oid].size != size:
                    raise HashMismatch(f"the object {oid} has {there[oid].size} bytes")
            found = [f"{oid} {size} {'noop' if oid in there else 'upload'}" for oid, size in wanted]
        else:
            found = [f"{oid} {size} download" for oid, size in wanted]
        self._answers.status(200, {}, found)

    async def _get(self, request: Request) -> None:
        row = self._holdings.get(_oid(request))
        async with await self._store.open(row.oid) as reader:
            offset = 0
            while offset < row.size or offset == 0:  # the first piece is there before the answer begins
                try:
                    piece = await reader.read(offset, PIECE_BYTES)
                except LfsfsError as error:
                    if offset:
                        raise BrokenAnswer(f"the object breaks off at {offset}: {error}") from error
                    raise
                if offset == 0:
                    self._answers.begin(200, {"size": str(row.size)})
                self._answers.writer.data(piece)
                offset += max(1, len(piece))
        self._answers.writer.flush()

    async def _put(self, request: Request) -> None:
        self._need("write")
        oid, size = _oid(request), _size(request.arguments.get("size", ""))
        self._check_size(size)
        await self._holdings.ensure()
        async with self._store.create_upload(oid, size, self._repository) as upload:
            while piece := await self._requests.piece():
                await upload.write(piece)
            row = await upload.finalize()
        activity.pushed(self._store.index, self._repository, self._admitted.identity.name, [row.size])
        self._answers.status(200, {}, [])

    async def _verify(self, request: Request) -> None:
        self._need("write")
        oid = _oid(request)
        said = request.words[1] if len(request.words) > 1 else request.arguments.get("size", "")
        row = self._holdings.get(oid)
        if row.size != _size(said):
            raise HashMismatch(f"the object {oid} has {row.size} bytes, not {said}")
        self._answers.status(200)

    def _check_size(self, size: int) -> None:
        limit = self._options.object_size
        if limit is not None and size > limit:
            raise TooLarge(f"an object may have {limit} bytes here")

    # Locks.

    async def _lock(self, request: Request) -> None:
        from lfsfs.server.locking import check_path  # brings the web framework, and locks are taken seldom

        self._need("write")
        path = check_path(request.arguments.get("path"))
        await self._holdings.ensure()
        name = self._admitted.identity.name
        try:
            lock = await self._locks.create(
                self._repository, path, name, request.arguments.get("refname", "")
            )
        except LockTaken as taken:
            self._answers.status(409, _described(taken.lock), [f"already locked by {taken.lock.owner}"])
        else:
            self._note("lock", lock)
            self._answers.status(201, _described(lock), [])

    def _note(self, kind: Literal["lock", "unlock"], lock: Lock) -> None:
        user = self._admitted.identity.name
        done = Activity(kind, self._repository, user, path=lock.path, owner=lock.owner)
        activity.record(self._store.index, done)

    async def _list(self, request: Request) -> None:
        said = request.arguments
        ref = said.get("refspec") or (said.get("refname") if request.command == "list-lock" else None)
        wanted = LockFilter(said.get("path") or None, said.get("id") or None, ref or None)
        try:
            limit = min(int(said.get("limit") or PAGE_LIMIT), PAGE_LIMIT) or PAGE_LIMIT
            page = await self._locks.list(self._repository, wanted, said.get("cursor") or None, limit)
        except ValueError as error:
            raise ProtocolError(f"cursor or limit make no sense: {error}") from error
        lines: list[str] = []
        for lock in page.locks:
            owner = "ours" if lock.owner == self._admitted.identity.name else "theirs"
            lines += [
                f"lock {lock.id}",
                f"path {lock.id} {lock.path}",
                f"locked-at {lock.id} {_utc(lock.locked_at)}",
                f"ownername {lock.id} {lock.owner}",
                f"owner {lock.id} {owner}",
            ]
        self._answers.status(200, {"next-cursor": page.cursor} if page.cursor else {}, lines)

    async def _unlock(self, request: Request) -> None:
        self._need("write")
        lock = await self._locks.get(self._repository, request.words[0] if request.words else "")
        if lock.owner != self._admitted.identity.name:
            if request.arguments.get("force") != "true":
                raise Refused(f"{lock.path} is locked by {lock.owner}")
            self._need("admin")
        ended = await self._locks.delete(self._repository, lock.id)
        self._note("unlock", ended)
        self._answers.status(200, _described(ended), [])


class BrokenAnswer(LfsfsError):
    """The bytes ended before their announced size: there is no way to say so but to go."""


class HashUnknown(ProtocolError):
    """The client names objects by another hash."""

    status = 409


def _utc(nanoseconds: int) -> str:
    """RFC 3339, to the second."""
    return datetime.fromtimestamp(nanoseconds // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _described(lock: Lock) -> dict[str, str]:
    return {
        "id": lock.id,
        "path": lock.path,
        "ownername": lock.owner,
        "locked-at": _utc(lock.locked_at),
    }


def _wanted(line: str) -> tuple[Oid, int]:
    oid, _, rest = line.partition(" ")
    return Oid(oid), _size(rest.partition(" ")[0])


def _oid(request: Request) -> Oid:
    return Oid(request.words[0] if request.words else "")


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST))) or int(text) > _LARGEST:
        raise ProtocolError(f"not a size: {text[:40]!r}")
    return int(text)
