"""The least that a server which verifies uploads does, to be measured beside lfsfs: it receives a body, hashes it and
writes it, and answers. `bare_receiver.py PORT FOLDER`; one connection after another; the path ends in the SHA-256.

Each body is a file of its own, as objects are. One thread reads the socket into buffers that are used again, another
hashes them, a third writes them.
"""

import hashlib
import itertools
import os
import queue
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

BUFFER_BYTES = 1 << 20
BUFFERS = 16


def main() -> None:
    folder, numbers = Path(sys.argv[2]), itertools.count()
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                answer(connection, folder / f"received-{next(numbers)}")


def answer(connection: socket.socket, target: Path) -> None:
    head, _, begun = connection.recv(BUFFER_BYTES).partition(b"\r\n\r\n")
    if not head:
        return
    path, *lines = head.decode().splitlines()
    headers = dict(line.lower().split(": ", 1) for line in lines)
    found = received(connection, begun, int(headers["content-length"]), target)
    status = "200 OK" if path.split()[1].endswith(found) else "422 Unprocessable Content"
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())


def received(connection: socket.socket, begun: bytes, size: int, target: Path) -> str:
    """The SHA-256 of the body, which is in the file."""
    digest = hashlib.sha256(begun)
    fd = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(fd, begun)
    workers = [Worker(digest.update), Worker(lambda piece: os.write(fd, piece))]
    free, used = deque(bytearray(BUFFER_BYTES) for _ in range(BUFFERS)), deque[bytearray]()
    left = size - len(begun)
    while left:
        if not free:
            for worker in workers:  # each has done with the oldest of what it got
                worker.done.acquire()
            free.append(used.popleft())
        used.append(free.popleft())
        got = connection.recv_into(used[-1])
        if not got:
            break
        left -= got
        for worker in workers:
            worker.pieces.put(memoryview(used[-1])[:got])
    for worker in workers:
        worker.pieces.put(None)
        worker.thread.join()
    os.close(fd)
    return digest.hexdigest()


class Worker:
    """Does something with one piece after another, in a thread. `done`: with how many."""

    def __init__(self, step: Callable[[memoryview], object]) -> None:
        self.pieces: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self.done = threading.Semaphore(0)
        self._step = step
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while (piece := self.pieces.get()) is not None:
            self._step(piece)
            self.done.release()


if __name__ == "__main__":
    main()
