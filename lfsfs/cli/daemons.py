"""The daemon of a store, seen from outside: which process it is, whether it ended, ending it."""

import json
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lfsfs.cli import output
from lfsfs.errors import Refused
from lfsfs.store.layout import DAEMON_LOCK, DAEMON_STATE

SETTLE_SECONDS = 10.0
"""What a daemon gets to settle its open files after SIGTERM, when it must go."""
KILL_SECONDS = 5.0


@dataclass(frozen=True)
class Daemon:
    """A daemon that was running when it was looked for. `started`: seconds since 1970."""

    pid: int
    _handle: int

    def ended(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def asked_to_end(self, seconds: float) -> bool:
        """Asks it to end; whether it does within so many seconds."""
        self._signal(signal.SIGTERM)
        return self.ended(seconds)

    def asked_to_restart(self) -> None:
        """Asks it to start another one that follows it."""
        self._signal(signal.SIGUSR2)

    def end(self) -> bool:
        """Asks it to end, then makes it. False if not even that helped: it hangs in the kernel."""
        for number, seconds in ((signal.SIGTERM, SETTLE_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            self._signal(number)
            self._signal(signal.SIGCONT)  # one that is stopped could not even settle its files
            if self.ended(seconds):
                return True
        return False

    def _signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._handle, number)
        except ProcessLookupError:
            pass  # it has just ended
        except PermissionError as error:
            raise Refused(f"the daemon (pid {self.pid}) belongs to somebody else") from error


@contextmanager
def daemon_of(store: Path) -> Iterator[Daemon | None]:
    """The process that holds this store's daemon lock open; None if there is none that we may look at."""
    lock = os.path.join(os.path.realpath(store), DAEMON_LOCK)
    for pid in _candidates(store):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if _holds(pid, lock):
                yield Daemon(pid, handle)
                return
        finally:
            os.close(handle)
    yield None


def started(store: Path) -> int | None:
    """When the daemon began to serve, in nanoseconds since 1970."""
    found = _state(store).get("started")
    return found if isinstance(found, int) else None


def mountpoint(store: Path) -> str | None:
    """Where the daemon says that it has mounted the store; also of one that was killed."""
    found = _state(store).get("mountpoint")
    return found if isinstance(found, str) else None


def addresses(store: Path) -> list[str]:
    """The URLs at which the daemon serves the API."""
    found = _state(store).get("listen")
    return [str(url) for url in found] if isinstance(found, list) else []


def said(store: Path) -> dict[str, object]:
    """All that the daemon says of itself; nothing where there is none."""
    return _state(store)


def tell_away(store: Path) -> None:
    """A note where the daemon has just begun without its bucket."""
    away = said(store).get("away")
    if away:
        output.note(
            f"{away}: what is written waits on the local disk until it does; if it should, check the address"
            " (`lfsfs doctor s3://…`)"
        )


def _candidates(store: Path) -> list[int]:
    """The process that says it is the daemon, then all others: one that is just starting says nothing yet."""
    said = _state(store).get("pid")
    others = sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return [said, *others] if isinstance(said, int) and said > 0 else others


def _state(store: Path) -> dict[str, object]:
    try:
        found = json.loads((store / DAEMON_STATE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _holds(pid: int, file: str) -> bool:
    return any(link == file for _, link in open_links(pid))


def open_links(pid: int) -> Iterator[tuple[str, str]]:
    """What a process keeps: (`fd`, path) for each open file, and its `cwd`, `root` and `exe`.

    Only names are read: no file, and so no mount, is touched. Nothing for a process of somebody else.
    """
    folder = f"/proc/{pid}"
    try:
        links = [*(f"fd/{number}" for number in os.listdir(f"{folder}/fd")), "cwd", "root", "exe"]
    except OSError:
        return
    for link in links:
        try:
            yield link.partition("/")[0], os.readlink(f"{folder}/{link}")
        except OSError:
            continue  # closed, or ended, since it was listed
