"""An encrypted bucket as people have it: real mounts, real commands, and the bucket looked at from the side."""

from collections.abc import Iterator
from pathlib import Path

import forking
import numpy as np
import pytest
from gitlfs.bench import Bench, OnMount, git_environment
from gitlfs.lfs_server import LfsServer
from gitlfs.mounted import is_mounted, lfsfs

from .machines import KIB, MIB, Machine, Place
from .servers import Server

pytestmark = pytest.mark.mount
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
    """All keys of the place, and what lies there."""
    with place.server.client() as client:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=place.server.bucket, Prefix=f"{place.prefix}/"
        )
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {
            key.removeprefix(f"{place.prefix}/"): client.get_object(Bucket=place.server.bucket, Key=key)[
                "Body"
            ].read()
            for key in keys
        }


def refusal(*arguments: str | Path) -> str:
    """What the command says that fails because of its configuration."""
    status, out, err = forking.run("forking:command", *map(str, arguments), seconds=60)
    assert status == 2, f"exit {status}\n{out}{err}"
    return out + err


def secrets(size: int) -> bytes:
    return (SECRET * (size // len(SECRET) + 1))[:size]


def test_who_has_only_the_bucket_learns_nothing_and_who_has_the_key_reads(
    tmp_path: Path, place: Place
) -> None:
    options = (key(tmp_path), "--object-names", "hashed")
    with Machine(tmp_path / "a", place, *options) as one:
        small = one.drop(f"{NAME}.txt", secrets(900))
        large = one.drop("large.bin", secrets(6 * MIB + 7))
        vector = np.arange(600, dtype="<f4")
        (one.path / "embeddings" / "default").mkdir(exist_ok=True)
        np.savez(one.path / "embeddings" / "default" / f"{'ab' * 32}.npz", vector=vector)
        (one.path / "repos" / "vault-repository").mkdir()
        one.sync()
    found = contents(place)
    assert len([name for name in found if "/objects/" in name]) == 3, sorted(found)
    telling = [
        SECRET,
        NAME.encode(),
        b"vault-repository",
        b"lfsfs-vectors",
        b"lfsfs-digests",
        vector.tobytes()[:64],
    ]
    telling += [bytes.fromhex(oid) for oid in (small, large)] + [small.encode(), large.encode()]
    for name, content in found.items():
        assert name == "bucket.json" or name.startswith("sealed/"), name
        assert not [text for text in telling if text in content or text in name.encode()], name
    with Machine(tmp_path / "b", place, key(tmp_path)) as other:
        assert other.read(large) == secrets(6 * MIB + 7)
        assert other.read(small) == secrets(900)
        with other.object(large).open("rb") as file:
            file.seek(3 * MIB + 5)
            assert file.read(100) == secrets(6 * MIB + 7)[3 * MIB + 5 :][:100]


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
