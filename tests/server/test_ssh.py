"""Stock git-lfs over SSH: with nothing else, and with the HTTP API that git-lfs-authenticate opens."""

import base64
import json
import random
import subprocess
import time
from pathlib import Path

import pytest
import requests
from gitlfs.bench import GIT_SECONDS
from gitlfs.mounted import LFSFS

from lfsfs.cli.main import main
from lfsfs.server.access import editing
from lfsfs.store.layout import open_layout

from .served import LFS_JSON, Served
from .ssh import SshHost
from .test_ssh_session import CONTENT, OID, Answer, answers, message, put

PEOPLE = {"alice": "admin", "bob": "write", "rita": "read", "carol": None}
GAME = "studio/game"
_random = random.Random("ssh")


def blob(size: int = 200_000) -> bytes:
    return _random.randbytes(size)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "host" / "store"
    path.mkdir(parents=True)
    for name, role in PEOPLE.items():
        editing.add_user(path / "users.toml", name, None)
        if role is not None:
            editing.grant(path / "users.toml", name, role, "studio/*")
    open_layout(path, create=True)
    return path


@pytest.fixture
def host(tmp_path: Path, store: Path, git_env: dict[str, str]) -> SshHost:
    host = SshHost(tmp_path / "host", store, git_env)
    host.repository(GAME)
    return host


@pytest.mark.slow
def test_ssh_is_all_that_a_team_needs(host: SshHost) -> None:
    host.verify_locks = True
    alice = host.first("alice", GAME)
    files = {"a.bin": blob(), "deep/b c.bin": blob(2_000_000), "empty.bin": b""}
    alice.commit(files)
    alice.git("push", "-q", "-u", "origin", "main")
    bob = host.clone("bob", GAME)
    assert {name: bob.read(name) for name in files} == files
    bob.git("lfs", "lock", "a.bin")
    alice.commit({"a.bin": blob()})
    said = alice.fails("push", "-q")
    assert "a.bin" in said
    assert "bob" in said
    bob.git("lfs", "unlock", "a.bin")
    alice.git("push", "-q")
    assert "git-lfs-authenticate" not in host.log


@pytest.mark.slow
def test_an_object_that_is_missing_fails_the_fetch_that_needs_it(host: SshHost) -> None:
    alice = host.first("alice", GAME)
    (oid,) = alice.commit({"a.bin": blob()}).values()
    alice.git("push", "-q", "--no-verify", "origin", "main")
    rita = host.clone("rita", GAME, GIT_LFS_SKIP_SMUDGE="1")
    said = rita.fails("lfs", "fetch")
    assert "404" in said
    assert oid in said
    alice.git("lfs", "push", "--all", "origin")
    rita.git("lfs", "fetch")
    assert oid in rita.objects()


@pytest.mark.slow
def test_a_key_opens_what_its_user_may_and_nothing_else(host: SshHost) -> None:
    alice = host.first("alice", GAME)
    alice.commit({"a.bin": blob()})
    alice.git("push", "-q", "-u", "origin", "main")
    rita = host.clone("rita", GAME)
    rita.commit({"a.bin": blob()})
    assert "rita may not write in studio/game" in rita.fails("push", "-q")
    rita.fails("lfs", "lock", "a.bin")
    assert alice.git("lfs", "locks") == ""
    with pytest.raises(AssertionError, match="no repository studio/game"):
        host.clone("carol", GAME)


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "sh",
        "git-lfs-transfer",
        "git-lfs-transfer studio/game",
        "git-lfs-transfer studio/game upload; id",
        "git-lfs-transfer 'studio/game upload",
        "git-lfs-transfer studio/game destroy",
        "git-lfs-transfer /etc/../studio/game download",
        "git-lfs-authenticate ~root/game download",
        "git-upload-pack --upload-pack=id studio/game",
        "git-upload-pack '../secret.git'",
        "git-upload-pack '--help'",
        "git-receive-pack other/film.git",
        "git-shell -c id",
        "scp -f /etc/passwd",
    ],
    ids=range(15),
)
def test_whatever_else_is_asked_for_a_key_is_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", asked)
    assert main(["ssh-session", "--store", str(store), "--user", "alice"]) in (2, 3, 4)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("lfsfs: ")
    assert printed.err.count("\n") == 1


def test_ssh_and_a_running_server_have_the_same_objects_and_locks(store: Path, tmp_path: Path) -> None:
    editing.set_password(store / "users.toml", "bob", "battery")
    with Served(tmp_path / "host") as served:
        said = _transferred(store, "alice", "upload", put(), message("lock", "path=a.bin"), message("quit"))
        assert [one.status for one in said] == [200, 201, 200]
        auth = {"Authorization": f"Basic {base64.b64encode(b'bob:battery').decode()}"}
        api = served.api(GAME)
        assert api.get(f"objects/{OID}", headers=auth).content == CONTENT
        (lock,) = api.post("locks/verify", {}, headers=auth).json()["theirs"]
        assert (lock["path"], lock["owner"]) == ("a.bin", {"name": "alice"})
        taken = api.post("locks", {"path": "a.bin"}, headers=auth)
        assert taken.status_code == 409
        got, ended = _transferred(
            store, "alice", "download", message(f"get-object {OID}"), message(f"unlock {lock['id']}")
        )
        assert got.content == CONTENT
        assert ended.status == 200
        assert api.post("locks", {"path": "a.bin"}, headers=auth).status_code == 201


def _transferred(store: Path, user: str, operation: str, *messages: bytes) -> list[Answer]:
    done = subprocess.run(
        [LFSFS.with_name("git-lfs-transfer"), GAME, operation],
        env={"LFSFS_STORE": str(store), "LFSFS_USER": user},
        input=b"".join(messages),
        capture_output=True,
        timeout=GIT_SECONDS,
        check=True,
    )
    return answers(done.stdout)


@pytest.mark.slow
def test_git_lfs_authenticate_opens_the_api_of_one_repository_for_a_while(
    host: SshHost, store: Path, tmp_path: Path
) -> None:
    (store / "lfsfs.toml").write_text('[access]\nssh_lifetime = "2s"\n')
    with Served(tmp_path / "host") as served:
        alice = host.first("alice", GAME, WITHOUT_TRANSFER="1")
        (oid,) = alice.commit({"a.bin": (content := blob())}).values()
        alice.git("push", "-q", "-u", "origin", "main")
        rita = host.clone("rita", GAME, WITHOUT_TRANSFER="1")
        assert rita.read("a.bin") == content
        assert f"PUT /{GAME}.git/info/lfs/objects/{oid}" in served.log()

        said = _authenticate(store, "rita", "download")
        assert said["href"] == f"{served.url}/{GAME}.git/info/lfs"
        assert said["expires_in"] == 2
        headers = {"Accept": LFS_JSON, "Content-Type": LFS_JSON, **said["header"]}
        assert _batch(said["href"], headers, "download") == 200
        assert _batch(said["href"], headers, "upload") == 403
        assert _batch(said["href"].replace("game", "film"), headers, "download") == 403
        assert requests.get(f"{said['href']}/objects/{oid}", headers=headers, timeout=30).content == content
        time.sleep(3)
        assert _batch(said["href"], headers, "download") in (401, 403)
    environment = {"LFSFS_STORE": str(store), "LFSFS_USER": "rita"}
    assert "may not write" in _said(["git-lfs-authenticate", GAME, "upload"], environment)


def _authenticate(store: Path, user: str, operation: str) -> dict[str, object]:
    environment = {"LFSFS_STORE": str(store), "LFSFS_USER": user}
    found: dict[str, object] = json.loads(_said(["git-lfs-authenticate", GAME, operation], environment))
    return found


def _said(command: list[str], environment: dict[str, str]) -> str:
    program = LFSFS.with_name(command[0])
    done = subprocess.run(
        [program, *command[1:]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=GIT_SECONDS,
        check=False,
    )
    return done.stdout + done.stderr


def _batch(url: object, headers: dict[str, str], operation: str) -> int:
    body = json.dumps({"operation": operation, "objects": []})
    return requests.post(f"{url}/objects/batch", data=body, headers=headers, timeout=30).status_code
