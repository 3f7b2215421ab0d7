"""What a client may send that no client should."""

import random
import socket
import time
from pathlib import Path

import pytest
import requests
from gitlfs.mounted import within

from .served import LFS_JSON, Api, Served, oid_of

OID = oid_of(b"x")


def raw(served: Served, request: bytes, seconds: float = 15) -> bytes:
    """What the server answers to these bytes, to its end."""
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.settimeout(seconds)
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def get(served: Served, path: bytes, *headers: bytes) -> bytes:
    lines = [b"GET " + path + b" HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *headers, b"", b""]
    return raw(served, b"\r\n".join(lines))


@pytest.mark.parametrize(
    "path",
    [
        b"/../../../etc/passwd",
        b"/a/../../store/server.key",
        b"/%2e%2e/%2e%2e/objects/" + OID.encode(),
        b"/..%2f..%2fetc/locks",
        b"/a%00b/locks",
        b"/a//b/locks",
        b"/.git/locks",
        b"/a/./b/locks",
        b"/%ff%fe/locks",
        b"/a%0d%0aSet-Cookie:%20x=y/locks",
        b"/" + b"a/" * 20 + b"locks",
        b"/" + b"x" * 300 + b"/locks",
        b"//locks",
        b"/locks",
    ],
    ids=["dots", "inner", "encoded", "slash", "nul", "double", "git", "dot", "bytes", "crlf", "deep", "long",
         "no-name", "nothing"],
)  # fmt: skip
def test_no_path_leads_anywhere_else(served: Served, path: bytes) -> None:
    answer = get(served, path)
    assert answer.startswith(b"HTTP/1.1 404"), answer[:200]
    assert b"Set-Cookie" not in answer.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize("oid", ["../../index", "%2e%2e", OID.upper(), OID[:-1], OID + "0", "a" * 5000],
                         ids=["dots", "encoded", "upper", "short", "long", "huge"])  # fmt: skip
def test_what_is_no_oid_is_refused(api: Api, oid: str) -> None:
    for method in ("GET", "PUT"):
        assert api.request(method, f"objects/{oid}", data=b"x").status_code in (404, 405, 422)


@pytest.mark.parametrize(
    "host", [b"evil\x00", b"a b", b"127.0.0.1/x", b"127.0.0.1:80:80", b"user@127.0.0.1", b"127.0.0.1\tx", b"[::1"],
    ids=["nul", "space", "slash", "ports", "user", "tab", "bracket"],
)  # fmt: skip
def test_a_host_that_is_none_gets_no_links(served: Served, host: bytes) -> None:
    body = b'{"operation":"upload","objects":[{"oid":"' + OID.encode() + b'","size":1}]}'
    answer = raw(
        served,
        b"POST /a/b/objects/batch HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n"
        b"Content-Type: application/vnd.git-lfs+json\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
    )
    assert answer.split(b" ")[1] in (b"400", b"403"), answer[:200]
    assert b"href" not in answer


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 1_000_000, 422),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, 422),
        (
            b'{"operation":"upload","objects":[{"oid":"'
            + OID.encode()
            + b'","size":'
            + b"9" * 100_000
            + b"}]}",
            422,
        ),
        (b'{"operation":"upload","objects":[{"oid":"\\ud800","size":1}]}', 422),
        (b'{"operation":"upload","objects":[{"oid":"x","size":NaN}]}', 422),
        (b"\xff\xfe\x00", 422),
        (b"", 422),
        (b"x" * 5_000_000, 413),
    ],
    ids=["deep", "deeper", "digits", "surrogate", "nan", "bytes", "empty", "huge"],
)
def test_json_of_any_kind_is_answered_at_once(api: Api, body: bytes, status: int) -> None:
    begun = time.monotonic()
    answer = api.request("POST", "objects/batch", data=body, headers={"Content-Type": LFS_JSON})
    assert answer.status_code == status, answer.text[:300]
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"POST /a/locks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /a/locks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"PUT /a/objects/%b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %b\r\n\r\n" % (OID.encode(), b"9" * 30),
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        bytes(range(256)) * 100,
    ],
    ids=["tls", "version", "no-host", "smuggling", "negative", "endless", "long-header", "many-headers", "noise"],
)  # fmt: skip
def test_what_is_no_http_ends_the_connection_and_nothing_else(served: Served, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.settimeout(5)
        try:
            connection.sendall(request_bytes)
            assert not connection.recv(65536).startswith(b"HTTP/1.1 2")
        except (TimeoutError, ConnectionError):
            pass  # it waits for more, or has closed: either is well
    assert requests.get(f"{served.url}/healthz", timeout=15).status_code == 200


def test_a_body_that_ends_early_leaves_nothing(served: Served, api: Api) -> None:
    content = random.Random(1).randbytes(500_000)
    path = api.url.removeprefix(served.url) + f"/objects/{oid_of(content)}"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        head = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[:-1])
    assert within(10, lambda: staged(served) == []), "what was received is gone"
    assert api.asked("download", oid_of(content), len(content))["error"]["code"] == 404


def staged(served: Served) -> list[Path]:
    files = [path for path in (served.store / "staging").rglob("*") if path.is_file()]
    return [path for path in files if path.name != "lock"]


@pytest.mark.slow
def test_thousands_of_idle_connections_harm_nobody(tmp_path: Path, full_size: bool) -> None:
    """Full size: 10,000, which needs as many descriptors here."""
    with Served(tmp_path, executed=True) as served:
        bear_a_crowd(served, 10_000 if full_size else 2_000)


def bear_a_crowd(served: Served, number: int) -> None:
    before = resident(served.pid)
    crowd = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(number)]
    try:
        begun = time.monotonic()
        assert requests.get(f"{served.url}/readyz", timeout=30).status_code == 200
        assert time.monotonic() - begun < 10
        assert resident(served.pid) - before < number * 60_000, "what each costs is bounded"
        for connection in crowd[::100]:
            connection.sendall(b"GET /heal")
        assert requests.get(f"{served.url}/readyz", timeout=30).status_code == 200
    finally:
        for connection in crowd:
            connection.close()


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
