"""The group server of scripts/bench: the Git LFS server beside nginx, giftless and SHA-256 itself, on the loopback.

giftless is the Git LFS server of PyPI, with its local storage, under gunicorn with a worker for each processor. nginx
serves the same file with sendfile: the limit. Each side's bytes come from the page cache, and go to /dev/null.

Before each upload what was written earlier is on the disk, and the kernel has memory for the new file (`settle`).
"""

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio
from bench import Row

from lfsfs import Oid, open_store
from lfsfs.store import catalog, references
from lfsfs.store.catalog import ObjectStat
from lfsfs.store.index import Tx

LFSFS = Path(sys.executable).with_name("lfsfs")
MIB = 1 << 20
BODY_BYTES = 512 * MIB
SPARE_MIB = 128  # what receives a body wants some beside it
OBJECTS = 100_000
BATCH = 100
BATCH_SECONDS = 4.0
CLIENTS = 4
START_SECONDS = 60
REPOSITORY = "bench/files"
LFS_JSON = "application/vnd.git-lfs+json"
GIFTLESS = (
    "giftless==0.6.2", "gunicorn", "flask", "flask-marshmallow", "marshmallow", "webargs", "pyjwt<2.10", "pyyaml",
    "figcan", "flask-classful", "python-dotenv", "cryptography", "python-dateutil", "cachetools", "typing_extensions",
)  # fmt: skip
"""With what giftless imports: it declares no dependencies of its own. Its tokens are refused by PyJWT 2.10 and newer."""


class Sides:
    """The three servers, and what they serve."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ours, self.nginx, self.giftless, self.bare = (free_port() for _ in range(4))
        self.sources: dict[int, Path] = {}
        self.body = self.noise(0)
        self.oid = oid_of(self.body)

    def noise(self, number: int) -> Path:
        """A file of BODY_BYTES that is like no other."""
        path = self.folder / f"noise-{number}"
        piece = bytearray(os.urandom(MIB))
        with path.open("wb") as file:
            for block in range(BODY_BYTES // MIB):
                piece[:8] = block.to_bytes(8, "big")
                file.write(piece)
        return path

    def source(self, number: int) -> Path:
        """The file of a round of uploads; the one before is not needed any more."""
        if number + 1 not in self.sources:
            for old in self.sources.values():
                old.unlink()
            self.sources = {number + 1: self.noise(number + 1)}
        return self.sources[number + 1]


# What is measured.


def download(port: int, path: str) -> float:
    """MiB/s."""
    return transferred("-o", "/dev/null", f"http://127.0.0.1:{port}{path}")


def transferred(*arguments: str | Path) -> float:
    begun = time.perf_counter()
    done = subprocess.run(["curl", "-sf", *arguments], check=False)
    if done.returncode != 0:
        raise SystemExit(f"curl {' '.join(map(str, arguments))}: exit {done.returncode}")
    return BODY_BYTES / MIB / (time.perf_counter() - begun)


def put(port: int, path: str, source: Path, *headers: str) -> float:
    """MiB/s of a PUT, from its first byte to the answer. By sendfile: curl takes as much of the processor as SHA-256."""
    settle(source.parent)
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection, source.open("rb") as file:
        lines = f"PUT {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {BODY_BYTES}", *headers
        connection.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        connection.sendfile(file)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        if answer.status != 200:
            raise SystemExit(f"PUT {path}: {answer.status} {answer.read()[:300]!r}")
    return BODY_BYTES / MIB / (time.perf_counter() - begun)


def settle(folder: Path) -> None:
    """Everything is on the disk, and the kernel has free memory for a body: a virtual machine may have to ask its host
    for that, which takes four times as long as to write the body, and gives it back after two seconds of no use.
    """
    os.sync()
    piece, path = bytes(MIB), folder / "memory"
    with path.open("wb", buffering=0) as file:
        for _ in range(BODY_BYTES // MIB + SPARE_MIB):
            file.write(piece)
    path.unlink()


def oid_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upload(sides: Sides, number: int) -> float:
    """MiB/s until the answer says that the object is there, whole and verified."""
    path = sides.source(number)
    return put(sides.ours, f"/{REPOSITORY}/objects/{oid_of(path)}", path)


def upload_bare(sides: Sides, number: int) -> float:
    """MiB/s of the least that a server which verifies does: it receives, hashes and writes, each in a thread."""
    path = sides.source(number)
    return put(sides.bare, f"/{oid_of(path)}", path)


def sha256(sides: Sides, number: int) -> float:
    """MiB/s of the hash alone, of the same file in the page cache."""
    path = sides.source(number)
    settle(sides.folder)
    with path.open("rb") as file:
        begun = time.perf_counter()
        hashlib.file_digest(file, "sha256")
        return BODY_BYTES / MIB / (time.perf_counter() - begun)


def upload_giftless(sides: Sides, number: int) -> float:
    """MiB/s of giftless, which does not look whether the bytes are the right ones."""
    path = sides.source(number)
    *headers, url = giftless_action(sides, "upload", oid_of(path))
    return put(sides.giftless, url.partition(f":{sides.giftless}")[2], path, *headers[1::2])


def download_giftless(sides: Sides) -> float:
    return transferred("-o", "/dev/null", *giftless_action(sides, "download", sides.oid))


def giftless_action(sides: Sides, operation: str, oid: str) -> tuple[str, ...]:
    """What curl is told: the header that it wants, if it wants one, and its URL."""
    answer = post(sides.giftless, f"/{REPOSITORY}/objects/batch", batch_of(operation, [oid], BODY_BYTES))
    action = json.loads(answer)["objects"][0]["actions"][operation]
    headers = [f"{name}: {value}" for name, value in action.get("header", {}).items()]
    return *(word for header in headers for word in ("-H", header)), action["href"]


def batches(port: int, path: str, oids: list[str]) -> float:
    """Requests a second: batches of 100 objects that are all there, by a few clients at once."""
    until = time.perf_counter() + BATCH_SECONDS
    counts = [0] * CLIENTS
    wrong: list[str] = []

    def run(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        at = client * BATCH
        while time.perf_counter() < until:
            wanted = [oids[(at + n) % OBJECTS] for n in range(BATCH)]
            at += CLIENTS * BATCH
            connection.request("POST", path, batch_of("download", wanted, 1), HEADERS)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or b'"error"' in body:
                return wrong.append(f"batch: {answer.status} {body[:300]!r}")
            counts[client] += 1
        return connection.close()

    threads = [threading.Thread(target=run, args=(client,)) for client in range(CLIENTS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise SystemExit(wrong[0])
    return sum(counts) / (time.perf_counter() - begun)


HEADERS = {"Accept": LFS_JSON, "Content-Type": LFS_JSON}


def batch_of(operation: str, oids: list[str], size: int) -> bytes:
    wanted = [{"oid": oid, "size": size} for oid in oids]
    return json.dumps({"operation": operation, "transfers": ["basic"], "objects": wanted}).encode()


def post(port: int, path: str, body: bytes) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, body, HEADERS)
    answer = connection.getresponse().read()
    connection.close()
    return answer


# The servers.


@contextmanager
def lfsfs(sides: Sides, oids: list[str]) -> Iterator[None]:
    store = sides.folder / "store"
    trio.run(fill, store, oids)
    options = (
        "--durability",
        "fast",
        "--scrub-rate",
        "off",
    )  # a scrub would find out that the rows have no bytes
    run(LFSFS, "serve", store, "--listen", f"127.0.0.1:{sides.ours}", *options)
    try:
        url = f"http://127.0.0.1:{sides.ours}/{REPOSITORY}/objects/{sides.oid}"
        run("curl", "-sf", "-T", sides.body, "-H", "Expect:", url)
        yield
    finally:
        run(LFSFS, "serve", store, "--stop")


async def fill(path: Path, oids: list[str]) -> None:
    """A store whose index has so many objects of a repository: their rows, not their bytes, which no batch looks at."""
    async with open_store(path, create=True, durability="fast") as store:
        found = await store.index.update(lambda tx: references.add_repository(tx, f"/{REPOSITORY}"))
        for start in range(0, len(oids), 5_000):
            part = [Oid(oid) for oid in sorted(oids[start : start + 5_000])]

            def write(tx: Tx, part: list[Oid] = part) -> None:
                for oid in part:
                    catalog.put(tx, ObjectStat(oid, 1, 0, 0, 0o644, "text/plain", "whole"), bytes(32))
                    references.add(tx, found.id, oid)

            await store.index.update(write)


@contextmanager
def nginx(sides: Sides) -> Iterator[None]:
    folder = sides.folder / "nginx"
    folder.mkdir()
    os.link(sides.body, folder / "body")
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; pid {folder}/pid; error_log {folder}/error; events {{}}\n"
        f"http {{ access_log off; sendfile on; tcp_nopush on; {places}"
        f" server {{ listen 127.0.0.1:{sides.nginx}; root {folder}; }} }}\n"
    )
    with started(["nginx", "-c", folder / "nginx.conf", "-e", folder / "error"], sides.nginx, {}):
        yield


@contextmanager
def giftless(sides: Sides, oids: list[str]) -> Iterator[None]:
    folder = sides.folder / "giftless"
    venv.create(folder / "venv", with_pip=True)
    run(folder / "venv" / "bin" / "pip", "install", "--quiet", *GIFTLESS)
    objects = folder / "objects" / REPOSITORY
    objects.mkdir(parents=True)
    for oid in oids:
        (objects / oid).write_bytes(b"x")
    os.link(sides.body, objects / sides.oid)
    config = folder / "giftless.yaml"
    config.write_text(GIFTLESS_CONFIG.format(objects=folder / "objects"))
    command: list[str | Path] = [folder / "venv" / "bin" / "gunicorn", "-w", f"{os.cpu_count() or 1}", "-b",
               f"127.0.0.1:{sides.giftless}", "--timeout", "120", "giftless.wsgi_entrypoint:app"]  # fmt: skip
    with started(command, sides.giftless, {"GIFTLESS_CONFIG_FILE": os.fspath(config)}):
        yield


GIFTLESS_CONFIG = """\
AUTH_PROVIDERS: ["giftless.auth.allow_anon:read_write"]
TRANSFER_ADAPTERS:
  basic:
    factory: giftless.transfer.basic_streaming:factory
    options:
      storage_class: giftless.storage.local_storage:LocalStorage
      storage_options: {{path: {objects}}}
      action_lifetime: 900
PRE_AUTHORIZED_ACTION_PROVIDER:
  factory: giftless.auth.jwt:factory
  options: {{algorithm: HS256, private_key: a-key-that-is-long-enough-for-hs256, default_lifetime: 600}}
"""


@contextmanager
def bare(sides: Sides) -> Iterator[None]:
    command: list[str | Path] = [
        sys.executable, Path(__file__).with_name("bare_receiver.py"), str(sides.bare), sides.folder,
    ]  # fmt: skip
    with started(command, sides.bare, {}):
        yield


@contextmanager
def started(command: list[str | Path], port: int, environment: dict[str, str]) -> Iterator[None]:
    """A server that answers on its port; it ends with the block."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"{command[0]} does not start") from None
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def run(*command: str | Path) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def group(folder: Path) -> Iterator[tuple[list[Row], list[str]]]:
    sides = Sides(folder)
    oids = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(OBJECTS)]
    with ExitStack() as stack:
        for server in (lfsfs(sides, oids), nginx(sides), giftless(sides, oids), bare(sides)):
            stack.enter_context(server)
        ours, batch = f"/{REPOSITORY}/objects/{sides.oid}", f"/{REPOSITORY}/objects/batch"

        def downloaded(number: int) -> float:
            return download(sides.ours, ours)

        rows = [
            Row("download, 512 MiB", "MiB/s", downloaded, lambda n: download(sides.nginx, "/body"),
                "nginx sendfile", (">=", 0.5)),
            Row("download, 512 MiB", "MiB/s", downloaded, lambda n: download_giftless(sides), "giftless", (">=", 1)),
            Row("upload, 512 MiB, verified", "MiB/s", lambda n: upload(sides, n), lambda n: sha256(sides, n),
                "SHA-256 alone", (">=", 0.9)),
            Row("upload, 512 MiB, verified", "MiB/s", lambda n: upload(sides, n), lambda n: upload_bare(sides, n),
                "a bare receiver: SHA-256 and a file"),
            Row("a bare receiver, 512 MiB", "MiB/s", lambda n: upload_bare(sides, n), lambda n: sha256(sides, n),
                "SHA-256 alone"),
            Row("upload, 512 MiB", "MiB/s", lambda n: upload(sides, n), lambda n: upload_giftless(sides, n),
                "giftless, which does not verify"),
            Row(f"batch of {BATCH}, {OBJECTS:,} objects stored", "requests/s",
                lambda n: batches(sides.ours, batch, oids), lambda n: batches(sides.giftless, batch, oids),
                "giftless", (">=", 5)),
        ]  # fmt: skip
        workers = os.cpu_count()
        yield (
            rows,
            [f"lfsfs: --durability fast; giftless 0.6.2 under gunicorn with {workers} workers; {version()}."],
        )


def version() -> str:
    done = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False)
    return done.stderr.strip().removeprefix("nginx version: ")
