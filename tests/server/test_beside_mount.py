"""The server in the daemon of a mount: a push moves nothing that the mount has."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from gitlfs.bench import Clone
from gitlfs.mounted import Mount, lfsfs

from .clones import Team
from .doors import self_signed
from .served import Api, free_port, oid_of, refused

pytestmark = [pytest.mark.mount, pytest.mark.slow]
_random = random.Random("beside a mount")


class MountServing(Mount):
    """A mount with a server on a port of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        super().__init__(folder, "--listen", f"127.0.0.1:{self.port}", *options)

    def url(self, repository: str) -> str:
        return f"http://127.0.0.1:{self.port}/{repository}"

    def requests(self, method: str) -> int:
        return self.log().count(f" {method} /")


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountServing]:
    with MountServing(tmp_path_factory.mktemp("mount")) as mount:
        yield mount


def attached(people: Team, name: str, mount: Mount, url: str) -> Clone:
    clone = people.first(name)
    clone.git("config", "--unset", "lfs.url")
    said = lfsfs("attach", clone.path, "--mount", mount.path, "--url", url)
    assert f"{url}.git/info/lfs" in said
    assert clone.git("config", "lfs.url").strip() == f"{url}.git/info/lfs"
    return clone


def test_a_push_from_the_mount_moves_no_bytes_and_others_can_pull(
    team: Callable[[str], Team], mount: MountServing
) -> None:
    url = mount.url("studio/game")
    people = team(f"{url}.git/info/lfs")
    ann = attached(people, "ann", mount, url)
    files = {f"{number}.bin": _random.randbytes(100_000) for number in range(5)}
    ann.commit(files)
    ann.git("push", "-q", "-u", "origin", "main")
    assert mount.requests("PUT") == 0
    bob = people.clone("bob")
    bob.git("checkout", "-q", "main")
    assert {name: bob.read(name) for name in files} == files
    assert mount.requests("GET") == len(files)


def test_a_prune_of_the_clone_leaves_the_server_its_objects(
    team: Callable[[str], Team], mount: MountServing
) -> None:
    url = mount.url("studio/pruned")
    people = team(f"{url}.git/info/lfs")
    ann = attached(people, "ann", mount, url)
    old = ann.commit({"a.bin": _random.randbytes(50_000)})["a.bin"]
    ann.commit({"a.bin": _random.randbytes(50_000)})
    ann.git("push", "-q", "-u", "origin", "main")
    ann.git(
        "-c", "lfs.fetchrecentrefsdays=0", "-c", "lfs.pruneoffsetdays=0", "lfs", "prune", "--verify-remote"
    )
    root = Path(ann.git("config", "lfs.storage").strip())
    assert old not in {path.name for path in (root / "objects").rglob("*")}
    assert "actions" in Api(f"{url}.git/info/lfs").asked("download", old, 50_000)


def test_what_the_mount_has_for_another_repository_is_to_be_uploaded(mount: MountServing) -> None:
    content = b"dropped into incoming/, and no repository's"
    (mount.path / "incoming" / "file").write_bytes(content)
    api = Api(f"{mount.url('studio/stranger')}.git/info/lfs")
    assert "actions" in api.asked("upload", oid_of(content), len(content))
    assert api.asked("download", oid_of(content), len(content))["error"]["code"] == 404


def test_detach_takes_the_url_back(team: Callable[[str], Team], mount: MountServing) -> None:
    url = mount.url("studio/left")
    ann = attached(team(url), "ann", mount, url)
    lfsfs("detach", ann.path)
    assert ann.run("config", "lfs.url").status == 1


def test_a_url_that_nobody_answers_changes_nothing(team: Callable[[str], Team], mount: MountServing) -> None:
    ann = team("unused").first("ann")
    said = refused("attach", ann.path, "--mount", mount.path, "--url", f"http://127.0.0.1:{free_port()}/a/b")
    assert "does not answer" in said
    assert ann.run("config", "lfs.storage").status == 1


@pytest.mark.parametrize("url", ["ftp://h/a/b", "http://h", "http://h/a/../b", "http://u:p@h/a", "http://h/a?x"],
                         ids=["scheme", "nothing", "dots", "password", "query"])  # fmt: skip
def test_what_is_no_url_of_a_repository_is_refused(url: str) -> None:
    assert "lfsfs" in refused("attach", "--url", url)


def test_why_names_the_servers_repository(mount: MountServing) -> None:
    content = b"uploaded to the server of a mount"
    oid = Api(f"{mount.url('studio/why')}.git/info/lfs").put(content)
    assert (mount.path / ".lfsfs" / "why" / oid).read_text() == "/studio/why refers to it\n"
    assert "studio" not in " ".join(path.name for path in (mount.path / "repos").iterdir())
    assert (mount.path / "objects" / oid[:2] / oid[2:4] / oid).read_bytes() == content


def test_the_state_of_the_daemon_says_where_it_listens(mount: MountServing) -> None:
    state = json.loads((mount.store / "daemon.json").read_text())
    assert state["listen"] == [f"http://127.0.0.1:{mount.port}"]
    assert "mounted" in refused("serve", mount.store, "--stop")
    assert "one daemon serves a store" in refused("serve", mount.store, "--listen", "127.0.0.1:0")


def test_the_server_of_a_mount_speaks_tls(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with MountServing(
        tmp_path / "own", "--tls-certificate", str(certificate), "--tls-key", str(key)
    ) as mount:
        said = requests.get(f"https://127.0.0.1:{mount.port}/healthz", timeout=30, verify=str(certificate))
        assert said.text == "ok\n"
