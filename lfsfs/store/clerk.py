"""Clerk: a process of its own that commits small files for a mount into which many are written at once.

Answering requests and committing files takes the interpreter about as much of the processor each, and two threads
that share one interpreter hold each other up on top of that. So while there is a crowd of files to commit, they go by a
socket to a process that does nothing else: it has the store open as any other process may (clerk_process.py), and makes
many files objects in one transaction. Where it is not there, has no room or does not know what to do, they are
committed here, as ever: whoever asks it is told so.
"""

import logging
import marshal
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import trio

from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Index
from lfsfs.store.layout import Layout
from lfsfs.store.names import Naming, encode_inode
from lfsfs.store.staged_file import Sealed

log = logging.getLogger("lfsfs.store")
CROWD = 4  # commits under way at once: fewer are done here
IDLE_SECONDS = 60.0  # it ends when nobody has come for so long
START_SECONDS = 30.0
END_SECONDS = 10.0
RETRY_SECONDS = 60.0  # after it could not be started, or died
MODULE = "lfsfs.store.clerk_process"
PACKET_BYTES = 256 << 10  # more than any file has that comes here, with all that is said of it
BUFFER_BYTES = 4 << 20
Told = Callable[[ObjectStat | None], None]
"""Gets the object's row; None: nothing was done."""


class _Asked(NamedTuple):
    sealed: Sealed
    told: Told


class Clerk:
    """The clerk of one store. `run` has it while it is wanted. `uploads`: what it commits waits for its upload."""

    def __init__(self, index: Index, layout: Layout, staging: os.PathLike[str], *, uploads: bool) -> None:
        self._index = index
        self._layout = layout
        self._staging = staging
        self._uploads = uploads
        self._wanted = trio.Event()
        self._socket: socket.socket | None = None  # once it is ready
        self._asked: dict[int, _Asked] = {}
        self._number = 0
        self._came = False

    def want(self, under_way: int) -> None:
        """So many commits are under way."""
        if under_way >= CROWD:
            self._wanted.set()

    def commit(self, sealed: Sealed, naming: Naming, told: Told) -> bool:
        """Whether the clerk takes it: then `told` is called, in the thread of the event loop."""
        if self._socket is None:
            return False
        self._came = True
        inode, place = naming
        text = marshal.dumps(
            (self._number, str(sealed.oid), sealed.blocks, sealed.content_type, sealed.mode, sealed.content,
             os.fspath(sealed.path), inode.number, encode_inode(inode), place)
        )  # fmt: skip
        try:
            self._socket.send(text)
        except OSError:  # it has its hands full, or is gone
            return False
        self._asked[self._number] = _Asked(sealed, told)
        self._number += 1
        return True

    async def run(self) -> None:
        """For ever. One process of a store does so."""
        while True:
            await self._wanted.wait()
            try:
                await self._employ()
            except OSError as failed:
                log.warning("small files are committed without a process of their own: %s", failed)
                await trio.sleep(RETRY_SECONDS)
            self._wanted = trio.Event()

    async def _employ(self) -> None:
        """Starts it, and hears what it says until nobody has come for a while. OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            ours.setblocking(False)
            process = await trio.to_thread.run_sync(self._start, theirs)
            theirs.close()
            try:
                with trio.fail_after(START_SECONDS):
                    await _receive(ours)
                self._socket = ours
                log.info("process %d commits small files for this one, while many come at once", process.pid)
                await self._listen(ours)
            except trio.TooSlowError:
                raise OSError(f"it did not start within {START_SECONDS:.0f} s") from None
            finally:
                self._socket = None
                ours.close()  # which ends it
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(_wait, process)
                self._give_back()

    def _start(self, theirs: socket.socket) -> "subprocess.Popen[bytes]":
        number = theirs.fileno()
        paths = (self._layout.path, self._index.path, self._staging)
        flags = (self._uploads, self._index.durable)
        command = [sys.executable, "-P", "-m", MODULE, str(number)]
        command += [os.fspath(path) for path in paths] + [str(int(flag)) for flag in flags]
        return subprocess.Popen(command, pass_fds=(number,), stdin=subprocess.DEVNULL)

    async def _listen(self, ours: socket.socket) -> None:
        while True:
            self._came = False
            with trio.move_on_after(IDLE_SECONDS):
                while True:
                    self._hear(await _receive(ours))
            if not self._came and not self._asked:
                return

    def _hear(self, text: bytes) -> None:
        """What became of some of the files."""
        self._index.committed_elsewhere()
        for number, created in marshal.loads(text):
            sealed, told = self._asked.pop(number)
            if created is None:
                told(None)
                continue
            row = ObjectStat(
                sealed.oid, sealed.size, created, created, sealed.mode, sealed.content_type, "whole"
            )
            told(row)

    def _give_back(self) -> None:
        """It has ended, and what it has not answered may be done or not: it is done here, again."""
        asked, self._asked = self._asked, {}
        for sealed, told in asked.values():
            sealed.path.unlink(missing_ok=True)
            told(None)


async def _receive(ours: socket.socket) -> bytes:
    """OSError where the other side is gone."""
    while True:
        try:
            text = ours.recv(PACKET_BYTES)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(ours)
            continue
        if not text:
            raise ConnectionResetError("it has ended by itself")
        return text


def _wait(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
