"""An encrypted bucket as people have it: real mounts, real commands, and the bucket looked at from the side."""

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import forking
import numpy as np
import pytest
from gitlfs.bench import Bench, OnMount, git_environment
from gitlfs.lfs_server import LfsServer
from gitlfs.mounted import is_mounted, lfsfs

from .machines import KIB, MIB, Machine, Place, failure, until
from .servers import Server
from .stores import on_disk

pytestmark = [pytest.mark.mount, pytest.mark.slow]
SECRET = b"the secret recipe of the house. "
NAME = "plan-of-the-vault"


@pytest.fixture
def place(moto_server: Server, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.secret_access_key)
    return Place(moto_server, moto_server.endpoint, moto_server.options().url.prefix.replace(" ", "-"))


def key(folder: Path, name: str = "master") -> str:
    """The option for a master key in a file, which is made if it is not there."""
    file = folder / f"{name}.key"
    if not file.exists():
        lfsfs("key", "new", file)
    return f"--encryption-key=file:{file}"


def contents(place: Place) -> dict[str, bytes]:
    """All keys of the place, and what lies there. What a machine deletes meanwhile is left out."""
    found: dict[str, bytes] = {}
    with place.server.client() as client:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=place.server.bucket, Prefix=f"{place.prefix}/"
        )
        for key in [item["Key"] for page in pages for item in page.get("Contents", [])]:
            try:
                body = client.get_object(Bucket=place.server.bucket, Key=key)["Body"].read()
            except client.exceptions.NoSuchKey:
                continue
            found[key.removeprefix(f"{place.prefix}/")] = body
    return found


def refusal(*arguments: str | Path) -> str:
    """What the command says that fails because of its configuration."""
    status, out, err = forking.run("forking:command", *map(str, arguments), seconds=60)
    assert status == 2, f"exit {status}\n{out}{err}"
    return out + err


def secrets(size: int) -> bytes:
    return (SECRET * (size // len(SECRET) + 1))[:size]


@pytest.mark.promise("16.1")
def test_who_has_only_the_bucket_learns_nothing_and_who_has_the_key_reads(
    tmp_path: Path, place: Place
) -> None:
    random = os.urandom(6 * MIB + 7)
    options = (key(tmp_path), "--object-names", "hashed", "--compression", "zstd")
    with Machine(tmp_path / "a", place, *options) as one:
        small = one.drop(f"{NAME}.txt", secrets(900))
        large = one.drop("large.bin", secrets(6 * MIB + 7))
        parts = one.drop("parts.bin", random)
        vector = np.arange(600, dtype="<f4")
        (one.path / "embeddings" / "default").mkdir(exist_ok=True)
        np.savez(one.path / "embeddings" / "default" / f"{'ab' * 32}.npz", vector=vector)
        (one.path / "repos" / "vault-repository").mkdir()
        one.sync()
    found = contents(place)
    assert len([name for name in found if "/objects/" in name]) == 4, "three, and a pack of vectors"
    assert sum(map(len, found.values())) < 8 * MIB, "what shrinks is compressed"
    telling = [
        SECRET,
        NAME.encode(),
        b"vault-repository",
        b"lfsfs-vectors",
        b"lfsfs-digests",
        vector.tobytes()[:64],
    ]
    telling += [bytes.fromhex(oid) for oid in (small, large, parts)]
    telling += [small.encode(), large.encode(), parts.encode()]
    for name, content in found.items():
        assert name == "bucket.json" or name.startswith("sealed/"), name
        assert not [text for text in telling if text in content or text in name.encode()], name
    with Machine(tmp_path / "b", place, key(tmp_path)) as other:
        assert other.read(large) == secrets(6 * MIB + 7)
        assert other.read(small) == secrets(900)
        assert other.read(parts) == random
        with other.object(large).open("rb") as file:
            file.seek(3 * MIB + 5)
            assert file.read(100) == secrets(6 * MIB + 7)[3 * MIB + 5 :][:100]


@pytest.mark.promise("16.2")
def test_without_the_key_or_with_another_one_a_mount_refuses_at_its_start(
    tmp_path: Path, place: Place
) -> None:
    with Machine(tmp_path / "a", place, key(tmp_path)) as one:
        one.drop("a.txt", b"a")
        one.sync()
    store, mountpoint = tmp_path / "b" / "store", tmp_path / "b" / "mnt"
    mountpoint.mkdir(parents=True)
    remote = ("--s3", place.url, "--s3-endpoint", place.endpoint)
    assert "encrypted" in refusal("mount", store, mountpoint, *remote)
    assert "master key" in refusal("mount", store, mountpoint, *remote, key(tmp_path, "another"))
    missing = f"--encryption-key=file:{tmp_path / 'missing'}"
    assert str(tmp_path / "missing") in refusal("mount", store, mountpoint, *remote, missing)
    assert not is_mounted(mountpoint)
    assert all(name == "bucket.json" or name.startswith("sealed/") for name in contents(place))


@pytest.fixture
def git_env(tmp_path: Path) -> dict[str, str]:
    return git_environment(tmp_path / "home")


@pytest.fixture
def lfs_server(tmp_path: Path, git_env: dict[str, str]) -> Iterator[LfsServer]:
    with LfsServer(tmp_path / "remotes", git_env) as server:
        yield server


@pytest.mark.promise("16.1")
def test_git_lfs_works_on_objects_that_are_only_in_an_encrypted_bucket(
    tmp_path: Path, place: Place, git_env: dict[str, str], lfs_server: LfsServer
) -> None:
    with Machine(tmp_path / "m", place, key(tmp_path), "--cache-size", "4KiB") as machine:
        bench = Bench(tmp_path, OnMount(machine), git_env, lfs_server, "encrypted")
        files = {name: bench.blob(size) for name, size in {"s.bin": 5 * KIB, "d/l.bin": 2 * MIB + 1}.items()}
        ann = bench.init("ann", remote=bench.remote())
        oids = ann.commit(files)
        machine.sync()
        assert machine.local() == set()
        ann.git("push", "-q", "-u", "origin", "main")
        ann.git("lfs", "fsck")
        for name, content in files.items():
            assert ann.checked_out_afresh(name) == content
        assert place.oids() == set(), "nothing plain"
        assert oids


@pytest.mark.promise("16.4")
def test_a_bucket_that_was_plain_is_encrypted_in_its_place_beside_its_mount(
    tmp_path: Path, place: Place
) -> None:
    with Machine(tmp_path / "m", place) as machine:
        old = [machine.drop(f"{number}.txt", secrets(1000 * number)) for number in range(1, 5)]
        old.append(machine.drop("large.bin", secrets(6 * MIB)))
        machine.sync()
        assert place.oids() == set(old)
    machine.start(key(tmp_path), "--cache-size", "4KiB")
    try:
        new = machine.drop("new.txt", secrets(123))
        machine.sync()
        assert place.oids() == set(old), "what is new is sealed, what was there is as it was"
        assert machine.read(old[-1]) == secrets(6 * MIB)
        assert "encrypted: 5 objects" in lfsfs("encrypt", "--store", machine.store)
        assert "encrypted: 0 objects" in lfsfs("encrypt", "--store", machine.store)
        assert [machine.read(oid) for oid in (new, *old[:4])] == [
            secrets(123), *[secrets(1000 * number) for number in range(1, 5)]
        ]  # fmt: skip
        machine.drop("newer.txt", b"newer")
        machine.sync()
        shown = json.loads(lfsfs("key", "show", "--json", "--store", machine.store))
        assert shown["mixed"] is False
    finally:
        machine.stop()
    assert all(name == "bucket.json" or name.startswith("sealed/") for name in contents(place))


@pytest.mark.promise("8.1")
def test_a_bucket_that_is_encrypted_takes_no_more_of_the_disk_meanwhile_than_may_wait(
    tmp_path: Path, place: Place
) -> None:
    bounds = ("--cache-size", "4KiB", "--pending-size", "8MiB")
    with Machine(tmp_path / "m", place, *bounds) as machine:
        for number in range(6):
            machine.drop(f"{number}.bin", os.urandom(3 * MIB))
        machine.sync()
    lfsfs("mount", machine.store, machine.path, key(tmp_path))
    ended, sizes = Event(), [0]

    def watch() -> None:
        while not ended.wait(0.001):
            sizes.append(on_disk(machine.store / "staging"))

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            assert "encrypted: 6 objects" in lfsfs("encrypt", "--store", machine.store)
        finally:
            ended.set()
            machine.stop()
        watching.result()
    assert 3 * MIB <= max(sizes) <= 8 * MIB


@pytest.mark.promise("16.5")
def test_a_master_key_is_changed_without_an_object_written_anew(tmp_path: Path, place: Place) -> None:
    with Machine(tmp_path / "a", place, key(tmp_path, "old")) as machine:
        oid = machine.drop("a.txt", secrets(5000))
        machine.sync()
    before = contents(place)
    new = key(tmp_path, "new").partition("=")[2]
    lfsfs("key", "rotate", "--to", new, "--store", machine.store)
    after = contents(place)
    assert {name for name in after if after[name] != before.get(name)} <= {"bucket.json"}
    assert before["bucket.json"] != after["bucket.json"]
    (tmp_path / "old.key").unlink()
    with Machine(tmp_path / "b", place, key(tmp_path, "new")) as other:
        assert other.read(oid) == secrets(5000)
    lfsfs("mount", machine.store, machine.path)  # remembers the new one
    try:
        lfsfs("key", "rotate", "--add", "--store", machine.store)
        later = machine.drop("b.txt", b"later")
        machine.sync()
    finally:
        machine.stop()
    with Machine(tmp_path / "c", place, key(tmp_path, "new")) as third:
        assert third.read(later) == b"later"
        assert third.read(oid) == secrets(5000)


@pytest.mark.promise("16.6")
def test_a_machine_whose_disk_is_lost_comes_back_with_the_key(tmp_path: Path, place: Place) -> None:
    with Machine(tmp_path / "m", place, key(tmp_path), "--object-names", "hashed") as machine:
        machine.drop(f"{NAME}.txt", secrets(5000))
        machine.sync()
    shutil.rmtree(machine.store)
    remote = ("--s3", place.url, "--s3-endpoint", place.endpoint)
    assert "encrypted" in refusal("index", "rebuild", "--store", machine.store, *remote)
    lfsfs("index", "rebuild", "--store", machine.store, *remote, key(tmp_path))
    lfsfs("mount", machine.store, machine.path)
    try:
        assert (machine.path / "incoming" / f"{NAME}.txt").read_bytes() == secrets(5000)
    finally:
        machine.stop()


def test_what_rots_in_an_encrypted_bucket_is_not_served_and_heals_from_who_has_it(
    tmp_path: Path, place: Place
) -> None:
    with Machine(tmp_path / "a", place, key(tmp_path)) as one:
        oid = one.drop("a.bin", secrets(3 * MIB))
        one.sync()
        name = f"{place.prefix}/sealed/objects/{oid[:2]}/{oid[2:4]}/{oid}"
        whole = contents(place)[name.removeprefix(f"{place.prefix}/")]
        damaged = whole[: 2 * MIB] + bytes([whole[2 * MIB] ^ 1]) + whole[2 * MIB + 1 :]
        with place.server.client() as client:
            client.put_object(Bucket=place.server.bucket, Key=name, Body=damaged)
        with Machine(tmp_path / "b", place, key(tmp_path)) as other:
            assert failure(other.read, oid) in ("EIO", "ENOENT")
            other.sync()  # which tells the others
        lfsfs("sync", "--store", one.store)  # has it look at once
        short = name.removeprefix(f"{place.prefix}/")
        until(60, lambda: contents(place).get(short) not in (None, damaged), "it is sent again")
    with Machine(tmp_path / "c", place, key(tmp_path)) as third:
        assert third.read(oid) == secrets(3 * MIB)
