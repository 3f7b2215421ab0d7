"""A store served by the real command, as its own process, and taken down again whatever happens."""

import hashlib
import json
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from gitlfs.mounted import LFSFS, fork_daemon, is_running, lfsfs, within

LFS_JSON = "application/vnd.git-lfs+json"
END_SECONDS = 30
HTTP_SECONDS = 30


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Served:
    """`lfsfs serve FOLDER/store --listen 127.0.0.1:PORT OPTIONS`. Stops and starts on the same port.

    The server is a process that was forked (forking.py); with `executed`, one that the command executes.
    """

    def __init__(
        self,
        folder: Path,
        *options: str | Path,
        config: str = "",
        store: Path | None = None,
        executed: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.executed = executed
        self.folder = folder
        self.store = store or folder / "store"
        self.port = free_port()
        self.options = options
        if config:
            file = folder / "lfsfs.toml"
            file.write_text(config)
            self.options = (*options, "--config", file)

    def __enter__(self) -> "Served":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        arguments = (self.store, "--listen", f"127.0.0.1:{self.port}", *self.options)
        if self.executed:
            lfsfs("serve", *arguments)
        else:
            fork_daemon("serve", self.store, *map(str, arguments))

    def stop(self) -> None:
        """Ends it as a user would. Whatever is left after that is killed, and is an error."""
        if not self.is_running:
            return
        pid = self.pid
        try:
            lfsfs("serve", self.store, "--stop", seconds=END_SECONDS)
            assert not is_running(pid), "the server outlives its stop"
        finally:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        assert "Traceback" not in self.log(), self.log()

    def kill(self) -> None:
        """As a crash would."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        assert within(END_SECONDS, lambda: not is_running(pid))

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.store / "daemon.json").read_text()))

    @property
    def pid(self) -> int:
        return int(self.state["pid"])

    @property
    def is_running(self) -> bool:
        return (self.store / "daemon.json").exists() and is_running(self.pid)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        return (self.store / "daemon.log").read_text(errors="replace")

    def api(self, repository: str = "studio/game", user: str = "") -> "Api":
        return Api(f"{self.url}/{repository}.git/info/lfs", user)

    def memory_peak(self) -> int:
        """Bytes of memory that the process has had at most."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


@dataclass
class Api:
    """The API of one repository, as a client that speaks it by hand."""

    url: str
    user: str = ""

    def request(self, method: str, path: str, **how: Any) -> requests.Response:
        headers = {"Accept": LFS_JSON} | how.pop("headers", {})
        if "json" in how:
            headers.setdefault("Content-Type", LFS_JSON)
            how["data"] = json.dumps(how.pop("json"))
        url = path if path.startswith("http") else f"{self.url}/{path}"
        auth = (self.user, "any") if self.user and "Authorization" not in headers else None
        return requests.request(method, url, headers=headers, auth=auth, timeout=HTTP_SECONDS, **how)

    def get(self, path: str, **how: Any) -> requests.Response:
        return self.request("GET", path, **how)

    def post(self, path: str, said: object, **how: Any) -> requests.Response:
        return self.request("POST", path, json=said, **how)

    def batch(self, operation: str, *objects: tuple[str, int], **more: object) -> requests.Response:
        wanted = [{"oid": oid, "size": size} for oid, size in objects]
        return self.post("objects/batch", {"operation": operation, "objects": wanted, **more})

    def asked(self, operation: str, oid: str, size: int, **more: object) -> dict[str, Any]:
        """What a batch says of one object."""
        answer = self.batch(operation, (oid, size), **more)
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["objects"]
        return dict(found)

    def put(self, content: bytes) -> str:
        """Uploads as git-lfs does: batch, PUT, verify. The oid."""
        oid = oid_of(content)
        found = self.asked("upload", oid, len(content))
        if "actions" in found:
            assert self.act(found["actions"]["upload"], "PUT", data=content).status_code == 200
            verify = found["actions"]["verify"]
            said = {"oid": oid, "size": len(content)}
            assert self.act(verify, "POST", json=said).status_code == 200
        return oid

    def fetch(self, oid: str, size: int, **headers: str) -> requests.Response:
        """Downloads as git-lfs does."""
        found = self.asked("download", oid, size)
        return self.act(found["actions"]["download"], "GET", headers=headers)

    def act(self, action: dict[str, Any], method: str, **how: Any) -> requests.Response:
        headers = {**action.get("header", {}), **how.pop("headers", {})}
        return self.request(method, action["href"], headers=headers, **how)


def oid_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refused(*arguments: str | Path) -> str:
    """What the command says when it does not do it."""
    done = subprocess.run(
        [LFSFS, *arguments], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr
