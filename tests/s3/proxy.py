"""A proxy between an S3 client and its server that fails on purpose, a process of its own (relay.py).

`with Proxy(server.port) as proxy` starts it; clients talk to `proxy.endpoint`. `proxy.fault(...)` makes a rule
for requests to come: the first rule that matches a request and is not used up decides what happens to it.
`proxy.pace(...)` holds for all. `proxy.down()` and `proxy.up()` are the server that goes away and comes back.
"""

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .relay import Fault

CONTROL_SECONDS = 30
RELAY = Path(__file__).with_name("relay.py")


class Proxy:
    """The test's side of things: starts the process, tells it what to do, ends it."""

    def __init__(self, upstream: int, certificate: Path | None = None) -> None:
        """With a certificate (a file with its private key too) it speaks TLS to its clients."""
        self._arguments = [str(upstream), *([] if certificate is None else [str(certificate)])]
        self._scheme = "http" if certificate is None else "https"

    def __enter__(self) -> "Proxy":
        command = [sys.executable, str(RELAY), *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port, control = json.loads(self._process.stdout.readline())
        self.endpoint = f"{self._scheme}://127.0.0.1:{self.port}"
        self._control = socket.create_connection(("127.0.0.1", control), CONTROL_SECONDS)
        self._answers = self._control.makefile("rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._control.close()
        self._process.terminate()
        self._process.wait(CONTROL_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def fault(self, **what: Any) -> None:
        """A rule for requests to come: the fields of Fault."""
        self._tell("fault", asdict(Fault(**what)))

    def clear(self) -> None:
        """Forgets all rules."""
        self._tell("clear", {})

    def pace(self, *, latency: float = 0.0, rate: float = 0.0) -> None:
        """Seconds before each request goes on; bytes a second, both ways together."""
        self._tell("pace", {"latency": latency, "rate": rate})

    def down(self) -> None:
        """Resets all connections and refuses new ones."""
        self._tell("up", {"up": False})

    def up(self) -> None:
        self._tell("up", {"up": True})

    def counters(self) -> "Counter[str]":
        """connections, requests, and each method; "bytes up" and "bytes down" of bodies."""
        return Counter(self._tell("counters", {}))

    def await_count(self, name: str, least: int, seconds: float = 10.0) -> None:
        """Returns when so many have been counted."""
        deadline = time.monotonic() + seconds
        while self.counters()[name] < least:
            assert time.monotonic() < deadline, f"{name}: {self.counters()}"
            time.sleep(0.01)

    def _tell(self, name: str, arguments: dict[str, Any]) -> Any:
        self._control.sendall(json.dumps([name, arguments]).encode() + b"\n")
        return json.loads(self._answers.readline())
