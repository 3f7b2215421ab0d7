"""Succession: a daemon starts another one that is to follow it, and what the two say to each other meanwhile.

    successor                        the daemon that serves
    loaded (or failed)     ->
                           <-        prepare, or remount: with the lock of the store and the listening sockets
    prepared (or failed)   ->
                           <-        state: the mount, and the device
    ready (or failed)      ->
                           <-        go (or no)

Until it has said `go`, the daemon that serves can go on as if nothing had been; until it has heard it, the successor
takes nothing away from the other one. After `remount` the successor waits until the other one has ended.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lfsfs
from lfsfs import channel, durable
from lfsfs.channel import Channel, Hung, Message
from lfsfs.config import Config
from lfsfs.errors import LfsfsError
from lfsfs.mount.handover import VERSION
from lfsfs.mount.mount import Taken

PROTOCOL = 1
LOAD_SECONDS = 120.0  # what a successor gets to load
PREPARE_SECONDS = 600.0  # and to open the store
TAKE_SECONDS = 10.0  # and to take the mount over, while requests wait
OPTION = "--predecessor-fd"
# Not our child, but of whoever looks after processes without parents: systemd takes it for the service's own then.
_DETACH = "import os, sys\nif os.fork(): os._exit(0)\nos.execv(sys.argv[1], sys.argv[1:])"


class Failed(LfsfsError):
    """The successor cannot serve; the message is its own."""


@dataclass(frozen=True)
class Program:
    """How a daemon is started: `command`, whose second word is followed by options; and the folder that it was in."""

    command: Sequence[str]
    options: Sequence[str]
    folder: str


class Successor:
    """The process that is to follow, as the daemon that serves sees it. Blocks; for threads."""

    def __init__(self, program: Program) -> None:
        """Starts it."""
        self._channel, theirs = channel.pair()
        with theirs:
            environment = {name: value for name, value in os.environ.items() if name != "WATCHDOG_PID"}
            here = program.folder if os.path.isdir(program.folder) else "/"
            words = [*program.command, OPTION, str(theirs.fileno()), *program.options]
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", _DETACH, *words],
                stdin=subprocess.DEVNULL, cwd=here, env=environment, pass_fds=(theirs.fileno(),), check=True,
            )  # fmt: skip
        self.said: dict[str, Any] = {}
        self._process = -1

    @property
    def pid(self) -> int:
        return int(self.said["pid"])

    def loaded(self) -> None:
        """Returns when it has loaded, and knows its configuration. Failed, Hung."""
        self.said = self._hear("loaded", LOAD_SECONDS)
        self._process = os.pidfd_open(self.pid)

    def objection(self, config: Config) -> str:
        """Why it cannot go on with the mount as it is; "" if it can."""
        if (self.said["protocol"], self.said["handover"]) != (PROTOCOL, VERSION):
            return f"lfsfs {self.said['version']} says otherwise what there is to hand over"
        if self.said["mountpoint"] != str(config.mountpoint):
            return "the mountpoint is another one now"
        if self.said["mount"] != asdict(config.mount):
            return "the options of the mount are others now"
        return ""

    def prepare(self, lock: int, sockets: Sequence[tuple[str, int]]) -> None:
        """Returns when it has opened the store beside us. Failed, Hung."""
        self._give("prepare", lock, sockets)
        self._hear("prepared", PREPARE_SECONDS)

    def remount(self, lock: int, sockets: Sequence[tuple[str, int]]) -> None:
        """Has it wait until we have ended."""
        self._give("remount", lock, sockets)

    def take(self, taken: Taken | None) -> None:
        """Returns when it is ready to go on with the mount. Failed, Hung."""
        described, descriptors = (taken.described, taken.descriptors) if taken is not None else (None, [])
        with durable.step("hand-over"):
            self._channel.send({"say": "state", "described": described}, descriptors)
            self._hear("ready", TAKE_SECONDS)

    def go(self, held: float) -> None:
        """It serves from now on. `held`: for how many seconds requests had to wait until now."""
        self._channel.send({"say": "go", "held": held})

    def fileno(self) -> int:
        """Readable when it has ended."""
        return self._channel.fileno()

    def end(self) -> None:
        """It is not to serve; certainly."""
        if self._process >= 0:
            try:
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself
            os.close(self._process)
            self._process = -1
        self._channel.close()

    def _give(self, say: str, lock: int, sockets: Sequence[tuple[str, int]]) -> None:
        message: Message = {"say": say, "addresses": [address for address, _ in sockets]}
        self._channel.send(message, [lock, *(descriptor for _, descriptor in sockets)])

    def _hear(self, what: str, seconds: float) -> dict[str, Any]:
        said, _ = self._channel.receive(seconds)
        if said.get("say") != what:
            raise Failed(str(said.get("error", f"it says {said.get('say')}, not {what}")))
        return said


class Predecessor:
    """The daemon that serves, as the one that is to follow sees it. Blocks; for threads."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._channel = Channel(socket.socket(fileno=descriptor))
        self.lock = -1
        self.sockets: dict[str, int] = {}
        self.hands_over = False
        self.held: float | None = None
        self._notify = os.environ.pop("NOTIFY_SOCKET", "")  # systemd listens to the other one as yet

    def loaded(self, config: Config) -> None:
        """Says so, and hears what comes next: `hands_over`, or the other one has ended when this returns."""
        hello: Message = {"say": "loaded", "pid": os.getpid(), "version": lfsfs.__version__}
        hello |= {"protocol": PROTOCOL, "handover": VERSION}
        hello |= {"mountpoint": str(config.mountpoint), "mount": asdict(config.mount)}
        self._channel.send(hello)
        said, (self.lock, *sockets) = self._channel.receive()
        addresses = said["addresses"]
        assert isinstance(addresses, list)
        self.sockets = dict(zip(addresses, sockets, strict=True))
        self.hands_over = said["say"] == "prepare"
        if not self.hands_over:
            select.select([self._channel.fileno()], [], [])
            self._follow()

    def taken(self) -> Taken | None:
        """Says that the store is open; the mount, if there is one, as soon as it is handed over. Hung."""
        self._channel.send({"say": "prepared"})
        said, descriptors = self._channel.receive()
        described = said["described"]
        return Taken(described, descriptors) if isinstance(described, dict) else None

    def ready(self) -> None:
        """Says that this one can serve, and returns when it is to. Hung: it is not to.

        One that has died meanwhile cannot have served on: then it is ours too.
        """
        with durable.step("take-over"):
            self._channel.send({"say": "ready"})
        try:
            said, _ = self._channel.receive()
        except Hung:
            said = {"say": "go"}
        if said["say"] != "go":
            raise Hung("the daemon that serves goes on itself")
        held = said.get("held")
        self.held = held if isinstance(held, float) else None
        self._follow()

    def failed(self, told: str) -> None:
        """Says why this one cannot serve."""
        try:
            self._channel.send({"say": "failed", "error": told})
        except Hung:
            pass  # nobody is left to be told

    def _follow(self) -> None:
        if self._notify:
            os.environ["NOTIFY_SOCKET"] = self._notify


def program_of(arguments: Sequence[str], hidden: int = 0) -> Program:
    """How this process was started, by the arguments of `lfsfs`; without the first few options, which were another's."""
    script = Path(sys.argv[0])
    own = script.name == "lfsfs" and script.is_absolute() and os.access(script, os.X_OK)
    command = [str(script)] if own else [sys.executable, "-P", "-m", "lfsfs.cli.main"]
    return Program([*command, arguments[0], "--foreground"], arguments[1 + hidden :], os.getcwd())
