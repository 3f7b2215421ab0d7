"""Options that no other test gives on a command line: each with what it does."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from s3.servers import Server, moto
from server.served import Served, oid_of

import lfsfs
from commands.elsewhere import LFSFS
from lfsfs.cli.main import main

pytestmark = pytest.mark.timeout(120)
LIMITS = ("--max-object-size", "1KiB", "--max-objects", "3", "--max-names", "2", "--max-path-length", "40",
          "--max-open-uploads", "5", "--keep-free", "1MiB", "--scrub-rate", "off")  # fmt: skip


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


def said(*arguments: str | Path, status: int = 0, **variables: str) -> str:
    """What a command prints; where it is to fail, what it says of that."""
    done = subprocess.run(
        [LFSFS, *arguments], capture_output=True, text=True, timeout=60, env=os.environ | variables
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.mark.mount
def test_a_mount_refuses_what_is_too_much(tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    said("mount", tmp_path / "store", mountpoint, *LIMITS)
    try:
        incoming = mountpoint / "incoming"
        (incoming / "a").write_bytes(b"a")
        with pytest.raises(OSError, match="File too large"):
            (incoming / "large").write_bytes(b"x" * 2000)
        with pytest.raises(OSError, match="File name too long"):
            (incoming / ("n" * 41)).write_bytes(b"b")
        (incoming / "b").write_bytes(b"b")
        with pytest.raises(OSError, match="No space left"):
            (incoming / "c").write_bytes(b"c")
    finally:
        said("unmount", mountpoint)


@pytest.mark.mount
@pytest.mark.parametrize("allowed", ["refuse", "allow"])
def test_objects_of_the_shared_root_go_to_the_trash_only_where_that_is_allowed(
    tmp_path: Path, allowed: str
) -> None:
    store, mountpoint = tmp_path / "store", tmp_path / "mnt"
    (tmp_path / "f").write_bytes(b"to be deleted")
    said("mount", store, mountpoint, "--delete", allowed)
    try:
        said("put", tmp_path / "f", "--store", store)
        oid = oid_of(b"to be deleted")
        file = mountpoint / "objects" / oid[:2] / oid[2:4] / oid
        if allowed == "refuse":
            with pytest.raises(PermissionError):
                file.unlink()
        else:
            file.unlink()
        assert file.exists() == (allowed == "refuse")
    finally:
        said("unmount", mountpoint)
    assert said("trash", "--store", store).startswith(oid) == (allowed == "allow")


@pytest.mark.mount
def test_a_mount_whose_bucket_does_not_answer_says_so(tmp_path: Path) -> None:
    mountpoint, nobody = tmp_path / "mnt", ("--s3-endpoint", "http://127.0.0.1:9")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    mounted = subprocess.run(
        [LFSFS, "mount", tmp_path / "store", mountpoint, "--s3", "s3://bucket/p", *nobody],
        capture_output=True, text=True, timeout=60, env=os.environ | keys,
    )  # fmt: skip
    said("unmount", mountpoint)
    assert mounted.returncode == 0, "what is local works without it"
    assert "s3://bucket/p does not answer: what is written waits on the local disk" in mounted.stderr


@pytest.mark.mount
def test_nothing_in_a_mount_with_noexec_is_executed(tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    said("mount", tmp_path / "store", mountpoint, "--noexec")
    try:
        script = mountpoint / "incoming" / "script"
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
        with pytest.raises(PermissionError):
            subprocess.run([script], check=True)
    finally:
        said("unmount", mountpoint)


def test_a_server_refuses_what_is_too_much(tmp_path: Path) -> None:
    with Served(tmp_path, *LIMITS, "--durability", "fast") as server:
        api = server.api()
        answer = requests.put(f"{api.url}/objects/{oid_of(b'x' * 2000)}", b"x" * 2000, timeout=30)
        assert answer.status_code == 413
        for content in (b"1", b"2", b"3"):
            api.put(content)
        answer = requests.put(f"{api.url}/objects/{oid_of(b'4')}", b"4", timeout=30)
        assert answer.status_code == 507


@pytest.mark.slow
def test_a_server_with_an_encrypted_bucket_and_a_machine_that_takes_its_place(
    tmp_path: Path, bucket: Server
) -> None:
    said("key", "new", tmp_path / "key")
    keys = {"AWS_ACCESS_KEY_ID": bucket.access_key_id, "AWS_SECRET_ACCESS_KEY": bucket.secret_access_key}
    place = ("--s3", f"s3://{bucket.bucket}/options", "--s3-endpoint", bucket.endpoint,
             "--encryption-key", f"file:{tmp_path / 'key'}")  # fmt: skip
    store = tmp_path / "store"
    os.environ.update(keys)
    try:
        with Served(tmp_path, *place, "--object-names", "hashed", "--compression", "zstd", "--mode", "write-through",
                    "--cache-size", "64MiB", "--pending-size", "32MiB") as server:  # fmt: skip
            oid = server.api().put(b"the same again and again " * 4000)
            with bucket.client() as client:
                listed = client.list_objects_v2(Bucket=bucket.bucket, Prefix="options/")["Contents"]
            assert listed and not any(oid in entry["Key"] for entry in listed), "names tell nothing"
            shown = json.loads(said("key", "show", "--json", "--store", store))
            assert (shown["names"], shown["compressed"]) == ("hashed", True)
            remote = json.loads(said("status", "--json", "--store", store))["remote"]
            assert (remote["mode"], remote["cache_limit"], remote["pending_limit"]) == (
                "write-through",
                64 << 20,
                32 << 20,
            )
            for command, word in (("pin", "pinned"), ("unpin", "unpinned"), ("prefetch", "fetched")):
                told = json.loads(said(command, "--repo", "/studio/game", "--json", "--store", store))
                assert told == {word: 1, "failed": []}
        machine = json.loads((store / "lfsfs.json").read_text())["id"]
        store.rename(tmp_path / "lost")
        again = json.loads(said("index", "rebuild", "--store", store, *place, "--as", machine, "--json"))
        assert again["objects"] == 1
        assert json.loads((store / "lfsfs.json").read_text())["id"] == machine
        said("get", oid, "--output", tmp_path / "back", "--store", store)
        assert (tmp_path / "back").read_bytes() == b"the same again and again " * 4000
    finally:
        for name in keys:
            del os.environ[name]


@pytest.mark.slow
def test_an_export_takes_the_credentials_of_a_file(tmp_path: Path, bucket: Server) -> None:
    store, file = tmp_path / "store", tmp_path / "lfsfs.toml"
    with lfsfs.connect(store, create=True):
        (tmp_path / "f").write_bytes(b"exported")
    said("put", tmp_path / "f", "--store", store)
    named = {"access_key_id": bucket.access_key_id, "secret_access_key": bucket.secret_access_key}
    file.write_text("[s3]\n" + "".join(f'{name} = "{value}"\n' for name, value in named.items()))
    file.chmod(0o600)
    target = f"s3://{bucket.bucket}/exported"
    none = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    said("export", target, "--s3-endpoint", bucket.endpoint, "--config", file, "--store", store, **none)
    with bucket.client() as client:
        listed = client.list_objects_v2(Bucket=bucket.bucket, Prefix="exported/")["Contents"]
    assert [entry["Key"].rpartition("/")[2] for entry in listed] == [oid_of(b"exported")]


@pytest.mark.slow
def test_a_clone_without_a_server_pushes_into_an_encrypted_bucket(tmp_path: Path, bucket: Server) -> None:
    said("key", "new", tmp_path / "key")
    keys = {"AWS_ACCESS_KEY_ID": bucket.access_key_id, "AWS_SECRET_ACCESS_KEY": bucket.secret_access_key}
    key = f"file:{tmp_path / 'key'}"
    place = ("--s3", f"s3://{bucket.bucket}/agent", "--s3-endpoint", bucket.endpoint, "--encryption-key", key)
    subprocess.run(["git", "init", "-q", tmp_path / "clone"], check=True)
    said("attach", tmp_path / "clone", "--serverless", *place, **keys)
    configured = subprocess.check_output(["git", "-C", tmp_path / "clone", "config", "--list"], text=True)
    assert key in configured
    content = b"pushed by the agent " * 500
    (tmp_path / "object").write_bytes(content)
    events = [
        {"event": "init", "operation": "upload", "remote": "origin", "concurrent": False},
        {"event": "upload", "oid": oid_of(content), "size": len(content), "path": str(tmp_path / "object")},
        {"event": "terminate"},
    ]
    agent = subprocess.run(
        [LFSFS, "transfer-agent", *place, "--repository", "studio/game"], capture_output=True, text=True, timeout=60,
        input="".join(json.dumps(event) + "\n" for event in events), cwd=tmp_path / "clone", env=os.environ | keys,
    )  # fmt: skip
    answers = [json.loads(line) for line in agent.stdout.splitlines()]
    assert {"event": "complete", "oid": oid_of(content)} in answers, agent
    with bucket.client() as client:
        listed = client.list_objects_v2(Bucket=bucket.bucket, Prefix="agent/")["Contents"]
        bodies = [client.get_object(Bucket=bucket.bucket, Key=one["Key"])["Body"].read() for one in listed]
    assert not any(b"pushed by the agent" in body for body in bodies), "nothing lies there plain"


@pytest.mark.slow
def test_verify_by_digests_in_some_threads_for_a_time(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (tmp_path / "f").write_bytes(os.urandom(3_000_000))
    said("serve", store, "--listen", f"unix:{tmp_path}/s")
    said("serve", store, "--stop")
    oid = said("put", tmp_path / "f", "--store", store).split()[0]
    for options in (("--quick",), ("--parallel", "2"), ("--time", "1m"), ("--s3-bytes",)):
        found = json.loads(said("verify", *options, "--json", "--store", store))
        assert found["sound"] and found["checked"] == 1, options
    file = next((store / "objects").rglob(oid))
    file.chmod(0o644)
    with file.open("r+b") as damaged:
        damaged.seek(2_000_000)
        damaged.write(b"damage")
    assert main(["verify", "--quick", "--parallel", "1", "--store", str(store)]) == 1


def test_users_are_those_of_the_file_that_config_names(tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "lfsfs.toml"
    file.write_text(f'[access]\nusers = "{tmp_path / "others.toml"}"\n')
    there = ("--store", store, "--config", file)
    said("user", "add", "ada", "--no-password", "--role", "write=studio/*", *there)
    said("user", "revoke", "ada", "studio/*", *there)
    said("user", "token", "ada", "--name", "for the build", *there)
    (ada,) = json.loads(said("user", "ls", "--json", *there))
    assert (ada["roles"], ada["tokens"][0]["name"]) == ({}, "for the build")
    assert (tmp_path / "others.toml").exists() and not (store / "users.toml").exists()
    refused = said("ssh-session", "--user", "ada", *there, status=4, SSH_ORIGINAL_COMMAND="rm -rf /")
    assert "Traceback" not in refused
