"""Session: one mount and the workers that serve it.

One worker at a time leads: it waits for a request, reads it and runs its handler. A handler that never has to wait is
answered at once, with no other task in between, and the worker reads the next request. At the first wait of a handler
another worker takes over the lead, so that requests that wait hold up nobody.
"""

import errno
import logging
import os
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import trio

from lfsfs.fuse import device, protocol, transfer
from lfsfs.fuse.backing import BackingFiles
from lfsfs.fuse.notifier import Notifier
from lfsfs.fuse.polling import Polling
from lfsfs.fuse.protocol import InitFlag, Opcode
from lfsfs.fuse.requests import (
    AT_ONCE,
    HANDLERS,
    LATER,
    Answer,
    Body,
    Caller,
    Operations,
    TakesMore,
    forgotten,
    name_in,
)
from lfsfs.fuse.timings import EACH, Timings
from lfsfs.fuse.transfer import RequestBuffer

log = logging.getLogger("lfsfs.fuse")
IDLE_WORKERS = 4  # so many keep what they need for the next request
LAST_LOOK_SECONDS = 0.005
TURN_REQUESTS = 16  # so many without a wait, and everybody else of the event loop has a turn
LOOKS = 16  # for the next request, between two turns of everybody else: 25 µs
BACKGROUND_REQUESTS = 1024  # reads at once: those that wait for a remote tier must not hold up the others
WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.HANDLE_KILLPRIV
    | InitFlag.MAX_PAGES
    | InitFlag.INIT_EXT
    | InitFlag.PASSTHROUGH
)
_FLAG_BITS = 32  # of the first field of flags
_STACK_DEPTH = 1  # backing files lie on no file system that stands for another one
_HEADER_BYTES = protocol.IN_HEADER.size
_OUT_BYTES = protocol.OUT_HEADER.size
_GONE = frozenset((errno.ENODEV, errno.ECONNABORTED))


# What may be answered later, while somebody else serves: the answer changes nothing that is handed over.
_HARMLESS = frozenset((Opcode.READ, Opcode.STATFS, Opcode.READLINK, Opcode.GETXATTR, Opcode.LISTXATTR))


class Session:
    """A file system at a mountpoint. `mount`, `run` until it is unmounted or `stop` is called, `close`.

    It can be handed over to another process, which takes what follows from `descriptor`: `pause` and `settled`, then
    `leave`, or `resume`.
    """

    def __init__(self, operations: Operations, mountpoint: Path) -> None:
        self._operations = operations
        self._mountpoint = mountpoint
        self._descriptor = -1
        self._ended = False
        self.timings = Timings()
        self._idle = trio.lowlevel.ParkingLot()
        self._paused: trio.Event | None = None
        self._waiting: dict[int, int] = {}  # the operations of requests whose handlers wait
        self._left = False
        self._polling = Polling()
        self._over = trio.Event()

    def mount(self, options: list[bytes]) -> Notifier:
        """Mounts with these options of fusermount3 (MountRefused); who tells the kernel what to forget."""
        return self.adopt(device.mount(self._mountpoint, options))

    def adopt(self, descriptor: int, *, backing: bool | None = None) -> Notifier:
        """Takes a device; with `backing` (what `backing_files` had agreed on) one that another process has mounted.

        That belongs to the other one until `own`.
        """
        self._descriptor = descriptor
        self._left = backing is not None
        self._notifier = Notifier(self._descriptor)
        self.backing_files = BackingFiles(self._descriptor)
        self.backing_files.agreed = bool(backing)
        return self._notifier

    async def run(self) -> None:
        """Serves; at the end every request that was begun is answered."""
        try:
            async with trio.open_nursery() as self._workers:
                self._workers.start_soon(self._work)
                await self._over.wait()
                while self._waiting:  # noqa: ASYNC110 - once, at the end
                    await trio.sleep(LAST_LOOK_SECONDS)
        finally:  # cut off: whoever waits must not wait for ever where the device lives on
            while self._waiting:
                self._send(protocol.refusal(self._waiting.popitem()[0], errno.EIO))

    def stop(self) -> None:
        """Makes `run` return. From the event loop's thread."""
        if not self._ended:
            self._end()
            trio.lowlevel.notify_closing(self._descriptor)

    def close(self) -> None:
        """Takes the mount away, unless it was left to somebody else. Blocks for a moment."""
        if self._descriptor >= 0:
            self._notifier.close()
            if self._left:
                os.close(self._descriptor)
            else:
                device.unmount(self._mountpoint, self._descriptor)
            self._descriptor = -1

    # Handing over.

    @property
    def descriptor(self) -> int:
        """The device's."""
        return self._descriptor

    def pause(self) -> None:
        """Takes no more requests: they wait in the kernel."""
        if self._paused is None:
            self._paused = trio.Event()
            trio.lowlevel.notify_closing(self._descriptor)

    @property
    def settled(self) -> bool:
        """Whether nothing is under way any more that could change anything, once it is paused."""
        return all(opcode in _HARMLESS for opcode in self._waiting.values())

    def resume(self) -> None:
        """Takes requests again."""
        if self._paused is not None:
            paused, self._paused = self._paused, None
            paused.set()

    def own(self) -> None:
        """The other process has left it to this one."""
        self._left = False

    @property
    def left(self) -> bool:
        """Whether it is somebody else's."""
        return self._left

    def leave(self) -> None:
        """Somebody else has it now: `run` returns when what was begun here is answered, and nothing is unmounted."""
        self._left = True
        self._end()
        self.resume()

    def _end(self) -> None:
        self._ended = True
        self._over.set()
        self._idle.unpark_all()

    async def _work(self) -> None:
        buffer = RequestBuffer(protocol.REQUEST_BYTES)
        while True:
            await self._lead(buffer)
            if self._ended or len(self._idle) >= IDLE_WORKERS:
                return
            await self._idle.park()

    async def _lead(self, buffer: RequestBuffer) -> None:
        """Serves requests until another worker leads, or there are no more."""
        turn = 0
        while not self._ended:
            if self._paused is not None:
                await self._paused.wait()
                continue
            try:
                size = buffer.receive(self._descriptor) or await self._poll(buffer)
            except OSError as failed:
                if failed.errno in _GONE:
                    self._end()
                elif failed.errno != errno.ENOENT:  # which is a request that was taken back
                    raise
                continue
            if not size:
                turn = 0
                await self._wait()
                continue
            header = protocol.IN_HEADER.unpack_from(buffer.view)
            body = buffer.view[_HEADER_BYTES:size]
            if not self._serve_at_once(header, body) and await self._serve(header, body):
                return
            turn += 1
            if turn == TURN_REQUESTS:
                turn = 0
                await trio.lowlevel.checkpoint()

    async def _poll(self, buffer: RequestBuffer) -> int:
        """The size of a request that has come within a moment; 0: none has, or it was not worth to look. OSError."""
        begun = last = now = perf_counter_ns()
        if self._waiting or not self._polling.pays(now):
            return 0
        while self._polling.goes_on(begun, last, now):
            for _ in range(LOOKS):
                size = buffer.receive(self._descriptor)
                if size:
                    return size
            await trio.lowlevel.checkpoint()  # everybody else of the event loop has a turn
            if self._ended or self._paused is not None:
                return 0
            last, now = now, perf_counter_ns()
        return 0

    async def _wait(self) -> None:
        """Sleeps until there is a request. Not at all if it is ended or paused, of which nobody would be told."""
        if self._ended or self._paused is not None:
            return
        begun = perf_counter_ns()
        try:
            await trio.lowlevel.wait_readable(self._descriptor)
        except trio.ClosedResourceError:
            if self._paused is None:
                self._end()
        self._polling.slept(perf_counter_ns() - begun)

    def _serve_at_once(self, header: tuple[int, ...], body: Body) -> bool:
        """Whether it has answered one request, without a wait. False: nothing was done."""
        opcode, unique, node = header[1:4]
        serve = AT_ONCE.get(opcode)
        if serve is None:
            if opcode in HANDLERS:
                return False
            self._serve_other(opcode, unique, node, body)
            return True
        begun = 0 if unique % EACH else perf_counter_ns()
        try:
            answer = serve(self._operations, node, body)
        except Exception as failed:
            self._refuse(opcode, unique, body, failed)
        else:
            if answer is None:
                return False
            self._answer(unique, answer)
        self._time(opcode, begun)
        return True

    async def _serve(self, header: tuple[int, ...], body: Body) -> bool:
        """Answers one request; whether another worker has taken the lead meanwhile."""
        _, opcode, unique, node, uid, gid, pid, _, _ = header
        handler = HANDLERS[opcode]
        begun = 0 if unique % EACH else perf_counter_ns()
        if opcode in LATER and self._leave_for_later(opcode, unique, uid, gid, pid, node, body, begun):
            return False
        handling = handler(self._operations, node, Caller(uid, gid, pid), body)
        try:
            wanted = handling.send(None)
        except StopIteration as done:
            self._answer(unique, done.value)
        except Exception as failed:
            self._refuse(opcode, unique, body, failed)
        else:
            self._hand_over(opcode, unique)
            await self._finish(opcode, unique, body, _resumed(handling, wanted))
            self._time(opcode, begun)
            return True
        self._time(opcode, begun)
        return False

    async def _finish(self, opcode: int, unique: int, body: Body, handling: Awaitable[Answer]) -> None:
        """Answers a request whose handler waits."""
        try:
            answer = await handling
        except Exception as failed:
            self._refuse(opcode, unique, body, failed)
        else:
            self._answer(unique, answer)
        del self._waiting[unique]

    def _leave_for_later(
        self, opcode: int, unique: int, uid: int, gid: int, pid: int, node: int, body: Body, begun: int
    ) -> bool:
        """Whether the operations see to the request by themselves: then no worker waits for the answer."""
        kept = bytes(body)

        async def serve() -> None:
            again = memoryview(kept)
            handling = HANDLERS[opcode](self._operations, node, Caller(uid, gid, pid), again)
            await self._finish(opcode, unique, again, handling)
            self._time(opcode, begun)

        def ended(failed: Exception | None) -> None:
            if isinstance(failed, TakesMore):
                self._workers.start_soon(serve)
                return
            if self._waiting.pop(unique, None) is None:
                return  # it was cut off
            if failed is None:
                self._answer(unique, b"")
            else:
                self._refuse(opcode, unique, memoryview(kept), failed)
            self._time(opcode, begun)

        self._waiting[unique] = opcode
        if LATER[opcode](self._operations, body, ended):
            return True
        del self._waiting[unique]
        return False

    def _time(self, opcode: int, begun: int) -> None:
        if begun:
            self.timings.add(opcode, perf_counter_ns() - begun)

    def _serve_other(self, opcode: int, unique: int, node: int, body: Body) -> None:
        """What has no handler: the first request of all, what wants no answer, and what is not implemented."""
        if opcode in (Opcode.FORGET, Opcode.BATCH_FORGET):
            self._operations.forget(forgotten(opcode, node, body))
        elif opcode == Opcode.INIT:
            self._send(self._agree(unique, body))
        elif opcode != Opcode.INTERRUPT:
            self._send(protocol.refusal(unique, protocol.NOT_IMPLEMENTED))

    def _agree(self, unique: int, body: Body) -> bytes:
        major, minor, read_ahead, offered = protocol.INIT_IN.unpack_from(body)
        if (major, minor) < (protocol.MAJOR, protocol.LEAST_MINOR):
            log.error("the kernel speaks FUSE %d.%d: 7.31 (Linux 5.4) is the least", major, minor)
            self._end()
            return protocol.refusal(unique, errno.EPROTO)
        if offered & InitFlag.INIT_EXT:
            offered |= protocol.INIT_MORE_FLAGS.unpack_from(body)[0] << _FLAG_BITS
        agreed = offered & WANTED
        self.backing_files.agreed = bool(agreed & InitFlag.PASSTHROUGH)
        content = protocol.INIT_OUT.pack(
            protocol.MAJOR, min(minor, protocol.MINOR), read_ahead, agreed & 0xFFFF_FFFF, BACKGROUND_REQUESTS,
            BACKGROUND_REQUESTS * 3 // 4, protocol.LARGEST_WRITE_BYTES, 1, protocol.LARGEST_PAGES, 0,
            agreed >> _FLAG_BITS, _STACK_DEPTH,
        )  # fmt: skip
        return protocol.answer(unique, content)

    def _hand_over(self, opcode: int, unique: int) -> None:
        self._waiting[unique] = opcode
        if self._ended:
            return
        if self._idle:
            self._idle.unpark()
        else:
            self._workers.start_soon(self._work)

    def _answer(self, unique: int, answer: Answer) -> None:
        self._send(protocol.OUT_HEADER.pack(_OUT_BYTES + len(answer), 0, unique), answer)

    def _refuse(self, opcode: int, unique: int, body: Body, failed: Exception) -> None:
        number = self._operations.failed(Opcode(opcode).name.lower(), name_in(opcode, body), failed)
        self._send(protocol.refusal(unique, number))

    def _send(self, head: bytes, content: Answer = b"") -> None:
        try:
            transfer.send(self._descriptor, head, content)
        except OSError as refused:
            if refused.errno in _GONE:
                self._end()
            elif refused.errno != errno.ENOENT:  # which is that nobody waits for it any more
                log.error("the kernel does not take an answer: %s", refused)


@types.coroutine
def _resumed(handler: Coroutine[Any, Any, Answer], wanted: Any) -> Generator[Any, Any, Answer]:
    """The rest of a coroutine that has yielded `wanted` already."""
    while True:
        try:
            given = yield wanted
        except BaseException as thrown:
            resume: Callable[[Any], Any] = handler.throw
            given = thrown
        else:
            resume = handler.send
        try:
            wanted = resume(given)
        except StopIteration as done:
            answer: Answer = done.value
            return answer
