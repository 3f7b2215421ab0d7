"""No server at all: git-lfs and the transfer agent on a store, and on a bucket that several machines share."""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gitlfs.bench import GIT_SECONDS, KIB, MIB, file_in, git_environment, oid_of, oids_in
from gitlfs.mounted import LFSFS
from server.served import Served

from .machines import Place
from .proxy import Proxy
from .servers import Server

ENDED_SECONDS = 30


def run(*command: str | Path, cwd: Path, env: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
    )


class Computer:
    """One of several, with a home directory, and so with git settings and an lfsfs state, of its own."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.env = git_environment(folder / "home") | {
            "AWS_ACCESS_KEY_ID": server.access_key_id,
            "AWS_SECRET_ACCESS_KEY": server.secret_access_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            "XDG_STATE_HOME": str(folder / "state"),
            "PATH": f"{LFSFS.parent}:{os.environ['PATH']}",
        }
        self.does("git", "config", "--global", "lfs.concurrenttransfers", "3")  # agents at once

    def does(self, *command: str | Path, at: Path | None = None) -> str:
        """Runs it, which has to succeed; everything it printed."""
        done = run(*command, cwd=at or self.folder, env=self.env)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def fails(self, *command: str | Path, at: Path | None = None) -> str:
        done = run(*command, cwd=at or self.folder, env=self.env)
        assert done.returncode != 0, f"{command} succeeds: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def repository(self, remote: Path, files: Mapping[str, bytes]) -> Path:
        """A new repository with a commit of these files."""
        path = self.folder / "work"
        self.does("git", "init", "-q", path)
        self.does("git", "remote", "add", "origin", remote, at=path)
        self.does("git", "lfs", "track", "*.bin", at=path)
        for name, content in files.items():
            (path / name).write_bytes(content)
        self.does("git", "add", "-A", at=path)
        self.does("git", "commit", "-qm", "a commit", at=path)
        return path

    def clone(self, remote: Path, name: str, *agent: str) -> Path:
        """The first clone, as docs/SERVERLESS.md has it."""
        self.does(
            "git", "clone", "-q", "-c", "lfs.standalonetransferagent=lfsfs", "-c", "lfs.customtransfer.lfsfs.path=lfsfs",
            "-c", f"lfs.customtransfer.lfsfs.args=transfer-agent {shlex.join(agent)}", remote, name,
        )  # fmt: skip
        return self.folder / name


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A git remote that knows nothing of LFS."""
    path = tmp_path / "game.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", path], check=True)
    return path


def place_in(server: Server, endpoint: str = "") -> tuple[Place, list[str]]:
    """A place of its own in the bucket, and the agent's arguments for it."""
    prefix = server.options().url.prefix
    place = Place(server, endpoint or server.endpoint, prefix)
    return place, ["--s3", place.url, "--s3-endpoint", place.endpoint]


def blobs() -> dict[str, bytes]:
    return {"a.bin": os.urandom(10 * KIB), "b.bin": os.urandom(3 * MIB), "c.bin": b"c" * 100}


def oids(files: Mapping[str, bytes]) -> set[str]:
    return {oid_of(content) for content in files.values()}


# A bucket and nothing else.


@pytest.mark.slow
def test_a_team_with_a_bucket_needs_no_server(moto_server: Server, remote: Path, tmp_path: Path) -> None:
    place, arguments = place_in(moto_server)
    ann, bob, files = (
        Computer(tmp_path / "ann", moto_server),
        Computer(tmp_path / "bob", moto_server),
        blobs(),
    )
    work = ann.repository(remote, files)
    ann.does("lfsfs", "attach", work, "--serverless", *arguments)
    ann.does("git", "push", "-q", "origin", "main", at=work)
    assert place.oids() == oids(files)
    assert place.damaged() == set()

    clone = bob.clone(remote, "clone", *arguments)
    assert {name: (clone / name).read_bytes() for name in files} == files
    (clone / "d.bin").write_bytes(b"bob's")
    bob.does("git", "add", "-A", at=clone)
    bob.does("git", "commit", "-qm", "bob's", at=clone)
    bob.does("git", "push", "-q", "origin", "main", at=clone)
    ann.does("git", "pull", "-q", "origin", "main", at=work)
    assert (work / "d.bin").read_bytes() == b"bob's"

    for computer in (
        ann,
        bob,
    ):  # nothing but the index stays on the machine, and each tells the others what it refers to
        (store,) = (computer.folder / "state" / "lfsfs").iterdir()
        assert oids_in(store / "objects") == set()
    with moto_server.client() as client:
        found = client.list_objects_v2(Bucket=moto_server.bucket, Prefix=f"{place.prefix}/machines/")[
            "Contents"
        ]
    assert len(found) == 2
    repositories = [json.loads(read(moto_server, item["Key"]))["repositories"].values() for item in found]
    assert [list(names) for names in repositories] == [
        ["/" + "/".join(remote.with_suffix("").parts[-2:])]
    ] * 2


def read(server: Server, key: str) -> bytes:
    with server.client() as client:
        return bytes(client.get_object(Bucket=server.bucket, Key=key)["Body"].read())


@pytest.mark.slow
def test_what_waited_for_its_upload_is_in_the_bucket_when_the_push_ends(
    moto_server: Server, remote: Path, tmp_path: Path
) -> None:
    place, arguments = place_in(moto_server)
    ann, files = Computer(tmp_path / "ann", moto_server), blobs()
    work, store = ann.repository(remote, files), tmp_path / "store"
    ann.does("lfsfs", "index", "rebuild", "--store", store, *arguments)  # makes it, with its bucket
    ann.does("lfsfs", "put", "--store", store, work / "b.bin")  # write-back: there is no daemon to upload it
    assert place.oids() == set()
    ann.does("lfsfs", "attach", work, "--serverless", "--store", store)
    ann.does("git", "push", "-q", "origin", "main", at=work)
    assert place.oids() == oids(files)


def test_a_cut_connection_is_gone_on_with(
    rgw_server: Server, proxy: Proxy, remote: Path, tmp_path: Path
) -> None:
    _, arguments = place_in(rgw_server, proxy.endpoint)
    ann, bob = Computer(tmp_path / "ann", rgw_server), Computer(tmp_path / "bob", rgw_server)
    files = {"large.bin": os.urandom(24 * MIB)}
    work = ann.repository(remote, files)
    ann.does("lfsfs", "attach", work, "--serverless", *arguments)
    proxy.fault(method="PUT", path="partNumber=1", reset_request_after=MIB)
    ann.does("git", "push", "-q", "origin", "main", at=work)
    before = proxy.counters()["bytes down"]
    for _ in range(3):
        proxy.fault(method="GET", path="/objects/", reset_reply_after=2 * MIB)
    clone = bob.clone(remote, "clone", *arguments)
    assert (clone / "large.bin").read_bytes() == files["large.bin"]
    assert proxy.counters()["bytes down"] - before < 32 * MIB, "began anew"


# Locks without a server: each machine serves those of the bucket to itself.


@contextmanager
def serving(folder: Path, owner: str, server: Server, place: Place) -> Iterator[Served]:
    """`lfsfs serve` on the loopback of a machine."""
    config = (
        f'[s3]\nurl = "{place.url}"\nendpoint = "{place.endpoint}"\naccess_key_id = "{server.access_key_id}"\n'
        f'secret_access_key = "{server.secret_access_key}"\n[server]\nowner = "{owner}"\n'
    )
    with Served(folder, config=config) as served:
        yield served


def test_two_machines_that_lock_one_file_and_push(rgw_server: Server, remote: Path, tmp_path: Path) -> None:
    place, arguments = place_in(rgw_server)
    ann, bob = Computer(tmp_path / "ann", rgw_server), Computer(tmp_path / "bob", rgw_server)
    with (
        serving(tmp_path / "anns", "ann", rgw_server, place) as anns,
        serving(tmp_path / "bobs", "bob", rgw_server, place) as bobs,
    ):
        works = {}
        for computer, served in ((ann, anns), (bob, bobs)):
            if computer is ann:
                work = ann.repository(remote, {"a.bin": b"a" * KIB, "b.bin": b"b" * KIB})
            else:
                work = bob.clone(remote, "work", *arguments)
            url = f"{served.url}/studio/game"
            computer.does("lfsfs", "attach", work, "--serverless", *arguments, "--url", url)
            if computer is ann:
                ann.does("git", "push", "-q", "-u", "origin", "main", at=work)
            works[computer] = work
        racing = [
            subprocess.Popen(
                ["git", "lfs", "lock", "a.bin"], cwd=works[computer], env=computer.env,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for computer in (ann, bob)
        ]  # fmt: skip
        said = [process.communicate(timeout=GIT_SECONDS)[0] for process in racing]
        assert sorted(process.returncode != 0 for process in racing) == [False, True], said
        winner, loser = (ann, bob) if racing[0].returncode == 0 else (bob, ann)
        name = "ann" if winner is ann else "bob"
        assert f"already locked by {name}" in said[1 if winner is ann else 0]
        for computer in (ann, bob):
            assert f"a.bin\t{name}\tID:" in computer.does("git", "lfs", "locks", at=works[computer])
        assert "is locked by" in loser.fails("git", "lfs", "unlock", "a.bin", at=works[loser])

        (works[loser] / "a.bin").write_bytes(b"changed")
        loser.does("git", "commit", "-qam", "over a lock", at=works[loser])
        loser.does("git", "config", "--unset", "lfs.standalonetransferagent", at=works[loser])
        loser.does("git", "config", "lfs.locksverify", "true", at=works[loser])
        assert f"a.bin - {name}" in loser.fails("git", "push", "origin", "main", at=works[loser])
        winner.does("git", "lfs", "unlock", "a.bin", at=works[winner])
        loser.does("git", "push", "-q", "origin", "main", at=works[loser])


# A store of this machine.


class Talk:
    """A talk with an agent, as git-lfs leads it."""

    def __init__(self, clone: Path, env: Mapping[str, str], *arguments: str | Path) -> None:
        self._process = subprocess.Popen(
            [LFSFS, "transfer-agent", *arguments],
            cwd=clone,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=ENDED_SECONDS)
        assert self._process.returncode == 0

    def say(self, **event: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(event).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, **event: Any) -> tuple[list[Any], Any]:
        """The progress events, and what came after them."""
        self.say(**event)
        heard = [self.hear()]
        while heard[-1].get("event") == "progress":
            heard.append(self.hear())
        return heard[:-1], heard[-1]


@pytest.mark.slow
def test_the_agent_speaks_the_protocol_and_takes_no_wrong_bytes(
    moto_server: Server, remote: Path, tmp_path: Path
) -> None:
    ann = Computer(tmp_path / "ann", moto_server)
    content = os.urandom(5 * MIB // 2)
    work, store, oid = ann.repository(remote, {"a.bin": content}), tmp_path / "store", oid_of(content)
    ann.does("lfsfs", "put", "--store", made(store), "/dev/null")
    there = file_in(work / ".git/lfs/objects", oid)
    wrong = tmp_path / "wrong"
    wrong.write_bytes(content[:-1] + b"?")
    with Talk(work, ann.env, "--store", store, "--repository", "studio/game") as talk:
        init = {
            "event": "init",
            "operation": "upload",
            "remote": "origin",
            "concurrent": True,
            "concurrenttransfers": 8,
        }
        assert talk.ask(**init) == ([], {})
        upload = {"event": "upload", "oid": oid, "size": len(content), "action": None}
        _, refused = talk.ask(**upload, path=str(wrong))
        assert refused["oid"] == oid
        assert refused["error"]["code"] == 422
        _, absent = talk.ask(event="download", oid=oid, size=len(content), action=None)
        assert absent["error"]["code"] == 404
        told, done = talk.ask(**upload, path=str(there))
        assert done == {"event": "complete", "oid": oid}
        assert told[-1]["bytesSoFar"] == len(content) == sum(event["bytesSinceLast"] for event in told)
        assert len(told) == 3
        assert talk.ask(**upload, path="/nowhere") == ([], done), "what is there is not sent again"
        _, got = talk.ask(event="download", oid=oid, size=len(content), action=None)
        assert Path(got["path"]).read_bytes() == content
        assert Path(got["path"]).parent == work / ".git/lfs/tmp"
        talk.say(event="terminate")
    assert "/studio/game refers to it" in ann.does("lfsfs", "stat", "--store", store, oid)


def made(store: Path) -> Path:
    from lfsfs.store.layout import open_layout

    open_layout(store, create=True)
    return store


@pytest.mark.slow
def test_attach_without_a_server_is_undone_by_detach(
    moto_server: Server, remote: Path, tmp_path: Path
) -> None:
    ann, files = Computer(tmp_path / "ann", moto_server), blobs()
    work, store = ann.repository(remote, files), made(tmp_path / "a store")
    before = ann.does("git", "config", "--local", "--list", at=work)
    ann.does("lfsfs", "attach", work, "--serverless", "--store", store)
    ann.does("git", "push", "-q", "origin", "main", at=work)
    assert oids_in(store / "objects") == oids(files)
    ann.does("lfsfs", "detach", work)
    assert ann.does("git", "config", "--local", "--list", at=work) == before
    assert "go with --serverless" in ann.fails("lfsfs", "attach", work, "--store", store)
    ann.does("git", "config", "lfs.standalonetransferagent", "another", at=work)
    assert "is set to another" in ann.fails("lfsfs", "attach", work, "--serverless", "--store", store)
