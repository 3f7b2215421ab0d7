"""Running it: where it listens, limits, health, metrics, the end."""

import http.client
import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from gitlfs.mounted import lfsfs, within

from lfsfs.config import ServerOptions, parse_listen
from lfsfs.errors import InvalidConfig
from lfsfs.server.access.access import LoopbackAccess
from lfsfs.server.listening import Listening
from lfsfs.server.serving import check_listeners

from .doors import nginx, self_signed
from .served import LFS_JSON, Api, Served, free_port, oid_of, refused

CONTENT = b"x" * 5_000_000
DOCUMENT = Path(__file__).parents[2] / "docs" / "SERVER.md"
OPERATIONS = DOCUMENT.with_name("OPERATIONS.md")


def test_health_and_readiness(served: Served) -> None:
    assert requests.get(f"{served.url}/healthz", timeout=30).text == "ok\n"
    assert requests.get(f"{served.url}/readyz", timeout=30).text == "ready\n"


def test_status_says_that_a_store_is_served_and_not_mounted(served: Served) -> None:
    said = lfsfs("status", "--store", served.store)
    assert "not mounted, but served" in said and str(served.pid) in said


def test_every_metric_is_named_once_and_documented(served: Served, api: Api) -> None:
    api.put(b"counted")
    text = requests.get(f"{served.url}/metrics", timeout=30).text
    names = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    assert len(names) == len(set(names)) > 5
    assert 'lfsfs_http_requests_total{endpoint="/objects/batch",method="POST",status="200"}' in text
    documented = set(re.findall(r"`(lfsfs_\w+)`", DOCUMENT.read_text()))
    watched = set(re.findall(r"`(lfsfs_\w+)`", OPERATIONS.read_text()))  # some of them of a mount alone
    assert documented <= set(names) <= documented | watched


def test_each_answer_has_an_id_that_the_access_log_has_too(served: Served, api: Api) -> None:
    answer = api.get("locks", headers={"Accept": LFS_JSON})
    # It is written when the answer is out, with its bytes and seconds: a client may be quicker.
    assert within(10, lambda: answer.headers["X-Request-Id"] in served.log())
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_what_is_not_there_and_what_is_not_done(served: Served, api: Api) -> None:
    assert requests.get(f"{served.url}/nothing/here", timeout=30).status_code == 404
    assert api.request("DELETE", "locks").status_code == 405
    assert requests.get(f"{served.url}/../../etc/passwd", timeout=30).status_code == 404


def test_it_refuses_to_listen_to_others_without_users(tmp_path: Path) -> None:
    assert "no users are configured" in refused("serve", tmp_path / "s", "--listen", "0.0.0.0:0")
    for address in ("[::]:0", "example.org:80", "10.0.0.1:80", "localhost.example.org:80"):
        with pytest.raises(InvalidConfig, match="no users are configured"):
            check_listeners(ServerOptions(listen=(address,)), LoopbackAccess())
    for address in ("127.0.0.1:0", "127.9.9.9:1", "[::1]:0", "localhost:0", "unix:/run/x"):
        check_listeners(ServerOptions(listen=(address,)), LoopbackAccess())
    assert "no address to listen on" in refused("serve", tmp_path / "s")


@pytest.mark.parametrize("address", ["8080", "host:port", "unix:relative", "127.0.0.1:99999", "a b:1"],
                         ids=["number", "word", "relative", "large", "space"])  # fmt: skip
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(InvalidConfig, match="not an address"):
        parse_listen(address)


def test_a_port_that_is_taken_is_told(tmp_path: Path, served: Served) -> None:
    said = refused("serve", tmp_path / "s", "--listen", f"127.0.0.1:{served.port}")
    assert "cannot listen" in said


def test_a_store_has_one_daemon(served: Served) -> None:
    assert "one daemon serves a store" in refused("serve", served.store, "--listen", "127.0.0.1:0")


def test_it_answers_to_names_of_this_machine_only(served: Served) -> None:
    """A browser that was told that evil.example.org is 127.0.0.1 must not get anything."""
    for host, status in (
        ("evil.example.org", 403),
        (f"localhost:{served.port}", 200),
        ("[::1]:80", 200),
        ("127.0.0.1", 200),
    ):
        answer = requests.get(f"{served.url}/a/b/locks", headers={"Host": host}, timeout=30)
        assert answer.status_code == status, host


@pytest.mark.slow
def test_a_unix_socket_with_nginx_in_front(tmp_path: Path) -> None:
    path, port = tmp_path / "s.sock", free_port()
    with (
        Served(tmp_path / "served", "--listen", f"unix:{path}"),
        nginx(tmp_path, port, f"http://unix:{path}:"),
    ):
        api = Api(f"http://127.0.0.1:{port}/a/b.git/info/lfs")
        oid = api.put(CONTENT)
        action = api.asked("download", oid, len(CONTENT))["actions"]["download"]
        assert action["href"].startswith(f"http://127.0.0.1:{port}/"), "as the client called it"
        assert api.act(action, "GET").content == CONTENT
    assert not path.exists()


@pytest.mark.slow
def test_tls(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    options = ("--tls-certificate", certificate, "--tls-key", key)
    with Served(tmp_path / "served", *options) as served:
        assert served.state["listen"] == [f"https://127.0.0.1:{served.port}"]
        session = requests.Session()
        session.trust_env = False  # a REQUESTS_CA_BUNDLE would count for more than what is said here
        session.verify = str(certificate)
        url = f"https://127.0.0.1:{served.port}/a/b.git/info/lfs/objects/{oid_of(CONTENT)}"
        assert session.put(url, data=CONTENT, timeout=30).status_code == 200
        assert session.get(url, timeout=30).content == CONTENT
        batch = {"operation": "download", "objects": [{"oid": oid_of(CONTENT), "size": len(CONTENT)}]}
        answer = session.post(url.rpartition("/")[0] + "/batch", json=batch, timeout=30).json()
        assert answer["objects"][0]["actions"]["download"]["href"].startswith("https://")
        session.close()
        with pytest.raises(ssl.SSLError):
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                old.maximum_version = ssl.TLSVersion.TLSv1_1
            with socket.create_connection(("127.0.0.1", served.port)) as raw, old.wrap_socket(raw):
                pass


def test_a_certificate_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no certificate")
    with pytest.raises(InvalidConfig, match="cannot be used"):
        Listening(ServerOptions(tls_certificate=tmp_path / "x", tls_key=tmp_path / "x"))
    with pytest.raises(InvalidConfig, match="go together"):
        ServerOptions(tls_key=tmp_path / "x")


CONFIG = """
[server]
object_size = "1MiB"
request_size = "10KiB"
transfers = 2
queue_timeout = "1s"
head_timeout = "3s"
idle_timeout = "2s"
connections = 50
"""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with low limits."""
    with Served(tmp_path_factory.mktemp("narrow"), config=CONFIG) as server:
        yield server


def test_an_object_that_is_too_large_is_refused_before_it_is_sent(narrow: Served) -> None:
    api = narrow.api()
    assert api.asked("upload", oid_of(CONTENT), len(CONTENT))["error"]["code"] == 422
    assert api.request("PUT", f"objects/{oid_of(CONTENT)}", data=CONTENT).status_code == 413


def test_a_request_that_is_too_large_is_refused(narrow: Served) -> None:
    answer = narrow.api().post("locks", {"path": "x" * 20_000})
    assert answer.status_code == 413
    big = narrow.api().request(
        "POST", "locks", data=(b"x" * 1000 for _ in range(30)), headers={"Content-Type": LFS_JSON}
    )
    assert big.status_code == 413


def stalled_put(port: int, oid: str, size: int) -> socket.socket:
    """A PUT that has sent its head and one byte."""
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"PUT /a/b/objects/{oid} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\nx"
    connection.sendall(head.encode())
    return connection


def test_too_many_transfers_are_told_to_come_back(narrow: Served) -> None:
    holders = [stalled_put(narrow.port, oid_of(bytes([n])), 100) for n in range(2)]
    time.sleep(0.3)
    answer = narrow.api().request("PUT", f"objects/{oid_of(b'third')}", data=b"third")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    for holder in holders:
        holder.close()


def test_a_body_that_does_not_come_is_given_up(narrow: Served) -> None:
    with stalled_put(narrow.port, oid_of(b"stalled"), 100) as connection:
        connection.settimeout(20)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 408


def test_slow_heads_are_given_up(narrow: Served) -> None:
    """Slow loris: a byte now and then does not keep a connection."""
    with socket.create_connection(("127.0.0.1", narrow.port)) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        begun = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - begun < 20:
                connection.sendall(b"X: y\r\n")
                time.sleep(0.2)
                connection.settimeout(0.01)
                try:
                    if connection.recv(1) == b"":
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        assert time.monotonic() - begun < 10


def test_a_connection_is_closed_when_nobody_asks_for_anything_more(narrow: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", narrow.port, timeout=20)
    begun = time.monotonic()
    connection.connect()
    used = connection.sock
    while time.monotonic() - begun < 4:  # longer than head_timeout
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        assert connection.sock is used, "each request gives it more time"
        time.sleep(0.5)
    last = time.monotonic()
    assert connection.sock.recv(1) == b""
    assert 2 < time.monotonic() - last < 10
    connection.close()


def test_a_reader_that_does_not_read_is_given_up(narrow: Served) -> None:
    content = b"\0" * (1 << 20)
    oid = narrow.api().put(content)
    connections = []
    for _ in range(2):  # as many as may transfer
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", narrow.port))
        request = (
            f"GET /studio/game/objects/{oid} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: identity\r\n\r\n"
        )
        connection.sendall(request.encode() * 20)
        connections.append(connection)
    assert within(20, lambda: narrow.api().get(f"objects/{oid}").status_code == 200)
    for connection in connections:
        connection.close()


def test_too_many_connections_are_closed_and_the_others_served(narrow: Served) -> None:
    crowd = [socket.create_connection(("127.0.0.1", narrow.port)) for _ in range(80)]
    assert within(20, lambda: requests_work(narrow)), "the idle ones were closed in time"
    for connection in crowd:
        connection.close()
    assert (
        "lfsfs_http_refused_connections_total 0.0"
        not in requests.get(f"{narrow.url}/metrics", timeout=30).text
    )


def requests_work(served: Served) -> bool:
    try:
        return requests.get(f"{served.url}/healthz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


@pytest.mark.slow
def test_the_end_waits_for_transfers(tmp_path: Path) -> None:
    with Served(tmp_path / "ending") as served:
        oid = oid_of(CONTENT)
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.putrequest("PUT", f"/a/b/objects/{oid}")
        connection.putheader("Content-Length", str(len(CONTENT)))
        connection.endheaders(CONTENT[:1000])
        time.sleep(0.5)
        stopping = threading.Thread(target=lfsfs, args=("serve", served.store, "--stop"))
        stopping.start()
        assert within(20, lambda: not requests_work(served)), "nothing new is taken"
        assert stopping.is_alive()
        connection.send(CONTENT[1000:])
        assert connection.getresponse().status == 200
        connection.close()
        stopping.join()
        served.start()
        assert served.api("a/b").fetch(oid, len(CONTENT)).content == CONTENT
