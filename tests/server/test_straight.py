"""The bytes of objects go past the parser of HTTP, in and out: the connection is none the worse for it."""

import http.client
import os
import random
import re
import socket
from collections.abc import Iterator

import pytest
import requests
from gitlfs.mounted import within

from .served import Api, Served, oid_of

MIB = 1 << 20
SIZE = 6 * MIB + 12_345
CONTENT = random.Random(17).randbytes(SIZE)
OID = oid_of(CONTENT)
WAIT_SECONDS = 20


@pytest.fixture
def connection(served: Served) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    yield made
    made.close()


def test_one_connection_takes_and_gives_objects_again_and_again(
    served: Served, connection: http.client.HTTPConnection
) -> None:
    path, used = f"/straight/again/objects/{OID}", set()
    for number, size in enumerate((SIZE, 64 << 10, 64 << 10 | 1, 10, SIZE)):
        content = CONTENT[number:size]
        path = f"/straight/again/objects/{oid_of(content)}"
        connection.request("PUT", path, content)
        used.add(connection.sock.getsockname())
        assert answered(connection) == (200, b"")
        connection.request("GET", path)
        assert answered(connection) == (200, content)
        connection.request("GET", path, headers={"Range": f"bytes={size // 2}-"})
        assert answered(connection) == (206, content[size // 2 :])
    assert len(used) == 1, "the connection was closed in between"


def answered(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_client_may_ask_before_it_sends(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as raw:
        head = f"PUT /straight/asked/objects/{OID} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {SIZE}\r\n"
        raw.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 100")
        raw.sendall(CONTENT + b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answers = b"".join(iter(lambda: raw.recv(MIB), b""))
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200", b"200"], "the next request follows at once"
    assert answers.endswith(b"ok\n")
    assert served.api("straight/asked").get(f"objects/{OID}").content == CONTENT


def test_an_old_client_gets_the_bytes_too(served: Served) -> None:
    served.api("straight/old").put(CONTENT)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as raw:
        raw.sendall(f"GET /straight/old/objects/{OID} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(MIB), b""))
    assert answer.partition(b"\r\n\r\n")[2] == CONTENT


def test_a_refused_upload_leaves_no_connection_behind(served: Served) -> None:
    """Who does not stop sending is not listened to for ever."""
    size = 64 * MIB
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as raw:
        head = f"PUT /straight/refused/objects/{'0' * 63}x HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        raw.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(size // MIB):
                raw.sendall(bytes(MIB))
            raw.recv(1)  # all of it may have gone into buffers
            raw.sendall(b"x")
            pytest.fail("the server took all of it")
    assert within(
        WAIT_SECONDS, lambda: metric(served, "lfsfs_http_active_requests") == 1.0
    )  # the one that asks
    assert within(WAIT_SECONDS, lambda: metric(served, "lfsfs_http_connections") == 1.0)


def test_nothing_is_read_for_a_client_that_is_gone(served: Served) -> None:
    content = random.Random(18).randbytes(48 * MIB)
    oid = served.api("straight/gone").put(content)
    before = metric(served, 'lfsfs_transferred_bytes_total{direction="out"}')
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        raw.connect(("127.0.0.1", served.port))
        raw.settimeout(30)
        raw.sendall(f"GET /straight/gone/objects/{oid} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
    assert within(WAIT_SECONDS, lambda: metric(served, "lfsfs_http_active_requests") == 1.0)
    sent = metric(served, 'lfsfs_transferred_bytes_total{direction="out"}') - before
    assert sent < len(content) / 2


def metric(served: Served, name: str) -> float:
    lines = requests.get(f"{served.url}/metrics", timeout=30).text.splitlines()
    return float(next((line for line in lines if line.startswith(name)), "0").rpartition(" ")[2])


@pytest.mark.parametrize("block", [0, 5], ids=["first", "later"])
def test_no_damaged_byte_goes_out(served: Served, api: Api, block: int) -> None:
    content = random.Random(block).randbytes(SIZE)
    oid = api.put(content)
    damage(served, oid, block * MIB + 1000)
    as_it_is = {"Accept-Encoding": "identity"}
    if block == 0:
        assert api.get(f"objects/{oid}", headers=as_it_is).status_code == 500
        return
    got = bytearray()
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        for piece in api.get(f"objects/{oid}", headers=as_it_is, stream=True).iter_content(MIB):
            got += piece
    assert got == content[: len(got)]
    assert len(got) <= block * MIB


def damage(served: Served, oid: str, offset: int) -> None:
    """Another byte, as a disk does it: behind the back of everybody."""
    path = served.store / "objects" / oid[:2] / oid[2:4] / oid
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, bytes([os.pread(fd, 1, offset)[0] ^ 1]), offset)
    finally:
        os.close(fd)
