"""Stock git-lfs against the server."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gitlfs.bench import MIB, Clone

from .clones import Team
from .doors import nginx, self_signed
from .relay import Relay
from .served import Served, free_port

Teams = Callable[[str], Team]
_random = random.Random("with git-lfs")


def blob(size: int = 50_000) -> bytes:
    return _random.randbytes(size)


def as_user(url: str, name: str) -> str:
    return url.replace("://", f"://{name}:any@")


@pytest.fixture(scope="module")
def behind_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a proxy before the unix socket of a server."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    socket = folder / "s"
    with Served(folder, "--listen", f"unix:{socket}"), nginx(folder, port, f"http://unix:{socket}:"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def over_tls(tmp_path_factory: pytest.TempPathFactory, git_env: dict[str, str]) -> Iterator[str]:
    """The URL of a server with a certificate that git trusts."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = self_signed(folder)
    git_env["GIT_SSL_CAINFO"] = str(certificate)
    with Served(folder, "--tls-certificate", certificate, "--tls-key", key) as served:
        yield served.url.replace("http:", "https:")
    del git_env["GIT_SSL_CAINFO"]


@pytest.fixture
def plain(served: Served, request: pytest.FixtureRequest) -> str:
    return f"{served.url}/git/{request.function.__name__}.git/info/lfs"


SLOW_DOORS = [pytest.param(door, marks=pytest.mark.slow) for door in ("behind_nginx", "over_tls")]


@pytest.fixture(params=["plain", *SLOW_DOORS])
def url(request: pytest.FixtureRequest) -> str:
    """The server by each of its doors."""
    found: str = request.getfixturevalue(request.param)
    return found if request.param == "plain" else f"{found}/git/{request.function.__name__}.git/info/lfs"


def checked_out(clone: Clone, name: str = "main") -> Clone:
    clone.git("checkout", "-q", name)
    return clone


def test_what_is_pushed_comes_back_in_a_clone(team: Teams, url: str) -> None:
    people = team(url)
    files = {"a.bin": blob(), "deep/b.bin": blob(3 * MIB), "empty.bin": b""}
    people.pushed("ann", files)
    bob = checked_out(people.clone("bob"))
    assert {name: bob.read(name) for name in files} == files
    assert bob.git("lfs", "fsck").startswith("Git LFS fsck OK")


def test_pull_brings_what_came_since(team: Teams, url: str) -> None:
    people = team(url)
    ann, _ = people.pushed("ann", {"a.bin": blob()})
    bob = checked_out(people.clone("bob"))
    ann.commit({"a.bin": (content := blob())})
    ann.git("push", "-q")
    bob.git("pull", "-q")
    assert bob.read("a.bin") == content


def test_a_second_push_of_the_same_moves_nothing(team: Teams, plain: str, served: Served) -> None:
    people = team(plain)
    ann, oids = people.pushed("ann", {"a.bin": blob()})
    puts = served.log().count(f"PUT /git/{plain.split('/')[-3]}/info/lfs/objects/{oids['a.bin']}")
    assert puts == 1
    ann.git("lfs", "push", "--all", "origin")
    assert served.log().count(f"PUT /git/{plain.split('/')[-3]}/info/lfs/objects/{oids['a.bin']}") == 1


def test_tus_is_used_where_the_client_wants_it(team: Teams, plain: str, served: Served) -> None:
    people = team(plain)
    ann = people.first("ann", tustransfers="true", basictransfersonly="false")
    content = blob()
    oids = ann.commit({"a.bin": content})
    ann.git("push", "-q", "-u", "origin", "main")
    assert "PATCH" in next(
        line for line in served.log().splitlines() if f"uploads/{oids['a.bin']}" in line and "PATCH" in line
    )
    assert checked_out(people.clone("bob")).read("a.bin") == content


def test_lock_and_unlock(team: Teams, url: str) -> None:
    people = team(as_user(url, "ann"))
    ann, _ = people.pushed("ann", {"a.bin": blob(), "b.bin": blob()})
    bob = people.clone("bob", url=as_user(url, "bob"))
    checked_out(bob)
    assert "Locked a.bin" in ann.git("lfs", "lock", "a.bin")
    assert "already locked by ann" in bob.fails("lfs", "lock", "a.bin")
    assert bob.git("lfs", "locks").startswith("a.bin\tann\tID:")
    assert ann.git("lfs", "locks", "--verify").startswith("O a.bin\tann")
    assert "a.bin" in bob.fails("lfs", "unlock", "a.bin")
    assert "Unlocked a.bin" in bob.git("lfs", "unlock", "--force", "a.bin")
    assert ann.git("lfs", "locks") == ""


def test_a_push_of_what_another_has_locked_is_refused(team: Teams, url: str) -> None:
    people = team(as_user(url, "ann"))
    ann, _ = people.pushed("ann", {"a.bin": blob()})
    bob = checked_out(people.clone("bob", url=as_user(url, "bob")))
    ann.git("lfs", "lock", "a.bin")
    bob.commit({"a.bin": blob()})
    assert "Unable to push locked files" in bob.fails("push", "-q", "origin", "main")
    ann.git("lfs", "unlock", "a.bin")
    bob.git("push", "-q", "origin", "main")


def test_prune_asks_the_server(team: Teams, url: str) -> None:
    people = team(url)
    ann, old = people.pushed("ann", {"a.bin": blob()})
    ann.commit({"a.bin": blob()})
    ann.git("push", "-q")
    recent = ("-c", "lfs.fetchrecentrefsdays=0", "-c", "lfs.pruneoffsetdays=0")
    ann.git(*recent, "lfs", "prune", "--verify-remote")
    assert old["a.bin"] not in ann.objects()
    ann.git("lfs", "fetch", "--all", "origin")
    assert old["a.bin"] in ann.objects()


def test_a_download_goes_on_after_a_cut_connection(
    team: Teams, served: Served, request: pytest.FixtureRequest
) -> None:
    path = f"/git/{request.node.name}.git/info/lfs"
    people = team(served.url + path)
    content = blob(8 * MIB)
    _, oids = people.pushed("ann", {"a.bin": content})
    with Relay(served.port) as relay:
        bob = people.clone("bob", url=f"http://127.0.0.1:{relay.port}{path}")
        relay.cut_after(3 * MIB)
        checked_out(bob)
    assert bob.read("a.bin") == content
    answers = [line for line in served.log().splitlines() if f"GET {path}/objects/{oids['a.bin']}" in line]
    assert any(" 206 " in line for line in answers), answers


@pytest.mark.slow
def test_an_expired_action_is_asked_for_again(team: Teams, tmp_path: Path) -> None:
    """git-lfs takes an action for expired five seconds early."""
    config = '[server]\naction_lifetime = "7s"\n'
    with Served(tmp_path / "short", config=config) as served, Relay(served.port) as relay:
        people = team(f"http://127.0.0.1:{relay.port}/short/lived.git/info/lfs")
        ann = people.first("ann", concurrenttransfers="1")
        ann.commit(files := {"a.bin": blob(), "b.bin": blob()})
        relay.delay(b"PUT ", 2.5)
        ann.git("push", "-q", "-u", "origin", "main")
        assert served.log().count("objects/batch") == 2
        bob = checked_out(people.clone("bob"))
        assert {name: bob.read(name) for name in files} == files


@pytest.mark.slow
def test_a_push_lives_through_a_restart_of_the_server(team: Teams, tmp_path: Path) -> None:
    with Served(tmp_path / "restarted") as served:
        people = team(f"{served.url}/a/b.git/info/lfs")
        ann = people.first("ann")
        files = {f"{number}.bin": blob(MIB) for number in range(5)}
        ann.commit(files)
        served.kill()
        assert ann.run("push", "-q", "-u", "origin", "main").status != 0
        served.start()
        ann.git("push", "-q", "-u", "origin", "main")
        bob = checked_out(people.clone("bob"))
        assert {name: bob.read(name) for name in files} == files
