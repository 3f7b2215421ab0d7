"""Processes that need not load Python and lfsfs first: a process that has loaded them forks one for each call.

A command takes a tenth of the time so, and a daemon a fifth; a test that kills a hundred of them is no longer one of
waiting for imports. Each child gets the environment, folder, umask and standard files of a process of its own, and the
fault that its environment asks for (lfsfs/durable.py). What is to be seen of a process that was executed (its memory,
what it imports, its session) is tested with `lfsfs` itself.
"""

import atexit
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

TITLE_BYTES = 4000
"""Room on the command line of the forking process, for those of its children: whoever lists processes sees them."""
PRELOADED = ("lfsfs.server.serving", "lfsfs.tiers.s3")
STANDARD_FILES = 3
START_SECONDS = 240
"""Until a child is there: the first one waits for the imports, also on a machine that others use."""
KILLED_SECONDS = 60
_TESTS = Path(__file__).parent
_START_FIELD, _END_FIELD = (
    45,
    46,
)  # arg_start and arg_end in /proc/PID/stat, from the state on (proc(5): 48, 49)


class Forked:
    """A child: its pid, and how it ended."""

    def __init__(self, pid: int, news: socket.socket) -> None:
        self.pid = pid
        self._news = news
        self._status: int | None = None

    def wait(self, seconds: float) -> int:
        """Its exit status, -N where signal N ended it. One that takes longer is killed: TimeoutExpired."""
        if self._status is None:
            self._news.settimeout(seconds)
            try:
                said = self._news.recv(64)
            except TimeoutError as error:
                os.kill(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(f"process {self.pid}", seconds) from error
            self._status = int(said)
            self._news.close()
        return self._status

    def forget(self) -> None:
        """Nobody waits for it."""
        self._news.close()


class _Forks:
    """The forking process of this one, started when it is first needed; it ends with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None

    def fork(
        self,
        call: str,
        arguments: Sequence[object],
        files: Sequence[int],
        session: bool,
        environment: Mapping[str, str],
    ) -> Forked:
        news, theirs = socket.socketpair()
        request = {
            "call": call,
            "arguments": [os.fspath(a) if isinstance(a, Path) else a for a in arguments],
            "environment": {**os.environ, **environment},
            "folder": os.getcwd(),
            "umask": _umask(),
            "session": session,
        }
        text = json.dumps(request).encode()
        with theirs, self._lock:
            control = self._control = self._control or self._start()
            socket.send_fds(control, [len(text).to_bytes(4, "big")], [theirs.fileno(), *files])
            control.sendall(text)
        news.settimeout(START_SECONDS)
        try:
            return Forked(int(news.recv(64)), news)
        except TimeoutError:
            news.close()
            raise

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno()), "." * TITLE_BYTES],
                pass_fds=(theirs.fileno(),),
                cwd="/",
                stdin=subprocess.DEVNULL,
            ).returncode = 0  # it ends when this process does: nobody need wait for it
        atexit.register(ours.close)
        return ours


def _umask() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask"))


_forks = _Forks()


def fork(
    call: str,
    *arguments: object,
    out: int,
    err: int,
    files: Sequence[int] = (),
    session: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Forked:
    """A child that calls `module:function` with the arguments (JSON), and then the numbers of `files` in it.

    Its exit status is what the function returns, 0 for None. `session`: it is the first of a session of its own.
    `environment`: beside what this process has.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        return _forks.fork(call, arguments, [null, out, err, *files], session, environment or {})
    finally:
        os.close(null)


def run(call: str, *arguments: object, seconds: float, **environment: str) -> tuple[int, str, str]:
    """A child, until it has ended: its exit status (as `Forked.wait`), standard output and standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = fork(call, *arguments, out=out.fileno(), err=err.fileno(), environment=environment)
        status = child.wait(seconds)
        out.seek(0)
        err.seek(0)
        return status, out.read().decode(errors="replace"), err.read().decode(errors="replace")


def killed_at(point: int, call: str, *arguments: object) -> tuple[int, str, str]:
    """`run`, with kill -9 at this point (lfsfs/durable.py). It comes to its end, or is killed; nothing else."""
    status, out, err = run(call, *arguments, seconds=KILLED_SECONDS, LFSFS_FAULT=f"kill:{point}")
    assert status in (0, -signal.SIGKILL), f"{call} {arguments}: {status}\n{out}{err}"
    return status, out, err


# What is called in a child.


def command(*arguments: str) -> int:
    """`lfsfs ARGUMENTS`."""
    from lfsfs.cli.main import main

    with suppress(SystemExit) as ended:
        return main(arguments)
    return int(ended.code or 0)  # type: ignore[attr-defined]


# The forking process.


def _serve(control: socket.socket) -> None:
    import gc

    from lfsfs.cli.main import MODULES

    for module in ("lfsfs.daemon", *PRELOADED, *(f"lfsfs.cli.{name}" for name in MODULES)):
        with suppress(Exception):  # whoever needs it says so
            import_module(module)
    gc.freeze()
    waiting = selectors.DefaultSelector()
    waiting.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.data is not None:
                waiting.unregister(key.fd)
                _bury(key.fd, *key.data)
                continue
            size, fds, _, _ = socket.recv_fds(control, 4, 16)
            if not size:
                return
            news, *files = fds
            request = json.loads(_received(control, int.from_bytes(size, "big")))
            pid = os.fork()
            if pid == 0:
                _close_all_but({0, 1, 2, *files})
                _live(request, files)
            for fd in files:
                os.close(fd)
            os.write(news, str(pid).encode())
            waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, news))


def _received(control: socket.socket, size: int) -> bytes:
    text = b""
    while len(text) < size:
        text += control.recv(size - len(text))
    return text


def _bury(handle: int, pid: int, news: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(handle)
    with suppress(OSError):  # nobody waits for it
        os.write(news, str(status).encode())
    os.close(news)


def _close_all_but(kept: set[int]) -> None:
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number not in kept:
            with suppress(OSError):  # the one that this list was read by
                os.close(number)


def _live(request: dict[str, Any], files: list[int]) -> None:
    """The child's life; does not return."""
    status = 1
    try:
        if request["session"]:
            os.setsid()
        given = files[STANDARD_FILES:]
        for number, fd in enumerate(files[:STANDARD_FILES]):
            os.dup2(fd, number)
            os.close(fd)
        os.chdir(request["folder"])
        os.umask(request["umask"])
        os.environ.clear()
        os.environ.update(request["environment"])
        _call_oneself([request["call"], *map(str, request["arguments"])])
        from lfsfs import durable

        durable.read_environment()
        module, _, name = request["call"].partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        status = int(function(*request["arguments"], *given) or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        threading._shutdown()  # type: ignore[attr-defined]
        os._exit(status)


def _call_oneself(words: list[str]) -> None:
    """Writes the words where ps(1) reads a command line."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_START_FIELD]), int(fields[_END_FIELD])
    title = b"\0".join(os.fsencode(word) for word in [sys.executable, *words])[: end - start - 1]
    ctypes.memmove(start, title.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = [str(_TESTS), str(_TESTS.parent)]
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        _serve(listening)
