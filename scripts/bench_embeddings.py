"""The group embeddings of scripts/bench: vectors in the store, beside what a pipeline does without it.

The plain way, a reference of its own here: each vector a compressed npz file in a git work tree, `git lfs track` and one
`git add` for the batch. It is measured on fewer vectors, and told per vector: it is linear in their number, but for the
start of two commands, which counts in its favour when it is spread over more.
"""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from bare_fuse import bare_in_c, has_compiler
from bench import Row

import lfsfs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the servers are those of the tests
from tests.s3 import servers
from tests.s3.proxy import Proxy

LFSFS = Path(sys.executable).with_name("lfsfs")
DIMENSIONS = 384
COUNT = 100_000
MILLION = 1_000_000
PLAIN_COUNT = 2_000
READ_COUNT = 2_000
PUT_COUNT = 500
FILES = 1_000
FIRST_MATRIX = """
import sys, time, lfsfs, numpy
with lfsfs.connect(sys.argv[1], read_only=True) as client:
    next(iter(client.embeddings.iter()))  # opens it
    numpy.ones(60_000_000)
    begun = time.perf_counter()
    client.embeddings.matrix()
    print(time.perf_counter() - begun)
"""
FIRST_LOAD = """
import sys, time, numpy
numpy.ones(60_000_000)
begun = time.perf_counter()
numpy.load(sys.argv[1])
print(time.perf_counter() - begun)
"""
# In both, memory is taken and given back first: a virtual machine may have to ask its host for it, which takes ten
# times as long as to read the array, and hits whoever comes first.
MIB = 1 << 20
Batch = tuple[list[str], "np.ndarray[Any, np.dtype[np.float32]]"]


class Bench:
    """A folder, vectors, and a store with a million of them that is made when it is first wanted."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self._numbers = itertools.count(1)

    def fresh(self, what: str) -> Path:
        return self.folder / f"{what}-{next(self._numbers)}"

    def batch(self, count: int = COUNT) -> Batch:
        """Unit vectors that nobody has seen yet, and content hashes."""
        number = next(self._numbers)
        matrix = np.random.default_rng(number).standard_normal((count, DIMENSIONS), dtype=np.float32)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        return [hashlib.sha256(b"%d %d" % (number, at)).hexdigest() for at in range(count)], matrix

    @cached_property
    def hundred_thousand(self) -> lfsfs.Client:
        """An open store with COUNT vectors."""
        client = self.stack.enter_context(lfsfs.connect(self.hundred_thousand_path, create=True))
        client.embeddings.write_embeddings_batch(self.batch())
        return client

    @cached_property
    def hundred_thousand_path(self) -> Path:
        return self.fresh("store")

    @cached_property
    def million(self) -> Path:
        """A store with a million vectors that came in ten batches, after the vacuum that the daemon would do."""
        path = self.folder / "million"
        with lfsfs.connect(path, create=True) as client:
            for _ in range(MILLION // COUNT):
                client.embeddings.write_embeddings_batch(self.batch())
            client.embeddings.vacuum()
        return path

    @cached_property
    def mounted(self) -> Path:
        """A mount of that store."""
        return self.stack.enter_context(mounted(self.million, self.folder / "million.mnt"))


@contextmanager
def mounted(store: Path, mountpoint: Path, *options: str) -> Iterator[Path]:
    run(LFSFS, "mount", store, mountpoint, *options)
    try:
        yield mountpoint
    finally:
        run(LFSFS, "unmount", mountpoint)


def run(*command: str | Path, where: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=where, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")


def timed(call: Callable[..., Any], *arguments: Any) -> float:
    begun = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begun


# Beside the plain way.


class Plain:
    """A git work tree, with a compressed npz file for each vector."""

    def __init__(self, path: Path) -> None:
        self.path = path
        run("git", "init", "-q", path)
        run("git", "lfs", "install", "--local", where=path)

    def write(self, batch: Batch) -> None:
        for content_hash, vector in zip(*batch, strict=True):
            dtype, shape = str(vector.dtype), vector.shape
            np.savez_compressed(self.path / f"{content_hash}.npz", vector=vector, dtype=dtype, shape=shape)
        run("git", "lfs", "track", "*.npz", where=self.path)
        run("git", "add", ".", where=self.path)

    def read(self, hashes: list[str]) -> dict[str, Any]:
        found = {}
        for content_hash in hashes:
            with np.load(self.path / f"{content_hash}.npz") as file:
                found[content_hash] = file["vector"]
        return found


def batch_write(bench: Bench) -> Row:
    def ours(number: int) -> float:
        return COUNT / written(bench, bench.batch())

    def theirs(number: int) -> float:
        plain, batch = Plain(bench.fresh("plain")), bench.batch(PLAIN_COUNT)
        seconds = timed(plain.write, batch)
        shutil.rmtree(plain.path)
        return PLAIN_COUNT / seconds

    other = f"npz each, track, add (of {PLAIN_COUNT:,})"
    return Row(f"batch write, {COUNT:,} x {DIMENSIONS}", "vectors/s", ours, theirs, other, (">=", 50))


def written(bench: Bench, batch: Batch) -> float:
    """The seconds until a new store has the batch, durably."""
    path = bench.fresh("store")
    with lfsfs.connect(path, create=True) as client:
        seconds = timed(client.embeddings.write_embeddings_batch, batch)
        if len(client.embeddings) != len(batch[0]):
            raise SystemExit("a batch was not stored")
    shutil.rmtree(path)
    return seconds


def batch_read(bench: Bench) -> Row:
    found: list[tuple[Plain, list[str]]] = []

    def ours(number: int) -> float:
        embeddings = bench.hundred_thousand.embeddings
        hashes = list(embeddings.iter())
        return COUNT / timed(embeddings.read_embeddings_batch, hashes)

    def theirs(number: int) -> float:
        if not found:
            found.append((Plain(bench.fresh("plain")), (batch := bench.batch(READ_COUNT))[0]))
            found[0][0].write(batch)
        plain, hashes = found[0]
        return READ_COUNT / timed(plain.read, hashes)

    other = f"np.load each (of {READ_COUNT:,})"
    return Row(f"batch read, {COUNT:,} x {DIMENSIONS}", "vectors/s", ours, theirs, other, (">=", 20))


def requests(bench: Bench, proxy: Proxy, server: servers.Server) -> Row:
    """Counted on the way between the client and the server."""

    def ours(number: int) -> float:
        store, before = bench.fresh("s3"), proxy.counters()["requests"]
        options = ("--s3", f"s3://{server.bucket}/{store.name}", "--s3-endpoint", proxy.endpoint)
        with mounted(store, bench.fresh("mnt"), *options):
            with lfsfs.connect(store) as client:
                client.embeddings.write_embeddings_batch(bench.batch())
            run(LFSFS, "sync", "--wait", "--store", store)
        shutil.rmtree(store)
        return COUNT / (proxy.counters()["requests"] - before)

    def theirs(number: int) -> float:
        before, folder = proxy.counters()["requests"], f"plain-{number}"
        with server.client() as client:
            for content_hash, vector in zip(*bench.batch(PUT_COUNT), strict=True):
                client.put_object(Bucket=server.bucket, Key=f"{folder}/{content_hash}", Body=vector.tobytes())
        return PUT_COUNT / (proxy.counters()["requests"] - before)

    other = f"a PUT each (of {PUT_COUNT:,})"
    name = "S3: mount, batch write, sync"
    return Row(name, "vectors/request", ours, theirs, other, (">=", 1000), rounds=1)


# Beside what is bare.


def beside_lmdb(bench: Bench) -> Row:
    def ours(number: int) -> float:
        return COUNT / written(bench, bench.batch())

    def theirs(number: int) -> float:
        path, (hashes, matrix) = bench.fresh("lmdb"), bench.batch()

        def put() -> None:
            rows = zip(map(bytes.fromhex, hashes), map(np.ndarray.tobytes, matrix), strict=True)
            with environment.begin(write=True) as transaction:
                transaction.cursor().putmulti(sorted(rows))

        with lmdb.open(str(path), map_size=4 << 30) as environment:
            seconds = timed(put)
        shutil.rmtree(path)
        return COUNT / seconds

    name = f"batch write, {COUNT:,} x {DIMENSIONS}, durable"
    return Row(name, "vectors/s", ours, theirs, "LMDB putmulti, sorted", (">=", 0.3))


def matrices(bench: Bench) -> list[Row]:
    """Of a process that has compared all blocks with their digests a moment ago, and of one that has just begun."""
    file = bench.folder / "matrix.npy"
    size = COUNT * DIMENSIONS * 4 / MIB

    def again(number: int) -> float:
        return size / timed(bench.hundred_thousand.embeddings.matrix)

    def load(number: int) -> float:
        return size / timed(np.load, saved())

    def first(number: int) -> float:
        assert bench.hundred_thousand
        return size / said(FIRST_MATRIX, bench.hundred_thousand_path)

    def first_load(number: int) -> float:
        return size / said(FIRST_LOAD, saved())

    def saved() -> Path:
        if not file.exists():
            np.save(file, bench.hundred_thousand.embeddings.matrix()[1])
        return file

    def said(program: str, path: Path) -> float:
        return float(subprocess.check_output([sys.executable, "-c", program, path], text=True))

    name, other, bar = f"matrix(), {COUNT:,} x {DIMENSIONS}", "np.load of one .npy", (">=", 0.5)
    return [
        Row(f"{name}, again", "MiB/s", again, load, other, bar),
        Row(f"{name}, the first of a process", "MiB/s", first, first_load, other, bar),
    ]


class OneFile:
    """A number of files, one after another, each side read before."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._copies = bench.fresh("native")
        self._bare = bench.fresh("bare")
        self._awake = bench.fresh("awake")

    def rows(self) -> list[Row]:
        name, unit = "np.load of one file of the mount, warm", "µs"
        return [
            Row(name, unit, self.ours, self.native, "the file on the disk", ("<", 1.5)),
            *self._rows_of_bare(name, unit),
        ]

    def _rows_of_bare(self, name: str, unit: str) -> list[Row]:
        """What of it is the kernel's: with a process that is woken for each request, and with one that takes a core."""
        if not has_compiler():
            return []
        bare = "a FUSE file system in C that does nothing"
        return [
            Row(name, unit, self.ours, self.bare, f"in {bare}"),
            Row(f"np.load of one file in {bare}, warm", unit, self.bare, self.native, "the file on the disk"),
            Row(
                f"np.load of one file in {bare} and never sleeps",
                unit,
                self.awake,
                self.native,
                "the file on the disk",
            ),
        ]

    @cached_property
    def names(self) -> list[str]:
        with lfsfs.connect(self._bench.million, read_only=True) as client:
            return [f"{text}.npz" for text in itertools.islice(client.embeddings.iter(), FILES)]

    @cached_property
    def folder(self) -> Path:
        """Of the mount; copies lie beside."""
        folder = self._bench.mounted / "embeddings" / "default"
        self._copies.mkdir()
        for name in self.names:
            shutil.copyfile(folder / name, self._copies / name)
        if has_compiler():
            self._bench.stack.enter_context(bare_in_c(self._bare, self._copies / self.names[0]))
        return folder

    def ours(self, number: int) -> float:
        return self._load(self.folder)

    def native(self, number: int) -> float:
        return self._load(self.folder and self._copies)

    def bare(self, number: int) -> float:
        return self._load(self.folder and self._bare)

    def awake(self, number: int) -> float:
        native = self.folder and self._copies
        with bare_in_c(self._awake, native / self.names[0], awake=True):
            return self._load(self._awake)

    def _load(self, folder: Path) -> float:
        def load() -> None:
            for name in self.names:
                with np.load(folder / name) as file:
                    file["vector"]

        load()
        return 1e6 * timed(load) / len(self.names)


# A million.


def disk(bench: Bench) -> Row:
    def ours(number: int) -> float:
        used = sum(os.lstat(path).st_blocks * 512 for path in bench.million.rglob("*"))
        return used / MIB

    def theirs(number: int) -> float:
        return MILLION * DIMENSIONS * 4 / MIB

    name, other = "a million vectors: all of the store", "their numbers alone"
    return Row(name, "MiB", ours, theirs, other, ("<", 1.15), rounds=1)


def mounting(bench: Bench) -> Row:
    empty = bench.fresh("empty")

    def mount(store: Path) -> float:
        mountpoint = bench.fresh("mnt")
        begun = time.perf_counter()
        with mounted(store, mountpoint):
            (mountpoint / "embeddings").stat()
            return time.perf_counter() - begun

    return Row(
        "a million vectors: lfsfs mount", "s", lambda _: mount(bench.million), lambda _: mount(empty),
        "of an empty store", most=1,
    )  # fmt: skip


def first_row(bench: Bench) -> Row:
    """Each time of a mount that has not read it yet."""
    native = bench.folder / "million.npy"

    def first(path: Path) -> float:
        return 1000 * timed(lambda: np.load(path, mmap_mode="r")[0].copy())

    def ours(number: int) -> float:
        with mounted(bench.million, bench.fresh("mnt")) as mountpoint:
            folder = mountpoint / "embeddings" / "default"
            folder.stat()
            return first(folder / "_matrix.npy")

    def theirs(number: int) -> float:
        if not native.exists():
            made = np.lib.format.open_memmap(native, "w+", np.float32, (MILLION, DIMENSIONS))
            made[0] = 1
            made.flush()
        return first(native)

    return Row(
        "a million vectors: mmap _matrix.npy, first row", "ms", ours, theirs, "a native .npy of that shape",
        most=50,
    )  # fmt: skip


def memory(bench: Bench) -> Row:
    """The daemon's peak: after all names were listed, all of the matrix and many files read."""

    def peak(store: Path, use: Callable[[Path], None]) -> float:
        with mounted(store, bench.fresh("mnt")) as mountpoint:
            use(mountpoint / "embeddings")
            pid = json.loads((mountpoint / ".lfsfs" / "status").read_text())["pid"]
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def use(root: Path) -> None:
        folder = root / "default"
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
        if len(names) != MILLION + 2:
            raise SystemExit(f"{folder} has {len(names)} entries")
        with (folder / "_matrix.npy").open("rb", buffering=0) as file:
            while file.read(MIB):
                pass
        for name in names[:: MILLION // FILES]:
            (folder / name).stat()

    empty = bench.fresh("empty")
    return Row(
        "a million vectors: the daemon's memory", "MiB", lambda _: peak(bench.million, use),
        lambda _: peak(empty, lambda root: None), "of an empty store", most=1024, rounds=1,
    )  # fmt: skip


# The group.


@contextmanager
def group(folder: Path) -> Iterator[tuple[list[Row], list[str]]]:
    with ExitStack() as stack:
        server = stack.enter_context(servers.moto(folder / "moto.log"))
        proxy = stack.enter_context(Proxy(server.port))
        os.environ.update(
            AWS_ACCESS_KEY_ID=server.access_key_id, AWS_SECRET_ACCESS_KEY=server.secret_access_key
        )
        bench = Bench(folder, stack)
        through = replace(server, endpoint=proxy.endpoint)
        rows = [
            batch_write(bench), batch_read(bench), requests(bench, proxy, through),
            beside_lmdb(bench), *matrices(bench),
            disk(bench), mounting(bench), first_row(bench), memory(bench), *OneFile(bench).rows(),
        ]  # fmt: skip
        yield rows, notes()


def notes() -> list[str]:
    return [
        f"numpy {np.__version__}, py-lmdb {lmdb.__version__}; durability sync. S3 is moto's server,"
        " and its requests are counted by a proxy before it."
    ]
