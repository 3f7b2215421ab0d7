"""A git and Git LFS server on the loopback: git's own http-backend, and the LFS API from memory.

What the tests turn: a body cut short, a wrong body, a body that stalls half-way.
What they count: the requests for each object.
The API as in git-lfs docs/api: batch, basic transfer with Range, verify, locks.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

LFS_JSON = "application/vnd.git-lfs+json"
IDLE_SECONDS = 30
STALL_SECONDS = 60
CHUNK = 32 * 1024

_ROUTE = re.compile(r"/(?P<repo>[^/]+?)(?:\.git)?(?P<rest>/info/lfs/.*|/info/refs|/git-[a-z-]+-pack)\Z")
_OBJECT = re.compile(r"/info/lfs/content/(?P<oid>[0-9a-f]{64})\Z")
_UNLOCK = re.compile(r"/info/lfs/locks/(?P<id>[^/]+)/unlock\Z")


@dataclass(frozen=True)
class Request:
    """One request for one object's bytes."""

    method: str
    repo: str
    oid: str
    range: str | None


class Stall:
    """A download that stops half-way: `reached` is set when it has, `go_on` lets it end."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.reached = threading.Event()
        self._released = threading.Event()

    def go_on(self) -> None:
        self._released.set()

    def wait(self) -> None:
        self.reached.set()
        self._released.wait(STALL_SECONDS)


@dataclass
class Repository:
    """What the server has for one repository."""

    objects: dict[str, bytes] = field(default_factory=dict)
    locks: dict[str, dict[str, Any]] = field(default_factory=dict)
    verified: list[str] = field(default_factory=list)


class LfsServer:
    """Serves every bare repository of a folder. `with LfsServer(folder) as server:`"""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.requests: list[Request] = []
        self.guard = threading.Lock()
        self._repositories: dict[str, Repository] = {}
        self._cuts: dict[str, list[int]] = {}
        self._wrong: dict[str, list[bytes]] = {}
        self._stalls: dict[str, Stall] = {}
        self._http = _Listener(("127.0.0.1", 0), _Handler)
        self._http.lfs = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> "LfsServer":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for stall in self._stalls.values():
            stall.go_on()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def url(self, repo: str) -> str:
        """The URL of a repository, for git; LFS is below it at /info/lfs."""
        return f"{self.address}/{repo}.git"

    def repository(self, name: str) -> Repository:
        with self.guard:
            return self._repositories.setdefault(name, Repository())

    # what the tests turn

    def cut(self, oid: str, after: int, times: int = 1) -> None:
        """The next `times` downloads of it break off after so many bytes of the body."""
        self._cuts.setdefault(oid, []).extend([after] * times)

    def send_whole(self, oid: str) -> None:
        """No more cuts for it."""
        self._cuts.pop(oid, None)

    def answer_wrong_once(self, oid: str, body: bytes) -> None:
        """The next download of it is this body instead."""
        self._wrong.setdefault(oid, []).append(body)

    def stall(self, oid: str, after: int) -> Stall:
        """The next download of it stops after so many bytes until it is told to go on."""
        return self._stalls.setdefault(oid, Stall(after))

    # what the tests count

    def downloads(self, oid: str) -> int:
        return sum(1 for r in self.requests if r.method == "GET" and r.oid == oid)

    def uploads(self, oid: str) -> int:
        return sum(1 for r in self.requests if r.method == "PUT" and r.oid == oid)

    def ranges(self, oid: str) -> list[str | None]:
        """The Range header of each download of it, in order."""
        return [r.range for r in self.requests if r.method == "GET" and r.oid == oid]

    # what a handler takes

    def take_cut(self, oid: str) -> int | None:
        with self.guard:
            return self._cuts[oid].pop(0) if self._cuts.get(oid) else None

    def take_wrong(self, oid: str) -> bytes | None:
        with self.guard:
            return self._wrong[oid].pop(0) if self._wrong.get(oid) else None

    def take_stall(self, oid: str) -> Stall | None:
        with self.guard:
            return self._stalls.pop(oid, None)


class _Listener(ThreadingHTTPServer):
    daemon_threads = False
    lfs: LfsServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True

    @property
    def lfs(self) -> LfsServer:
        return cast(_Listener, self.server).lfs

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what went wrong shows in what git says."""

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def _route(self) -> None:
        url = urlsplit(self.path)
        body = b"".join(self._body())
        match = _ROUTE.match(url.path)
        if match is None:
            return self._error(404, f"no such place: {url.path}")
        repo, rest = match["repo"], match["rest"]
        if not rest.startswith("/info/lfs/"):
            return self._git(f"/{repo}.git{rest}", url.query, body)
        store = self.lfs.repository(repo)
        if content := _OBJECT.match(rest):
            return self._content(repo, store, content["oid"], body)
        request = json.loads(body) if body else {k: v[0] for k, v in parse_qs(url.query).items()}
        if rest == "/info/lfs/objects/batch":
            return self._batch(repo, store, request)
        if rest == "/info/lfs/verify":
            return self._verify(store, request)
        return self._locking(store, rest, request)

    # objects

    def _batch(self, repo: str, store: Repository, request: dict[str, Any]) -> None:
        answers = [
            self._action(repo, store, request["operation"], wanted["oid"], wanted["size"])
            for wanted in request["objects"]
        ]
        self._json(200, {"transfer": "basic", "objects": answers, "hash_algo": "sha256"})

    def _action(self, repo: str, store: Repository, operation: str, oid: str, size: int) -> dict[str, Any]:
        answer: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
        base = f"{self.lfs.url(repo)}/info/lfs"
        have = store.objects.get(oid)
        if operation == "upload" and have is None:
            content, verify = f"{base}/content/{oid}", f"{base}/verify"
            answer["actions"] = {"upload": {"href": content, "header": {}}, "verify": {"href": verify}}
        elif operation == "download" and have is None:
            answer["error"] = {"code": 404, "message": "Object does not exist"}
        elif operation == "download" and have is not None and len(have) != size:
            answer["error"] = {"code": 422, "message": f"its size is {len(have)}, not {size}"}
        elif operation == "download":
            answer["actions"] = {"download": {"href": f"{base}/content/{oid}", "header": {}}}
        return answer

    def _content(self, repo: str, store: Repository, oid: str, body: bytes) -> None:
        self.lfs.requests.append(Request(self.command, repo, oid, self.headers["Range"]))
        if self.command == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                return self._error(422, "the body has another SHA-256")
            store.objects[oid] = body
            return self._answer(200, "text/plain", b"")
        wrong = self.lfs.take_wrong(oid)
        content = store.objects.get(oid) if wrong is None else wrong
        if content is None:
            return self._error(404, "Object does not exist")
        return self._download(oid, content)

    def _download(self, oid: str, content: bytes) -> None:
        cut, stall = self.lfs.take_cut(oid), self.lfs.take_stall(oid)
        start = self._range_start(len(content))
        part = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        try:
            if stall is not None:
                self.wfile.write(part[: stall.after])
                stall.wait()
                part = part[stall.after :]
            self.wfile.write(part if cut is None else part[:cut])
        except (BrokenPipeError, ConnectionResetError):  # the client was killed; that is what the test wanted
            self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def _range_start(self, size: int) -> int:
        match = re.match(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(match[1]) if match else 0
        return start if start < size else 0

    def _verify(self, store: Repository, request: dict[str, Any]) -> None:
        have = store.objects.get(request["oid"])
        if have is None or len(have) != request["size"]:
            return self._error(422, "not here")
        store.verified.append(request["oid"])
        return self._answer(200, LFS_JSON, b"{}")

    # locks

    def _locking(self, store: Repository, rest: str, request: dict[str, Any]) -> None:
        with self.lfs.guard:
            if rest == "/info/lfs/locks" and self.command == "POST":
                status, answer = self._lock(store, request)
            elif rest == "/info/lfs/locks":
                status, answer = 200, {"locks": _chosen(store, request), "next_cursor": ""}
            elif rest == "/info/lfs/locks/verify":
                status, answer = 200, self._ours_and_theirs(store)
            elif unlock := _UNLOCK.match(rest):
                status, answer = self._unlock(store, unlock["id"], bool(request.get("force")))
            else:
                status, answer = 404, {"message": f"no such place: {rest}"}
        self._json(status, answer)

    def _lock(self, store: Repository, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        taken = _chosen(store, {"path": request["path"]})
        if taken:
            return 409, {"lock": taken[0], "message": "already created lock"}
        lock = {
            "id": f"lock-{len(store.locks) + 1}-{len(self.lfs.requests)}",
            "path": request["path"],
            "locked_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "owner": {"name": self._user()},
        }
        store.locks[lock["id"]] = lock
        return 201, {"lock": lock}

    def _ours_and_theirs(self, store: Repository) -> dict[str, Any]:
        sides: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for lock in store.locks.values():
            sides[lock["owner"]["name"] == self._user()].append(lock)
        return {"ours": sides[True], "theirs": sides[False], "next_cursor": ""}

    def _unlock(self, store: Repository, lock_id: str, force: bool) -> tuple[int, dict[str, Any]]:
        lock = store.locks.get(lock_id)
        if lock is None:
            return 404, {"message": "no such lock"}
        if lock["owner"]["name"] != self._user() and not force:
            return 403, {"message": "it is another's"}
        return 200, {"lock": store.locks.pop(lock_id)}

    def _user(self) -> str:
        scheme, _, token = (self.headers["Authorization"] or "").partition(" ")
        return base64.b64decode(token).decode().partition(":")[0] if scheme == "Basic" else "ann"

    # git

    def _git(self, path: str, query: str, body: bytes) -> None:
        environment = self.lfs.environment | {
            "GIT_PROJECT_ROOT": str(self.lfs.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers["Content-Type"] or "",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers["Content-Encoding"] or "",
            "GIT_PROTOCOL": self.headers["Git-Protocol"] or "",
            "REMOTE_USER": "ann",  # or http-backend takes no push
        }
        backend = subprocess.run(
            ["git", "http-backend"], input=body, capture_output=True, env=environment, cwd=os.sep, check=False
        )
        head, _, content = backend.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        status = int(fields.pop("Status", "200").split()[0])
        self._answer(status, fields.get("Content-Type", "text/plain"), content)

    # HTTP

    def _body(self) -> Iterator[bytes]:
        if self.headers["Transfer-Encoding"] == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield self.rfile.read(int(self.headers["Content-Length"] or 0))

    def _json(self, status: int, answer: dict[str, Any]) -> None:
        self._answer(status, LFS_JSON, json.dumps(answer).encode())

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"message": message})

    def _answer(self, status: int, content_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _chosen(store: Repository, query: dict[str, Any]) -> list[dict[str, Any]]:
    """The locks that a query asks for, by path or by id, or all of them."""
    wanted = {key: query[key] for key in ("path", "id") if query.get(key)}
    return [lock for lock in store.locks.values() if all(lock[k] == v for k, v in wanted.items())]
