"""The mount with S3 behind it, as git-lfs, other machines and damaged bytes meet it. Real daemons on Ceph."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gitlfs.bench import Bench, OnMount, file_in, flip_a_byte, git_environment, oid_of
from gitlfs.lfs_server import LfsServer
from gitlfs.mounted import LFSFS, is_mounted, is_running, lfsfs, within

from .machines import KIB, MIB, Machine, Place, failure, until
from .proxy import Proxy
from .servers import Server, free_port

pytestmark = pytest.mark.mount
TINY_CACHE = ("--cache-size", "4KiB")


@pytest.fixture(scope="module")
def git_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return git_environment(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def lfs_server(tmp_path_factory: pytest.TempPathFactory, git_env: dict[str, str]) -> Iterator[LfsServer]:
    with LfsServer(tmp_path_factory.mktemp("remotes"), git_env) as server:
        yield server


# git-lfs.


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [TINY_CACHE, ("--mode", "s3-only"), ("--mode", "write-through", *TINY_CACHE)],
    ids=["evicted", "s3-only", "write-through"],
)
def test_git_lfs_on_objects_that_are_only_in_the_bucket(
    tmp_path: Path, place: Place, git_env: dict[str, str], lfs_server: LfsServer, options: tuple[str, ...],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    with Machine(tmp_path / "m", place, *options) as machine:
        label = request.node.name.rpartition("[")[2].strip("]")
        bench = Bench(tmp_path, OnMount(machine), git_env, lfs_server, label)
        files = {name: bench.blob(size) for name, size in
                 {"small.bin": 5 * KIB, "d/two.bin": 2 * MIB, "large.bin": 11 * MIB + 1}.items()}  # fmt: skip
        remote = bench.remote()
        ann = bench.init("ann", remote=remote)
        oids = ann.commit(files)
        machine.sync()
        assert machine.local() == set()
        assert place.oids() == set(oids.values())
        ann.git("push", "-q", "-u", "origin", "main")
        assert bench.on_server(remote) == set(oids.values())
        bob = bench.clone(remote, "bob")
        for clone in (ann, bob):
            for name, content in files.items():
                assert clone.read(name) == content
                assert clone.checked_out_afresh(name) == content
            assert clone.status() == ""
            clone.git("lfs", "fsck")
        assert bob.objects() == set(oids.values())
        bob.commit({"small.bin": b"changed" * KIB})
        bob.git("push", "-q")
        ann.git("pull", "-q")
        assert ann.read("small.bin") == b"changed" * KIB


@pytest.mark.slow
def test_a_clone_on_another_machine_needs_the_bucket_only(
    tmp_path: Path, place: Place, git_env: dict[str, str], lfs_server: LfsServer
) -> None:
    """What machine A has committed, git-lfs finds on machine B's mount, and downloads nothing."""
    with Machine(tmp_path / "a", place) as a, Machine(tmp_path / "b", place) as b:
        bench = Bench(tmp_path, OnMount(a), git_env, lfs_server, "another-machine")
        remote = bench.remote()
        ann = bench.init("ann", remote=remote)
        files = {f"{number}.bin": bench.blob(100 * KIB) for number in range(10)}
        ann.commit(files)
        ann.git("push", "-q", "-u", "origin", "main")
        a.sync()
        repository = lfs_server.repository(remote.name)
        repository.objects.clear()
        bob = bench.clone(remote, "bob", storage=OnMount(b))
        assert {name: bob.read(name) for name in files} == files


# Machines.


@pytest.mark.slow
def test_what_one_machine_commits_another_reads_at_once(tmp_path: Path, place: Place) -> None:
    with Machine(tmp_path / "a", place) as a, Machine(tmp_path / "b", place, "--mode", "s3-only") as b:
        for size in (1, 4096, 3 * MIB + 5):
            mine, theirs = os.urandom(size), os.urandom(size)
            assert b.read(a_and_synced(a, mine)) == mine
            assert a.read(b.drop(f"{size}", theirs)) == theirs


def a_and_synced(machine: Machine, content: bytes) -> str:
    oid = machine.drop("file", content)
    machine.sync()
    return oid


@pytest.mark.slow
def test_a_machine_sees_what_came_after_it_had_looked_in_vain(tmp_path: Path, place: Place) -> None:
    content = os.urandom(5000)
    oid = oid_of(content)
    with Machine(tmp_path / "a", place, "--mode", "s3-only") as a, Machine(tmp_path / "b", place) as b:
        assert failure(b.read, oid) == "ENOENT"
        a.drop("file", content)
        until(5, lambda: failure(b.read, oid) == "", "the object is seen")
        assert b.read(oid) == content


@pytest.mark.slow
def test_a_lost_disk_comes_back_from_the_bucket(
    tmp_path: Path, place: Place, git_env: dict[str, str], lfs_server: LfsServer
) -> None:
    contents = {f"d/{number}": os.urandom(number * 300 * KIB) for number in range(8)}
    with Machine(tmp_path / "a", place) as a:
        others = a.drop("of a", b"of a" * MIB)
        a.sync()
    with Machine(tmp_path / "b", place) as b:
        oids = {name: b.drop(name, content) for name, content in contents.items()}
        bench = Bench(tmp_path, OnMount(b), git_env, lfs_server, "lost-disk")
        ann = bench.init("ann")
        files = {"1.bin": bench.blob(MIB)}
        oids |= ann.commit(files)
        b.sync()
        b.stop()
        shutil.rmtree(b.store)
        lfsfs("index", "rebuild", "--store", b.store, "--s3", place.url, "--s3-endpoint", place.endpoint)
        assert b.local() == set()
        b.start()
        for name, content in contents.items():
            assert b.read(oids[name]) == content
            assert (b.path / "incoming" / name).read_bytes() == content
        assert b.read(others) == b"of a" * MIB
        assert ann.objects() == {oids["1.bin"]}
        assert ann.checked_out_afresh("1.bin") == files["1.bin"]
        ann.git("lfs", "fsck")


def test_a_sequential_reader_takes_few_requests(tmp_path: Path, place: Place, proxy: Proxy) -> None:
    """Not one for each block: reading ahead goes in steps of several MiB."""
    content = os.urandom(64 * MIB)
    with Machine(tmp_path / "a", place, "--mode", "s3-only") as a:
        oid = a.drop("file", content)
        before = proxy.counters()["GET"]
        assert a.read(oid) == content
        assert proxy.counters()["GET"] - before <= 20


# Damage.


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 2 * MIB + 7], ids=["first block", "last block"])
def test_one_bit_flipped_in_the_bucket_is_never_served(tmp_path: Path, place: Place, at: int) -> None:
    content = os.urandom(3 * MIB)
    with Machine(tmp_path / "a", place) as a, Machine(tmp_path / "b", place) as b:
        oid = a.drop("file", content)
        a.sync()
        place.flip(oid, at)
        assert failure(b.read, oid) in (
            "EIO",
            "ENOENT",
        )  # found out by the read, or by the kernel's read-ahead
        assert f"object {oid} is damaged in the remote tier" in b.log()
        assert a.read(oid) == content  # from its own disk
        # git-lfs takes it for absent then, and brings it again: that heals the bucket.
        assert not b.object(oid).exists()
        assert b.drop("again", content) == oid
        b.sync()
        assert place.get(oid) == content
        assert b.read(oid) == content


@pytest.mark.parametrize("at", [0, 3 * MIB - 1], ids=["first byte", "last byte"])
def test_one_bit_flipped_in_the_cache_is_healed_from_the_bucket(
    tmp_path: Path, place: Place, at: int
) -> None:
    content = os.urandom(3 * MIB)
    with Machine(tmp_path / "a", place) as a:
        oid = a.drop("file", content)
        a.sync()
        a.stop()
        file = file_in(a.store / "objects", oid)
        flip_a_byte(file, at)
        a.start()
        assert a.read(oid) == content
        assert f"object {oid}: the local copy is damaged" in a.log()
        until(5, lambda: file.exists() and file.read_bytes() == content, "the local copy is healed")
        assert a.read(oid) == content


# What a person has to mend is said when the mount is made.


def refusal(tmp_path: Path, place: Place, *options: str) -> str:
    """What `lfsfs mount` says, which must fail and leave nothing mounted."""
    command = [LFSFS, "mount", tmp_path / "store", tmp_path / "mnt", "--s3", place.url]
    done = subprocess.run(
        [*command, "--s3-endpoint", place.endpoint, *options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    try:
        assert not is_mounted(tmp_path / "mnt")
    except AssertionError:
        lfsfs("unmount", tmp_path / "mnt")
        raise
    assert done.returncode != 0, done
    return done.stderr


def test_a_wrong_secret_is_said_at_the_mount(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "check AWS_SECRET_ACCESS_KEY" in refusal(tmp_path, place)


def test_an_unknown_access_key_is_said_at_the_mount(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "set AWS_ACCESS_KEY_ID" in refusal(tmp_path, place)


def test_a_missing_bucket_is_said_at_the_mount(tmp_path: Path, place: Place) -> None:
    missing = replace(place, server=replace(place.server, bucket="no-such-bucket"))
    assert "there is no such bucket: make it" in refusal(tmp_path, missing)


def test_https_where_the_server_speaks_http_is_said_at_the_mount(
    tmp_path: Path, place: Place, rgw_server: Server
) -> None:
    https = replace(place, endpoint=rgw_server.endpoint.replace("http:", "https:"))
    assert "http://" in refusal(tmp_path, https)


def test_http_where_the_server_speaks_tls_is_said_at_the_mount(
    tmp_path: Path, place: Place, tls_proxy: Proxy
) -> None:
    http = replace(place, endpoint=tls_proxy.endpoint.replace("https:", "http:"))
    assert "speaks TLS: give the endpoint as https://" in refusal(tmp_path, http)


def test_a_bucket_that_may_only_be_read_is_said_at_the_mount(
    tmp_path: Path, place: Place, reader: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", reader.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", reader.secret_access_key)
    said = refusal(tmp_path, place)
    assert "--read-only" in said
    with Machine(tmp_path, place, "--read-only") as machine:
        assert failure(machine.drop, "file", b"content") == "EROFS"


def test_a_server_that_does_not_answer_is_no_reason_not_to_mount(tmp_path: Path, place: Place) -> None:
    away = replace(place, endpoint=f"http://127.0.0.1:{free_port()}")
    with Machine(tmp_path / "a", away, cache='deadline = "1s"') as machine:
        oid = machine.drop("file", b"content")
        assert machine.read(oid) == b"content"
        assert machine.remote()["pending_objects"] == 1
        until(20, lambda: machine.remote()["degraded"], "the status says so")


@pytest.mark.slow
def test_a_daemon_whose_index_takes_nothing_serves_on(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Machine(tmp_path / "a", place) as a:
        a.drop("f", b"content")
        os.kill(a.pid, signal.SIGKILL)  # before it is uploaded and told the type of
        assert within(10, lambda pid=a.pid: not is_running(pid))  # type: ignore[misc]
        with monkeypatch.context() as patched:
            patched.setenv("LFSFS_FAULT", "fail:commit-index")
            a.start()
        time.sleep(3)
        assert (a.path / "incoming/f").read_bytes() == b"content"
