"""A relay on the loopback in front of a server, which can cut a connection in the middle of an answer."""

import socket
import threading
import time


class Relay:
    """Passes bytes both ways, each connection in two threads."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._cuts: list[int] = []
        self._delays: list[tuple[bytes, float]] = []
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> "Relay":
        self._accepting.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for connection in self._open:
            _close(connection)
        for thread in self._threads:
            thread.join()

    def cut_after(self, size: int) -> None:
        """The next connection whose answers reach so many bytes is cut there."""
        self._cuts.append(size)

    def delay(self, begins: bytes, seconds: float) -> None:
        """The next request that begins with this is passed on so much later."""
        self._delays.append((begins, seconds))

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            self._open += [client, server]
            for source, target, answers in ((client, server, False), (server, client, True)):
                thread = threading.Thread(target=self._pass, args=(source, target, answers))
                thread.start()
                self._threads.append(thread)

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        try:
            while piece := source.recv(65536):
                if not answers and self._delays and piece.startswith(self._delays[0][0]):
                    time.sleep(self._delays.pop(0)[1])
                target.sendall(piece)
                passed += len(piece)
                if answers and self._cuts and passed >= self._cuts[0]:
                    self._cuts.pop(0)
                    break
        except OSError:
            pass  # the other side was cut, or the relay ends
        _close(source)
        _close(target)


def _close(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()
