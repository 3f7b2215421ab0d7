"""A daemon of its own: started by `lfsfs mount`, it says over a pipe when it serves, or why it cannot.

The pipe carries lines of JSON: {"steps": how far the opening of the store is}, any number; the last is {"ready": true},
or {"error": the message, "status": the exit status}.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lfsfs import notify
from lfsfs.cli import known, output
from lfsfs.cli.bars import Bar
from lfsfs.steps import Steps

if TYPE_CHECKING:
    from lfsfs.succession import Program

LOG_FILE = "daemon.log"
END_SECONDS = 30.0
"""What a daemon gets to end when nobody waits for it any more."""
PATIENCE_SECONDS = 10.0
"""After this long, the person who waits is told what for. A large store may take longer to open."""


class Parent:
    """The one who waits for a daemon, as the daemon sees it. Without a pipe, nobody waits."""

    def __init__(self, pipe: int | None) -> None:
        self._pipe = pipe
        if pipe is not None:
            os.set_inheritable(pipe, False)  # or a process that we start would keep the other end waiting

    def ready(self) -> None:
        self._tell({"ready": True})

    def failed(self, error: BaseException) -> None:
        self._tell({"error": output.told(error), "status": output.exit_status(error)})

    def opening(self, steps: Steps) -> None:
        """How far it is. Whoever does not read is not waited for."""
        if self._pipe is not None:
            os.set_blocking(self._pipe, False)
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._pipe, _line({"steps": asdict(steps)}))

    def _tell(self, news: dict[str, object]) -> None:
        if self._pipe is not None:
            os.set_blocking(self._pipe, True)
            try:
                os.write(self._pipe, _line(news))
            except BrokenPipeError:
                pass  # whoever waited was interrupted
            os.close(self._pipe)
            self._pipe = None


def _line(news: dict[str, object]) -> bytes:
    return json.dumps(news).encode() + b"\n"


def add_hidden_options(parser: argparse.ArgumentParser) -> None:
    """Those of a daemon whom another process of ours has started."""
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--predecessor-fd", type=int, help=argparse.SUPPRESS)


def program(arguments: argparse.Namespace) -> "Program | None":
    """How this daemon was started; None where whoever has started it would lose sight of one that follows it."""
    from lfsfs.succession import program_of  # brings the mount

    if arguments.ready_fd is not None or arguments.predecessor_fd is not None:
        return program_of(arguments.arguments, hidden=len(["--foreground", "--ready-fd", "its number"]))
    return program_of(arguments.arguments) if notify.is_heard() else None


def start(command: str, arguments: Sequence[str], store: Path) -> None:
    """Runs `lfsfs COMMAND ARGUMENTS` in the foreground of a session of its own; returns when it serves.

    Its output goes to STORE/daemon.log. Raises ToldByDaemon where it cannot serve. Interrupted while it
    waits, it ends the daemon.
    """
    reading, writing = os.pipe()
    try:
        daemon = _spawn([command, "--foreground", "--ready-fd", str(writing), *arguments], writing, store)
    finally:
        os.close(writing)
    try:
        news = _hear(reading, store)
    except BaseException:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(END_SECONDS)
        raise
    finally:
        os.close(reading)
    if not news.get("ready"):
        raise _failure(news, daemon.wait(), store)
    known.remember(store)
    daemon.returncode = 0  # it outlives us, and Popen need not warn of that


def _spawn(arguments: Sequence[str], pipe: int, store: Path) -> "subprocess.Popen[bytes]":
    log = _open_log(store)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "lfsfs.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(pipe,),
            start_new_session=True,
        )
    finally:
        os.close(log)


def _open_log(store: Path) -> int:
    file = store / LOG_FILE
    try:
        return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as error:
        output.note(f"the daemon keeps no log: {output.told(error)}")
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _hear(pipe: int, store: Path) -> dict[str, object]:
    """What the daemon says in the end; empty if it ends without a word."""
    begun, told, said = time.monotonic(), False, b""
    with Bar("open") as shown:
        while True:
            wait = None if told else max(0.0, begun + PATIENCE_SECONDS - time.monotonic())
            if not select.select([pipe], [], [], wait)[0]:
                told = True
                if not shown.is_shown and not output.is_hushed():
                    output.note(f"still opening the store (its log is {store / LOG_FILE})")
                continue
            piece = os.read(pipe, 65536)
            said += piece
            *lines, said = said.split(b"\n")
            for line in lines:
                news = dict(json.loads(line))
                if "steps" not in news:
                    return news
                shown.show_steps(Steps(**news["steps"]))
            if not piece:
                return {}


def _failure(news: dict[str, object], status: int, store: Path) -> output.ToldByDaemon:
    if isinstance(news.get("status"), int):
        return output.ToldByDaemon(str(news["error"]), int(str(news["status"])))
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return output.ToldByDaemon(f"the daemon {how} before it served: see {store / LOG_FILE}", output.FAILED)
