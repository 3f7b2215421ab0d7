"""A forge: a web server with the two answers of Gitea's API, or of GitHub's, that lfsfs asks for.

Fields and statuses as they are documented: https://docs.gitea.com/api (userGetCurrent, repoGet) and
https://docs.github.com/rest (users/users#get-the-authenticated-user, repos/repos#get-a-repository).
"""

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Permissions = dict[str, bool]


@dataclass
class Person:
    """`repositories`: what they may do, by full name, as the forge says it. `is_app`: a GitHub app's token."""

    login: str
    token: str
    repositories: dict[str, Permissions] = field(default_factory=dict)
    is_app: bool = False


class Forge:
    """Serves from when it is entered. `asked`: the paths, in order; `trouble`: a status for all, or seconds to wait."""

    def __init__(self, kind: str, people: list[Person]) -> None:
        self.kind = kind
        self.people = people
        self.asked: list[str] = []
        self.trouble: int | float | None = None
        self.headers: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Forge":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        self.asked.append(path)
        prefix = "/api/v1" if self.kind == "gitea" else ""
        person = self._whose(authorization)
        if person is None:
            return 401, {"message": "Bad credentials"}
        if path == f"{prefix}/user":
            if person.is_app:
                return 403, {"message": "Resource not accessible by integration", "status": "403"}
            return 200, {"id": 7, "login": person.login, "email": f"{person.login}@example.org"}
        name = path.removeprefix(f"{prefix}/repos/")
        allowed = person.repositories.get(name)
        if allowed is None:
            return 404, {"message": "Not Found"}
        return 200, {"id": 1, "full_name": name, "private": True, "permissions": allowed}

    def _whose(self, authorization: str) -> Person | None:
        """By the ways that each documents: Gitea takes Basic and `token`, GitHub's API Bearer and `token`."""
        scheme, _, said = authorization.partition(" ")
        for person in self.people:
            basic = base64.b64encode(f"{person.login}:{person.token}".encode()).decode()
            if self.kind == "gitea" and (scheme, said) == ("Basic", basic):
                return person
            if scheme in ("token", "Bearer") and said == person.token:
                return person
        return None


def _handler(forge: Forge) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            if isinstance(forge.trouble, float):
                time.sleep(forge.trouble)
            status, said = forge.answer(self.path, self.headers.get("Authorization", ""))
            if isinstance(forge.trouble, int):
                status, said = forge.trouble, {"message": "trouble"}
            body = json.dumps(said).encode()
            self.send_response(status)
            for name, value in forge.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: object) -> None:
            """Nobody reads it."""

    return Handler
